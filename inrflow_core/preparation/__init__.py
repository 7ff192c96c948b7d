"""Turn raw files into shards: in parallel, resumable, the same bytes however it was divided."""
