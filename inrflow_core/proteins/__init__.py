"""Residues and structures: read, write, align, superpose."""
