"""The variance-exploding path of consistency models: noise levels, the scalings of a network, and pairs of levels.

A noisy value is `data + t noise` at the level t; t = 0 is data. Source: EDM (Karras et al. 2022, arXiv:2206.00364, table 1)
for the scalings, ECT (Geng et al. 2024, arXiv:2406.14548) for the pairs of levels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float64
from torch import Tensor

GAP_SLOPE = 8.0
"""k of n(t) = 1 + k sigmoid(-t), the largest gap t - r at t times 2^halvings / t (ECT, appendix A)."""


@dataclass(frozen=True)
class Scalings:
    """The scalings of a consistency function f(x, t) = c_skip x + c_out G(c_in x, c_noise) for data of one deviation."""

    sigma_data: float

    def c_in(self, t: Float64[Tensor, " B"]) -> Float64[Tensor, " B"]:
        """The factor that gives noisy values the variance 1."""
        return torch.rsqrt(t.square() + self.sigma_data**2)

    def c_skip(self, t: Float64[Tensor, " B"]) -> Float64[Tensor, " B"]:
        """The share of the noisy value in the answer: 1 at t = 0."""
        return self.sigma_data**2 / (t.square() + self.sigma_data**2)

    def c_out(self, t: Float64[Tensor, " B"]) -> Float64[Tensor, " B"]:
        """The factor of the network's output: 0 at t = 0."""
        return t * self.sigma_data * self.c_in(t)


def noise_level(t: Float64[Tensor, " B"]) -> Float64[Tensor, " B"]:
    """What the network reads of the level: ln(t) / 4; t must be above 0."""
    return t.log() / 4


def sample_levels(
    u: Float64[Tensor, " B"], *, mean: float = -1.1, deviation: float = 2.0, low: float = 0.003, high: float = 80.0
) -> Float64[Tensor, " B"]:
    """Levels whose logarithm is normal, from uniform numbers, clamped to [low, high]."""
    return torch.exp(mean + deviation * torch.special.ndtri(u)).clamp(low, high)


def num_halvings(step: int, num_steps: int, most: int = 8) -> int:
    """How often the gap has been halved at a step of a stage: 0 in its first of `most` + 1 equal parts, `most` in the last."""
    return min(most, math.floor(step * (most + 1) / max(1, num_steps)))


def lower_levels(t: Float64[Tensor, " B"], halvings: int, *, least: float = 0.003) -> Float64[Tensor, " B"]:
    """The level r below each t: t (1 - n(t) / 2^halvings), and 0 where that is below `least`."""
    gap = 1 + GAP_SLOPE * torch.sigmoid(-t)
    r = t * (1 - gap / 2**halvings)
    return torch.where(r < least, torch.zeros_like(r), r)
