"""Keyed random numbers, the noise field, paths, solvers and Gaussian statistics."""
