"""Dormand and Prince's method: fifth order, with steps that each sample chooses by its own error.

Source: Dormand and Prince 1980; the tableau as in Hairer, Norsett and Wanner, Solving Ordinary Differential Equations
I, table II.5.2. The seventh evaluation serves the error alone, so queries that replay a step need six.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor

from inrflow_core.numerics.solver import Velocity

ORDER = 5
NFE_PER_STEP = 7
NFE_PER_REPLAY = 6
IS_STOCHASTIC = USES_PATH = False
IS_ADAPTIVE = True

NODES = (0.0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0)
STAGES = (
    (),
    (1 / 5,),
    (3 / 40, 9 / 40),
    (44 / 45, -56 / 15, 32 / 9),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
)
FIFTH = (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84)
ERROR = (71 / 57600, 0.0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40)
"""Fifth-order weights minus the embedded fourth-order ones."""


@dataclass(frozen=True)
class Config:
    """Settings of the step control."""

    rtol: float = 1e-3
    """Error allowed in a step, relative to the state; 0 or more."""
    atol: float = 1e-3
    """Error allowed in a step beside that, in the network's scale of values; 0 or more."""
    max_nfe: int = 300
    """Most evaluations for one sample, those of rejected steps included, 7 or more; the last steps are stretched to fit."""
    first_step: float = 0.05
    """Size of the first attempt, in (0, 1], of the time from noise to data, which is 1."""

    def __post_init__(self) -> None:
        if self.rtol < 0 or self.atol < 0 or self.rtol + self.atol == 0:
            raise ValueError(
                f"`rtol` is {self.rtol} and `atol` is {self.atol}: 0 or more each, and one of them above 0"
            )
        if self.max_nfe < NFE_PER_STEP:
            raise ValueError(f"`max_nfe` is {self.max_nfe}: at least {NFE_PER_STEP}, one step")
        if not 0 < self.first_step <= 1:
            raise ValueError(f"`first_step` is {self.first_step}: above 0, at most 1")


def time_grid(config: Config) -> Float64[Tensor, " T"]:
    """The ends of time; each sample finds its own steps between them."""
    return torch.tensor([1.0, 0.0], dtype=torch.float64)


def step(
    velocity: Velocity, y: Float[Tensor, "B N C"], t: Float64[Tensor, " B"], t_next: Float64[Tensor, " B"]
) -> Float[Tensor, "B N C"]:
    """y at t_next, of fifth order."""
    return _stages(velocity, y, t, t_next)[0]


def trial_step(
    velocity: Velocity,
    y: Float[Tensor, "B N C"],
    t: Float64[Tensor, " B"],
    t_next: Float64[Tensor, " B"],
    config: Config,
    real: Bool[Tensor, "B N"] | None = None,
) -> tuple[Float[Tensor, "B N C"], Float64[Tensor, " B"]]:
    """y at t_next, and each sample's error: the root mean square over its pairs in units of what is allowed.

    Only the `real` pairs count, all without it: what is padded changes no step.
    """
    moved, slopes = _stages(velocity, y, t, t_next)
    slopes.append(velocity(moved, t_next))
    error = _sum(ERROR, slopes) * (t_next - t).to(y.dtype).view(-1, 1, 1)
    allowed = config.atol + config.rtol * torch.maximum(y.abs(), moved.abs())
    square = (error / allowed).double().square().mean(-1)
    size = (square.mean(1) if real is None else square.masked_fill(~real, 0).sum(1) / real.sum(1).clamp(min=1)).sqrt()
    return moved, torch.nan_to_num(size, nan=torch.inf)  # a step to NaN is repeated with a smaller one


def step_size_factor(error: Float64[Tensor, " B"]) -> Float64[Tensor, " B"]:
    """The ratio of the next step's size to this one's."""
    return (0.9 * error.clamp(min=1e-10) ** (-1 / ORDER)).clamp(0.2, 5.0)


def _stages(
    velocity: Velocity, y: Float[Tensor, "B N C"], t: Float64[Tensor, " B"], t_next: Float64[Tensor, " B"]
) -> tuple[Float[Tensor, "B N C"], list[Tensor]]:
    size = (t_next - t).to(y.dtype).view(-1, 1, 1)
    slopes: list[Tensor] = []
    for node, weights in zip(NODES, STAGES, strict=True):
        point = y + size * _sum(weights, slopes) if slopes else y
        slopes.append(velocity(point, t + node * (t_next - t)))
    return y + size * _sum(FIFTH, slopes), slopes


def _sum(weights: tuple[float, ...], slopes: list[Tensor]) -> Tensor:
    total = weights[0] * slopes[0]
    for weight, slope in zip(weights[1:], slopes[1:], strict=False):
        if weight:
            total = total + weight * slope
    return total
