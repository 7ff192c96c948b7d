"""Samplers: one step of an ODE or SDE solver, one file for each."""
