"""Methods: how a model learns and generates, one file for each."""
