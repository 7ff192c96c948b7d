"""Compute metrics of samples against reference data."""
