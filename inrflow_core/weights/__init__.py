"""Weights: which there are and where, published files into converted ones, and checks of both."""
