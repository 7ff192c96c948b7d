"""Sets of unequal size in buckets of similar sizes, which limits padding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Int64
from torch import Tensor

from inrflow_core.sets import PER_GROUP_CONDITIONS, CoordValueSet

MAX_PADDING = 1.3
"""The largest ratio of pairs with padding to pairs in a bucket."""


def bucket_by_size(sizes: Sequence[int]) -> list[list[int]]:
    """Indices in buckets of similar sizes: padded to its largest set, a bucket has at most `MAX_PADDING` times its pairs."""
    order = sorted(range(len(sizes)), key=lambda index: (-sizes[index], index))
    buckets: list[list[int]] = []
    real = 0
    for index in order:
        largest = sizes[buckets[-1][0]] if buckets else 0
        if buckets and (len(buckets[-1]) + 1) * largest <= MAX_PADDING * (real + sizes[index]):
            buckets[-1].append(index)
            real += sizes[index]
        else:
            buckets.append([index])
            real = sizes[index]
    return buckets


def set_sizes(groups: Int64[Tensor, "B N"]) -> list[list[int]]:
    """Pairs and groups of each set without padding; waits for the device."""
    return torch.stack([(groups >= 0).sum(1), groups.amax(1) + 1], 1).tolist()


def trim_padding(sets: CoordValueSet, sizes: tuple[tuple[int, ...], ...]) -> CoordValueSet:
    """Sets cut to the largest of them; `sizes` are the pairs and groups of each without padding."""
    pairs, groups = (max(size[axis] for size in sizes) for axis in (0, 1))
    return CoordValueSet(
        replace(sets.queries[:pairs], valid_sizes=sizes),
        sets.values[:, :pairs],
        sets.seeds,
        {name: value[:, :groups] if name in PER_GROUP_CONDITIONS else value for name, value in sets.condition.items()},
        None if sets.mask is None else sets.mask[:, :pairs],
    )
