"""Networks, one file for each that a preset can name."""
