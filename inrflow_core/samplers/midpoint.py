"""The midpoint method: second order, two calls of the velocity a step, at its start and halfway.

Source: Hairer, Norsett and Wanner, Solving Ordinary Differential Equations I, section II.1 (Runge's method).
"""

from __future__ import annotations

from inrflow_core.samplers._fixed_steps import Config, Tableau, runge_kutta_step, time_grid

__all__ = ["Config", "step", "time_grid"]

ORDER = 2
NFE_PER_STEP = NFE_PER_REPLAY = 2
IS_STOCHASTIC = USES_PATH = IS_ADAPTIVE = False

step = runge_kutta_step(Tableau(nodes=(0.0, 0.5), stages=((), (0.5,)), weights=(0.0, 1.0)))
