"""HDF5 shards of coordinate-value sets, and their manifest."""
