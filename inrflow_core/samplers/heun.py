"""Heun's method: second order, two calls of the velocity a step, at both ends.

Source: Karras et al. 2022, arXiv:2206.00364, algorithm 1, without its last Euler step: here the velocity is finite at
both ends of time.
"""

from __future__ import annotations

from inrflow_core.samplers._fixed_steps import Config, Tableau, runge_kutta_step, time_grid

__all__ = ["Config", "step", "time_grid"]

ORDER = 2
NFE_PER_STEP = NFE_PER_REPLAY = 2
IS_STOCHASTIC = USES_PATH = IS_ADAPTIVE = False

step = runge_kutta_step(Tableau(nodes=(0.0, 1.0), stages=((), (1.0,)), weights=(0.5, 0.5)))
