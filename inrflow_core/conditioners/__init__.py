"""Conditioners: turn a label, an image or a sequence into the embedding that a network is conditioned on."""
