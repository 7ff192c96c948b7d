"""Distances between two point clouds, one file for each."""
