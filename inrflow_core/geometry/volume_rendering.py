"""Volume rendering: depths along rays, and the color of a ray from the densities and colors at them.

Source: NeRF (Mildenhall et al. 2020, equation 3) in the form of Trans-INR and INRCT: a pass over equal steps of depth and a
white background; NeRF's second pass (section 5.2) is `depths_of_absorption`. Lengths are in world units; a ray's vector has depth 1 along the optical axis, so that near and far
are depths, and an interval is its step of depth times the vector's length. (Trans-INR leaves that length out.)
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

LAST_INTERVAL = 1e-3
"""The step of depth after the last sample."""
LEAST_WEIGHT = 1e-5
"""Added to the absorption of each interval where depths are drawn by it."""


Bound = float | Float[Tensor, "*B M 1"]
"""A depth of all rays, or of each."""


class Rendered(NamedTuple):
    """What rays see."""

    color: Float[Tensor, "*B M 3"]
    """In [-1, 1], in front of white."""
    depth: Float[Tensor, "*B M"]
    """The expected depth of what absorbs the ray, opacity included: 0 where nothing does."""
    opacity: Float[Tensor, "*B M"]
    """The share of the ray that is absorbed, from 0 to 1."""


def depths(near: Bound, far: Bound, jitter: Float[Tensor, "*B M S"]) -> Float[Tensor, "*B M S"]:
    """S depths of each ray, from `near` to `far` in equal steps, each moved on by `jitter` of a step.

    Args:
        near, far: of all rays, or of each (*B M 1).
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
    """The length of ray from each depth to the next, the last one `LAST_INTERVAL` of depth; all 0 where all depths are equal."""
    last = LAST_INTERVAL * (at[..., -1:] > at[..., :1]).to(at.dtype)
    steps = torch.cat([at.diff(dim=-1), last], dim=-1)
    return steps * directions.norm(dim=-1, keepdim=True)


def depths_in_cube(
    origins: Float[Tensor, "*B M 3"],
    directions: Float[Tensor, "*B M 3"],
    extent: float,
    near: float = 0.0,
    far: float = math.inf,
) -> tuple[Float[Tensor, "*B M 1"], Float[Tensor, "*B M 1"]]:
    """The depths between `near` and `far` at which rays enter and leave the cube [-extent, extent]^3; both 0 for a ray that is
    not in it there."""
    tiny = torch.finfo(directions.dtype).tiny
    slopes = torch.where(directions.abs() < tiny, directions.new_tensor(tiny), directions)
    faces = torch.stack([(-extent - origins) / slopes, (extent - origins) / slopes])
    start = faces.amin(0).amax(-1, keepdim=True).clamp(min=near)
    end = faces.amax(0).amin(-1, keepdim=True)
    end = torch.where(end.isfinite(), end, torch.zeros_like(end)).clamp(max=far)
    is_inside = end > start
    return torch.where(is_inside, start, torch.zeros_like(start)), torch.where(is_inside, end, torch.zeros_like(end))


def depths_of_absorption(
    at: Float[Tensor, "*B M S"], weights: Float[Tensor, "*B M S"], u: Float[Tensor, "*B M F"]
) -> Float[Tensor, "*B M F"]:
    """F depths of each ray, where it is absorbed: between two samples evenly, as much as both absorb in the mean.

    An interval before the first sample that absorbs gets its share: a surface may begin there.

    Args:
        weights: the share of the light that each sample absorbs; a constant is added, so that no interval is left out.
        u: uniform numbers in [0, 1], each a share of the absorption up to its depth; ascending ones give ascending depths.
    """
    shares = ((weights[..., :-1] + weights[..., 1:]) / 2 + LEAST_WEIGHT).cumsum(-1)
    shares = torch.cat([torch.zeros_like(shares[..., :1]), shares / shares[..., -1:]], -1)
    upper = (u[..., None] >= shares[..., None, :]).sum(-1).clamp(1, at.shape[-1] - 1)  # ONNX has no `searchsorted`
    low, high = shares.gather(-1, upper - 1), shares.gather(-1, upper)
    start, end = at.gather(-1, upper - 1), at.gather(-1, upper)
    return start + (end - start) * ((u - low) / (high - low)).clamp(0, 1)


def absorbed(
    density: Float[Tensor, "*B M S"], at: Float[Tensor, "*B M S"], directions: Float[Tensor, "*B M 3"]
) -> Float[Tensor, "*B M S"]:
    """The share of a ray's light that each sample absorbs: 1 - exp(-density * interval) of what passes those before it."""
    thickness = density * intervals(at, directions)
    before = torch.cat([torch.zeros_like(thickness[..., :1]), thickness.cumsum(-1)[..., :-1]], dim=-1)
    return -torch.expm1(-thickness) * torch.exp(-before)


def composite(
    density: Float[Tensor, "*B M S"],
    color: Float[Tensor, "*B M S 3"],
    at: Float[Tensor, "*B M S"],
    directions: Float[Tensor, "*B M 3"],
) -> Rendered:
    """What rays see of a medium with a density (at least 0, per unit of length) and a color (in [0, 1]) at each depth.

    Each sample absorbs what `absorbed` says. Without density a ray is exactly white.
    """
    weights = absorbed(density, at, directions)
    opacity = weights.sum(-1)
    seen = (weights[..., None] * color).sum(-2) + (1 - opacity)[..., None]
    return Rendered(2 * seen - 1, (weights * at).sum(-1), opacity)
