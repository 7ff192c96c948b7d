"""Volume rendering: depths along rays, and the color of a ray from the densities and colors at them.

Source: NeRF (Mildenhall et al. 2020, equation 3) in the form of Trans-INR and INRCT: one pass over equal steps of depth,
and a white background. Lengths are in world units; a ray's vector has depth 1 along the optical axis, so that near and far
are depths, and an interval is its step of depth times the vector's length. (Trans-INR leaves that length out.)
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

LAST_INTERVAL = 1e-3
"""The step of depth after the last sample."""


class Rendered(NamedTuple):
    """What rays see."""

    color: Float[Tensor, "*B M 3"]
    """In [-1, 1], in front of white."""
    depth: Float[Tensor, "*B M"]
    """The expected depth of what absorbs the ray, opacity included: 0 where nothing does."""
    opacity: Float[Tensor, "*B M"]
    """The share of the ray that is absorbed, from 0 to 1."""


def depths(near: float, far: float, jitter: Float[Tensor, "*B M S"]) -> Float[Tensor, "*B M S"]:
    """S depths of each ray, from `near` to `far` in equal steps, each moved on by `jitter` of a step.

    Args:
        jitter: uniform numbers in [0, 1) in training, which place each sample at random in its step; zeros else.
    """
    samples = jitter.shape[-1]
    step = (far - near) / (samples - 1)
    return near + step * (torch.arange(samples, dtype=jitter.dtype, device=jitter.device) + jitter)


def points_on_rays(
    origins: Float[Tensor, "*B M 3"], directions: Float[Tensor, "*B M 3"], at: Float[Tensor, "*B M S"]
) -> Float[Tensor, "*B M S 3"]:
    """The points of rays at some depths."""
    return origins[..., None, :] + at[..., None] * directions[..., None, :]


def intervals(at: Float[Tensor, "*B M S"], directions: Float[Tensor, "*B M 3"]) -> Float[Tensor, "*B M S"]:
    """The length of ray from each depth to the next, the last one `LAST_INTERVAL` of depth."""
    steps = torch.cat([at.diff(dim=-1), torch.full_like(at[..., :1], LAST_INTERVAL)], dim=-1)
    return steps * directions.norm(dim=-1, keepdim=True)


def composite(
    density: Float[Tensor, "*B M S"],
    color: Float[Tensor, "*B M S 3"],
    at: Float[Tensor, "*B M S"],
    directions: Float[Tensor, "*B M 3"],
) -> Rendered:
    """What rays see of a medium with a density (at least 0, per unit of length) and a color (in [0, 1]) at each depth.

    A sample absorbs 1 - exp(-density * interval) of the light that passes those before it. Without density a ray is
    exactly white.
    """
    thickness = density * intervals(at, directions)
    before = torch.cat([torch.zeros_like(thickness[..., :1]), thickness.cumsum(-1)[..., :-1]], dim=-1)
    weights = -torch.expm1(-thickness) * torch.exp(-before)
    opacity = weights.sum(-1)
    seen = (weights[..., None] * color).sum(-2) + (1 - opacity)[..., None]
    return Rendered(2 * seen - 1, (weights * at).sum(-1), opacity)
