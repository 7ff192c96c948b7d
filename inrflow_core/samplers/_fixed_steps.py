"""Settings and the time grid that samplers with a fixed number of steps share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float64
from torch import Tensor

from inrflow_core.numerics.time_grids import spaced_times


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


def time_grid(config: Config) -> Float64[Tensor, " T"]:
    """Times of the steps' ends, from 1 to 0."""
    return spaced_times(config.steps, config.spacing)
