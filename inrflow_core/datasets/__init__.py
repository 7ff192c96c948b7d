"""Data sets: read raw files as their authors distribute them, one file for each."""
