"""Euler's method: first order, one call of the velocity a step.

Source: what INRFlow samples images with, 100 steps (arXiv:2412.03791, appendix A.1).
"""

from __future__ import annotations

from jaxtyping import Float, Float64
from torch import Tensor

from inrflow_core.numerics.solver import Velocity
from inrflow_core.samplers._fixed_steps import Config, time_grid

__all__ = ["Config", "time_grid", "step"]

ORDER = 1
NFE_PER_STEP = NFE_PER_REPLAY = 1
IS_STOCHASTIC = IS_ADAPTIVE = False


def step(
    velocity: Velocity, y: Float[Tensor, "B N C"], t: Float64[Tensor, " B"], t_next: Float64[Tensor, " B"]
) -> Float[Tensor, "B N C"]:
    """y at t_next, along the slope at t."""
    size = (t_next - t).to(y.dtype).view(-1, 1, 1)
    return y + size * velocity(y, t)
