"""The midpoint method: second order, two calls of the velocity a step.

Source: Hairer, Norsett and Wanner, Solving Ordinary Differential Equations I, section II.1 (Runge's method).
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
    """y at t_next, along the slope halfway."""
    size = (t_next - t).to(y.dtype).view(-1, 1, 1)
    halfway = y + size / 2 * velocity(y, t)
    return y + size * velocity(halfway, (t + t_next) / 2)
