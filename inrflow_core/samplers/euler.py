"""Euler's method: first order, one call of the velocity a step.

Source: what INRFlow samples images with, 100 steps (arXiv:2412.03791, appendix A.1).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from inrflow_core.solve import Velocity

ORDER = 1
EVALUATIONS = REPLAYED = 1
IS_STOCHASTIC = IS_ADAPTIVE = False


SPAN = 100.0
"""How many times as long the first step of the `log` spacing is as a step after the last would be."""


@dataclass(frozen=True)
class Config:
    """Settings of a sampler whose steps are laid out beforehand."""

    steps: int = 100
    """Steps from noise to data; 1 or more."""
    spacing: Literal["equal", "log"] = "equal"
    """`equal` steps as in the paper, or steps that shrink by one factor each, a hundredfold from noise to data (`log`)."""

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"`steps` is {self.steps}: at least 1")


def grid(config: Config) -> Float64[Tensor, " T"]:
    """Times of the steps' ends, from 1 to 0."""
    return spaced(config.steps, config.spacing)


def spaced(steps: int, spacing: str, end: float = 0.0) -> Float64[Tensor, " T"]:
    """`steps` + 1 times from 1 down to `end`, both met exactly.

    `log`: logarithmic from 1 to 0.01, stretched so as to end at 0: t_k = (100^(-k/n) - 0.01) / 0.99. This is what the
    authors' release of SimpleFold (arXiv:2509.18480) does from noise to data, there with t = 1 at data.
    """
    if spacing == "equal":
        return torch.linspace(1, end, steps + 1, dtype=torch.float64)
    fallen = SPAN ** -torch.linspace(0, 1, steps + 1, dtype=torch.float64)
    times = end + (1 - end) * (fallen - 1 / SPAN) / (1 - 1 / SPAN)
    times[0], times[-1] = 1.0, end
    return times


def step(
    velocity: Velocity, y: Float[Tensor, "B N C"], t: Float64[Tensor, " B"], t_next: Float64[Tensor, " B"]
) -> Float[Tensor, "B N C"]:
    """y at t_next, along the slope at t."""
    size = (t_next - t).to(y.dtype).view(-1, 1, 1)
    return y + size * velocity(y, t)
