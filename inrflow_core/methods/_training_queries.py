"""Which pairs training decodes: random subsets of each set, and positions between pixels."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from inrflow_core.numerics import keyed_random
from inrflow_core.sets import CoordValueSet


def interpolate_grid(values: Float[Tensor, "B *grid C"], places: Float[Tensor, "B M D"]) -> Float[Tensor, "B M C"]:
    """Values of a grid at lattice positions between its pixels, linear along each axis, clamped at its edges."""
    size = values.shape[1:-1]
    low = torch.stack([places[..., d].floor().clamp(0, max(n - 2, 0)) for d, n in enumerate(size)], -1)
    weight = (places - low).clamp(0, 1).to(values.dtype)
    flat = values.flatten(1, -2)
    total = torch.zeros(*places.shape[:2], values.shape[-1], dtype=values.dtype, device=values.device)
    for corner in range(2 ** len(size)):
        index = torch.zeros(places.shape[:2], dtype=torch.int64, device=places.device)
        share = torch.ones(places.shape[:2], dtype=values.dtype, device=values.device)
        for d, n in enumerate(size):
            upper = (corner >> d) & 1
            index = index * n + (low[..., d].long() + upper).clamp(max=n - 1)
            share = share * (weight[..., d] if upper else 1 - weight[..., d])
        total += share[..., None] * take_pairs(flat, index)
    return total


def random_subset(sets: CoordValueSet, count: int) -> Int64[Tensor, "B M"]:
    """`count` random pairs of each set, those that are masked only where it has too few others.

    Which of the others does not depend on the padding.
    """
    if sets.mask is None:
        return keyed_random.subset(sets.seeds, len(sets.queries), count, purpose="subset")
    order = keyed_random.uniform(sets.seeds, purpose="subset", count=len(sets.queries))
    return order.masked_fill(~sets.mask, 1).argsort(1)[:, :count]


def take_pairs(values: Float[Tensor, "B N C"], index: Int64[Tensor, "B M"]) -> Float[Tensor, "B M C"]:
    return values.gather(1, index[..., None].expand(-1, -1, values.shape[-1]))
