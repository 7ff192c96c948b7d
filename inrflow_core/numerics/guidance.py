"""Guidance: a velocity pushed away from a weaker one, inside an interval of time."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor


def combine(
    conditional: Float[Tensor, "B M C"],
    unconditional: Float[Tensor, "B M C"],
    scale: float,
    t: Float[Tensor, " B"],
    interval: Sequence[float] = (0.0, 1.0),
) -> Float[Tensor, "B M C"]:
    """`unconditional + scale (conditional - unconditional)` where t is in the interval (ends included), else `conditional`.

    With the unconditional velocity this is classifier-free guidance (Ho and Salimans 2022,
    arXiv:2207.12598; in an interval: Kynkaanniemi et al. 2024, arXiv:2404.07724), with a weaker model's in its place it is
    autoguidance (Karras et al. 2024, arXiv:2406.02507). With scale 1 there is no guidance.
    """
    if scale == 1:
        return conditional
    low, high = interval
    inside = ((t >= low) & (t <= high)).view(-1, 1, 1)
    return torch.where(inside, unconditional + scale * (conditional - unconditional), conditional)
