"""Euler's method: first order, one call of the velocity a step.

Source: what INRFlow samples images with, 100 steps (arXiv:2412.03791, appendix A.1).
"""

from __future__ import annotations

from inrflow_core.samplers._fixed_steps import Config, Tableau, runge_kutta_step, time_grid

__all__ = ["Config", "step", "time_grid"]

ORDER = 1
NFE_PER_STEP = NFE_PER_REPLAY = 1
IS_STOCHASTIC = USES_PATH = IS_ADAPTIVE = False

step = runge_kutta_step(Tableau(nodes=(0.0,), stages=((),), weights=(1.0,)))
