"""Generative models whose samples are functions from coordinates to values."""

__version__ = "0.1.0"
