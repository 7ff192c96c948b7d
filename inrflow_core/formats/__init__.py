"""Output formats: write samples, one file for each format."""
