"""Read and write samples: shards, folders and files."""
