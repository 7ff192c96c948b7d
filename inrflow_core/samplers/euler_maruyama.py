"""The Euler-Maruyama method for the reverse SDE: the flow, and noise that is exchanged for fresh noise on the way.

Source: SiT (Ma et al. 2024, arXiv:2401.08740), section 3.3 and table 2, in our direction of time; INRFlow samples
clouds with it. The SDE is dy = (v - D s) dt + sqrt(2 D) dW, with score s = -noise / sigma.

With equal steps the method is unstable where D h is not small against sigma^2: near pure noise, where D of `sbdm` is
infinite (the authors' release jumps to a deviation of 20 where 1 is right), and near data for most others. But any
D >= 0 has the same marginals, so that here D is lowered until a step exchanges at most `MAX_EXCHANGE` of the noise's
variance. Deviation on N(0, 0.5^2), computed exactly, worst of the six D with 100 and with 500 steps: within 3.0 and 2.5 % of
right along the way, 0.8 and 0.2 % at the end. (Freezing the expected data and letting the noise relax exactly, as
ancestral sampling does, ends 13 and 7 % too low with `constant`, 3 and 0.7 % with `sbdm`.)

A temperature below 1 leaves the paper, and the marginals: dy = (v - D s) dt + sqrt(2 D temperature) dW. What the score
takes away is not given back in full, so that samples gather where the density is high. SimpleFold (arXiv:2509.18480)
folds so, with `sbdm`: its release has 0.3 by default and folds with 0.01 in its README, in 500 steps of `log` spacing.
There D is t / (1.01 - t), and 0 below t = 0.01; here the bound on the exchange keeps both ends stable.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from inrflow_core.numerics import paths
from inrflow_core.numerics.paths import Path, spaced_times
from inrflow_core.numerics.solver import Velocity

ORDER = 1
NFE_PER_STEP = NFE_PER_REPLAY = 1
IS_STOCHASTIC = USES_PATH = True
IS_ADAPTIVE = False

DIFFUSION = {
    "sbdm": lambda path, t: path.sigma(t) * (path.sigma_dot(t) - path.sigma(t) * path.alpha_dot(t) / path.alpha(t)),
    "constant": lambda path, t: torch.ones_like(t),
    "sigma": lambda path, t: path.sigma(t),
    "linear": lambda path, t: t,
    "decreasing": lambda path, t: (1 - torch.cos(math.pi * t)).square() / 4,
    "increasing-decreasing": lambda path, t: torch.sin(math.pi * t).square(),
}
"""D as a function of t; the names say how it changes from noise to data. `sbdm` is half the squared diffusion of the
forward SDE with the same marginals: t / (1 - t) on the linear path."""

MAX_EXCHANGE = 0.1
"""Largest D h / sigma^2 of a step of length h."""


@dataclass(frozen=True)
class Config:
    """Settings of the reverse SDE."""

    steps: int = 500
    """Steps with noise, 1 or more; one without follows."""
    spacing: Literal["equal", "log"] = "equal"
    """`equal` steps as in the paper, or steps that shrink by one factor each, a hundredfold from noise to data (`log`)."""
    diffusion: Literal["sbdm", "constant", "sigma", "linear", "decreasing", "increasing-decreasing"] = "sbdm"
    """Which D, the rate at which noise is exchanged."""
    scale: float = 1.0
    """D is multiplied by this, 0 or more; 0 is Euler's method."""
    temperature: float = 1.0
    """The variance of the noise that is injected is multiplied by this, 0 or more, the drift stays: below 1 samples are
    nearer to the most likely ones and to each other; 1 keeps the marginals."""
    last_step: float = 0.004
    """Length of the last step, which is free of noise; above 0 and below 1, the time from noise to data."""

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"`steps` is {self.steps}: at least 1")
        if self.scale < 0:
            raise ValueError(f"`scale` is {self.scale}: 0 or more")
        if not 0 <= self.temperature < math.inf:
            raise ValueError(f"`temperature` is {self.temperature}: 0 or more, 1 keeps the marginals")
        if not 0 < self.last_step < 1:
            raise ValueError(f"`last_step` is {self.last_step}: above 0 and below 1")


def time_grid(config: Config) -> Float64[Tensor, " T"]:
    """Times of the steps' ends: from 1 to `last_step`, then 0."""
    noisy = spaced_times(config.steps, config.spacing, config.last_step)
    return torch.cat([noisy, torch.zeros(1, dtype=torch.float64)])


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
    slope = velocity(y, t)
    _, old = paths.recover_data_and_noise(path, slope, y, t)
    share = noise_exchange_rate(path, config, t, t_next)
    length, drift, fresh = (
        number.to(y.dtype).view(-1, 1, 1)
        for number in (t_next - t, share * path.sigma(t), (2 * config.temperature * share).sqrt() * path.sigma(t))
    )
    return y + length * slope - drift * old + fresh * noise


def noise_exchange_rate(
    path: Path, config: Config, t: Float64[Tensor, " B"], t_next: Float64[Tensor, " B"]
) -> Float64[Tensor, " B"]:
    """D h / sigma^2 at the step's start, at most `MAX_EXCHANGE`."""
    length = t - t_next
    share = config.scale * DIFFUSION[config.diffusion](path, t) * length / path.sigma(t).square()
    return torch.where((length > 0) & (t_next > 0) & (config.scale > 0), share.clamp(max=MAX_EXCHANGE), 0.0)
