"""The Euler-Maruyama method for the reverse SDE: the flow, and noise that is exchanged for fresh noise on the way.

Source: SiT (Ma et al. 2024, arXiv:2401.08740), section 3.3 and table 2, in our direction of time; INRFlow samples
clouds with it. The SDE is dy = (v - D s) dt + sqrt(2 D) dW, with score s = -noise / sigma.

The plain method is unstable near pure noise, where D of `sbdm` is infinite (the authors' release reaches a deviation
of 20 where 1 is right). Here each step freezes the expected data and lets the noise part relax exactly: in a time
h its share rho = exp(-D h / sigma^2) is kept and the rest is fresh. For D h small this is the same method; for D h
large it stays at the right deviation.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from inrflow_core import paths
from inrflow_core.paths import Path
from inrflow_core.solve import Velocity

ORDER = 1
EVALUATIONS = REPLAYED = 1
IS_STOCHASTIC = True
IS_ADAPTIVE = False

DIFFUSION = {
    "sbdm": lambda path, t: path.sigma(t) / path.alpha(t),
    "constant": lambda path, t: torch.ones_like(t),
    "sigma": lambda path, t: path.sigma(t),
    "linear": lambda path, t: t,
    "decreasing": lambda path, t: (1 - torch.cos(math.pi * t)).square() / 4,
    "increasing-decreasing": lambda path, t: torch.sin(math.pi * t).square(),
}
"""D as a function of t; the names say how it changes from noise to data."""


@dataclass(frozen=True)
class Config:
    """Settings of the reverse SDE."""

    steps: int = 500
    """Steps with noise; one without follows."""
    diffusion: Literal["sbdm", "constant", "sigma", "linear", "decreasing", "increasing-decreasing"] = "sbdm"
    """Which D."""
    scale: float = 1.0
    """D is multiplied by this; 0 is Euler's method."""
    last_step: float = 0.004
    """Size of the last step, which is free of noise."""

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"`steps` is {self.steps}: at least 1")
        if self.scale < 0:
            raise ValueError(f"`scale` is {self.scale}: 0 or more")
        if not 0 < self.last_step < 1:
            raise ValueError(f"`last_step` is {self.last_step}: above 0 and below 1")


def grid(config: Config) -> Float64[Tensor, " T"]:
    """Times of the steps' ends: equal steps from 1 to `last_step`, then 0."""
    noisy = torch.linspace(1, config.last_step, config.steps + 1, dtype=torch.float64)
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
    """y at t_next: the expected data, and noise of which the share rho is kept. A step to t = 0 takes no noise."""
    data, old = paths.data_and_noise(path, velocity(y, t), y, t)
    kept = share_kept(path, config, t, t_next)
    fresh = (1 - kept.square()).sqrt()
    mixed = kept.to(y.dtype).view(-1, 1, 1) * old + fresh.to(y.dtype).view(-1, 1, 1) * noise
    alpha, sigma = (number.to(y.dtype).view(-1, 1, 1) for number in (path.alpha(t_next), path.sigma(t_next)))
    return alpha * data + sigma * mixed


def share_kept(
    path: Path, config: Config, t: Float64[Tensor, " B"], t_next: Float64[Tensor, " B"]
) -> Float64[Tensor, " B"]:
    """rho = exp(-D h / sigma^2), with D and sigma in the middle of the step, where both are finite."""
    middle = (t + t_next) / 2
    rate = config.scale * DIFFUSION[config.diffusion](path, middle) / path.sigma(middle).square()
    kept = torch.exp(-rate * (t - t_next).abs())
    return torch.where(t_next == 0, torch.ones_like(kept), kept)
