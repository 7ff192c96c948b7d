"""DDIM without noise: the estimated data and their estimated noise, put together again at the next time.

Source: Song et al. 2021, arXiv:2010.02502, equation 12 with sigma = 0, for any path; DDMI samples images with 50 steps. It is
exact where data and noise stay what was estimated. On the linear path it is Euler's method.
"""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float, Float64
from torch import Tensor

from inrflow_core.numerics.paths import Path, trailing_times
from inrflow_core.numerics.solver import Velocity
from inrflow_core.samplers._denoising_steps import check_steps, recompose

ORDER = 1
NFE_PER_STEP = NFE_PER_REPLAY = 1
IS_STOCHASTIC = IS_ADAPTIVE = False
USES_PATH = True


@dataclass(frozen=True)
class Config:
    """Settings of DDIM."""

    steps: int = 50
    """Steps from noise to data, 1 to 1000; they end at steps of the schedule `scaled-linear`."""

    def __post_init__(self) -> None:
        check_steps(self.steps)


def time_grid(config: Config) -> Float64[Tensor, " T"]:
    """Times of the steps' ends, from 1 to 0."""
    return trailing_times(config.steps)


def step(
    velocity: Velocity,
    y: Float[Tensor, "B N C"],
    t: Float64[Tensor, " B"],
    t_next: Float64[Tensor, " B"],
    *,
    path: Path,
) -> Float[Tensor, "B N C"]:
    """y at t_next; at t_next = 0 the estimated data."""
    return recompose(path, velocity(y, t), y, t, t_next, path.sigma(t_next))
