"""Paths from data (t = 0) to noise (t = 1), and what follows from a velocity on them.

y_t = alpha(t) data + sigma(t) noise, and the velocity is dy/dt. INRFlow, section 3.2; the trigonometric path is that
of SiT (Ma et al. 2024, arXiv:2401.08740).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

Rate = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Path:
    """Weights of data and noise at t, and their derivatives."""

    alpha: Rate
    sigma: Rate
    alpha_dot: Rate
    sigma_dot: Rate


LINEAR = Path(lambda t: 1 - t, lambda t: t, lambda t: -torch.ones_like(t), torch.ones_like)
TRIGONOMETRIC = Path(
    lambda t: torch.cos(t * math.pi / 2),
    lambda t: torch.sin(t * math.pi / 2),
    lambda t: -math.pi / 2 * torch.sin(t * math.pi / 2),
    lambda t: math.pi / 2 * torch.cos(t * math.pi / 2),
)
PATHS = {"linear": LINEAR, "trigonometric": TRIGONOMETRIC}


def interpolate(
    path: Path, data: Float[Tensor, "B N C"], noise: Float[Tensor, "B N C"], t: Float[Tensor, " B"]
) -> tuple[Float[Tensor, "B N C"], Float[Tensor, "B N C"]]:
    """The point at time t between data and noise, and its velocity there.

    INRFlow, equation 1; for the linear path the velocity is `noise - data`. The paper writes it below equation 4 as
    (noise - y_t) / (1 - t), which is the same and needs no t below 1 here.
    """
    alpha, sigma, alpha_dot, sigma_dot = _at(path, t, data)
    return alpha * data + sigma * noise, alpha_dot * data + sigma_dot * noise


def recover_data_and_noise(
    path: Path, velocity: Float[Tensor, "B N C"], y: Float[Tensor, "B N C"], t: Float[Tensor, " B"]
) -> tuple[Float[Tensor, "B N C"], Float[Tensor, "B N C"]]:
    """The data and the noise that a point and its velocity determine: the inverse of `interpolate`."""
    alpha, sigma, alpha_dot, sigma_dot = _at(path, t, y)
    determinant = alpha * sigma_dot - sigma * alpha_dot
    data = (sigma_dot * y - sigma * velocity) / determinant
    noise = (alpha * velocity - alpha_dot * y) / determinant
    return data, noise


def score(
    path: Path, velocity: Float[Tensor, "B N C"], y: Float[Tensor, "B N C"], t: Float[Tensor, " B"]
) -> Float[Tensor, "B N C"]:
    """The gradient of the log density at (y, t): minus the expected noise over sigma; t must be above 0."""
    _, noise = recover_data_and_noise(path, velocity, y, t)
    return -noise / _at(path, t, y)[1]


def _at(path: Path, t: Float[Tensor, " B"], like: Float[Tensor, "B N C"]) -> list[Tensor]:
    """The path's four numbers at t, computed in float64, of `like`'s type and rank."""
    t = t.double()
    numbers = (path.alpha(t), path.sigma(t), path.alpha_dot(t), path.sigma_dot(t))
    return [number.to(like.dtype)[:, None, None] for number in numbers]
