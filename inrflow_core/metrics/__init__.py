"""Metrics: one number from samples and reference data, one file for each."""
