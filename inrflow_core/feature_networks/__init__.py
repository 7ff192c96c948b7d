"""Frozen networks with weights files: embed conditions, and extract the features that metrics compare."""
