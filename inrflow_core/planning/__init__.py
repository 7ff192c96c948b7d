"""Estimate memory, FLOPs and time before a run."""
