"""Heun's method: second order, two calls of the velocity a step.

Source: Karras et al. 2022, arXiv:2206.00364, algorithm 1, without its last Euler step: here the velocity is finite at
both ends of time.
"""

from __future__ import annotations

from jaxtyping import Float, Float64
from torch import Tensor

from inrflow_core.numerics.solver import Velocity
from inrflow_core.samplers._fixed_steps import Config, time_grid

__all__ = ["Config", "time_grid", "step"]

ORDER = 2
NFE_PER_STEP = NFE_PER_REPLAY = 2
IS_STOCHASTIC = IS_ADAPTIVE = False


def step(
    velocity: Velocity, y: Float[Tensor, "B N C"], t: Float64[Tensor, " B"], t_next: Float64[Tensor, " B"]
) -> Float[Tensor, "B N C"]:
    """y at t_next, along the mean of the slopes at both ends."""
    size = (t_next - t).to(y.dtype).view(-1, 1, 1)
    slope = velocity(y, t)
    slope_next = velocity(y + size * slope, t_next)
    return y + size * (slope + slope_next) / 2
