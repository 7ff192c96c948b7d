"""Euler's method: first order, one call of the velocity a step.

Source: what INRFlow samples images with, 100 steps (arXiv:2412.03791, appendix A.1).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from inrflow_core.solve import Velocity

ORDER = 1
EVALUATIONS = REPLAYED = 1
IS_STOCHASTIC = IS_ADAPTIVE = False


@dataclass(frozen=True)
class Config:
    """Settings of a sampler with equal steps."""

    steps: int = 100
    """Steps from noise to data, all of one length; 1 or more."""

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"`steps` is {self.steps}: at least 1")


def grid(config: Config) -> Float64[Tensor, " T"]:
    """Times of the steps' ends, from 1 to 0."""
    return torch.linspace(1, 0, config.steps + 1, dtype=torch.float64)


def step(
    velocity: Velocity, y: Float[Tensor, "B N C"], t: Float64[Tensor, " B"], t_next: Float64[Tensor, " B"]
) -> Float[Tensor, "B N C"]:
    """y at t_next, along the slope at t."""
    size = (t_next - t).to(y.dtype).view(-1, 1, 1)
    return y + size * velocity(y, t)
