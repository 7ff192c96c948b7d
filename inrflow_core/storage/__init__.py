"""Write files atomically, lock them, and check their digests."""
