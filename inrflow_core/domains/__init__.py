"""Domains: what a coordinate and a value are, one file for each."""
