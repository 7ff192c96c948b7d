"""Samplers with a fixed number of steps: settings, time grid, and the step of a Runge-Kutta method."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float, Float64
from torch import Tensor

from inrflow_core.numerics.paths import spaced_times
from inrflow_core.numerics.solver import Velocity


@dataclass(frozen=True)
class Config:
    """Settings of a sampler with a fixed time grid."""

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


@dataclass(frozen=True)
class Tableau:
    """Coefficients of an explicit Runge-Kutta method (Butcher tableau)."""

    nodes: tuple[float, ...]
    """Time of each stage, from 0 (t) to 1 (t_next)."""
    stages: tuple[tuple[float, ...], ...]
    """Weights of the earlier slopes, for the state of each stage."""
    weights: tuple[float, ...]
    """Weights of all slopes, for the step."""


def runge_kutta_step(tableau: Tableau) -> Callable[..., Tensor]:
    """The step of the method with these coefficients; it calls the velocity once for each stage."""

    def step(
        velocity: Velocity, y: Float[Tensor, "B N C"], t: Float64[Tensor, " B"], t_next: Float64[Tensor, " B"]
    ) -> Float[Tensor, "B N C"]:
        """y at t_next from y at t."""
        size = (t_next - t).to(y.dtype).view(-1, 1, 1)
        slopes: list[Tensor] = []
        for node, weights in zip(tableau.nodes, tableau.stages, strict=True):
            state = y + size * _weighted_sum(weights, slopes) if weights else y
            slopes.append(velocity(state, (1 - node) * t + node * t_next))
        return y + size * _weighted_sum(tableau.weights, slopes)

    return step


def _weighted_sum(weights: tuple[float, ...], slopes: list[Tensor]) -> Tensor:
    terms = [slope if weight == 1 else weight * slope for weight, slope in zip(weights, slopes, strict=True) if weight]
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total
