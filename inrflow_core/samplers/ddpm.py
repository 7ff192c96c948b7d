"""Ancestral sampling of DDPM: the estimated data, and of the noise what the forward process would have had a step before.

Source: Ho et al. 2020, arXiv:2006.11239, algorithm 2 with the variance of the posterior q(y_s | y_t, data), for any path and
any number of steps. With the thousand steps of `scaled-linear` it is the paper's.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from inrflow_core.numerics.paths import Path, trailing_times
from inrflow_core.numerics.solver import Velocity
from inrflow_core.samplers._denoising_steps import check_steps, recompose

ORDER = 1
NFE_PER_STEP = NFE_PER_REPLAY = 1
IS_STOCHASTIC = USES_PATH = True
IS_ADAPTIVE = False


@dataclass(frozen=True)
class Config:
    """Settings of ancestral sampling."""

    steps: int = 1000
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
    config: Config,
    noise: Float[Tensor, "B N C"],
) -> Float[Tensor, "B N C"]:
    """y at t_next. A step that ends at t = 0 and one of no length take no noise."""
    sigma = path.sigma(t_next)
    old = sigma.square() * path.alpha(t) / (path.alpha(t_next) * path.sigma(t))
    return recompose(path, velocity(y, t), y, t, t_next, torch.where(t_next < t, old, sigma), noise)
