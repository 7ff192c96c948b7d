"""The pairs that training decodes: random subsets of each set, or positions between pixels."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from inrflow_core.methods._flow_config import Config
from inrflow_core.numerics import keyed_random, noise_field, paths
from inrflow_core.numerics.paths import Path
from inrflow_core.sets import CoordValueSet, Grid, Queries, SetSpec, TrainBatch

Noisy = tuple[Float[Tensor, "B N C"], Float[Tensor, "B N C"], Float[Tensor, " B"]]
"""Noisy values, their velocities, and the times."""


def choose_queries(
    config: Config, path: Path, spec: SetSpec, batch: TrainBatch, noisy: Noisy
) -> tuple[Queries, Float[Tensor, "B M C"], Float[Tensor, "B M C"], Bool[Tensor, "B M"] | None]:
    """The pairs to decode, their noisy values and velocities, and which are real: a random subset of each set.

    `noisy` are the values, velocities and times of `batch.queries`. `query_positions = "anywhere"` applies only to sets that
    are their own context.
    """
    sets, (y_t, velocity, t) = batch.queries, noisy
    count = config.num_queries or len(sets.queries)
    if config.query_positions == "anywhere" and batch.is_shared and isinstance(spec.layout, Grid):
        return (*queries_anywhere(config, path, spec.layout.shape, sets, count, t), None)
    if count >= len(sets.queries):
        return sets.queries, y_t, velocity, sets.mask
    subset = random_subset(sets, count)
    mask = None if sets.mask is None else sets.mask.gather(1, subset)
    return *select_pairs(sets.queries, subset, y_t, velocity), mask


def select_pairs(queries: Queries, index: Int64[Tensor, "B M"], *values: Any) -> Any:
    """Some of the queries of each set, and of tensors of their values (B N C), or None; the noise keys are the first ones."""
    coordinates, directions = (
        tensor if tensor is None else tensor[index] if tensor.ndim == 2 else take_pairs(tensor, index)
        for tensor in (queries.coordinates, queries.directions)
    )
    groups = None if queries.group_ids is None else queries.group_ids.gather(1, index)
    keys, steps = queries.noise_keys[: index.shape[1]], queries.cell_sizes
    some = Queries(coordinates, keys, groups, directions=directions, cell_sizes=steps)
    return some, *(None if each is None else take_pairs(each, index) for each in values)


def jittered_grid(queries: Queries, seeds: Int64[Tensor, " B"], grid: tuple[int, ...], deviation: float) -> Queries:
    """The queries of a grid moved at random, by at most a quarter of a cell along each axis; keyed by the seeds.

    `deviation` of the normal shift is in units of 1 / the longest side, half a cell there. Features above the grid's
    Nyquist frequency become noise, which a network learns to ignore (ANR, Zhang et al. 2024).
    """
    assert queries.coordinates is not None
    ids = torch.arange(len(queries), device=seeds.device)
    shift = noise_field.normal(seeds, ids, purpose="jitter", channels=len(grid))
    shift = (deviation * shift).clamp(-0.5, 0.5) / max(grid)
    return replace(queries, coordinates=queries.coordinates + shift)


def queries_anywhere(
    config: Config, path: Path, grid: tuple[int, ...], sets: CoordValueSet, count: int, t: Float[Tensor, " B"]
) -> tuple[Queries, Float[Tensor, "B M C"], Float[Tensor, "B M C"]]:
    """Queries at random positions inside the grid; data interpolated linearly, noise by the kernel of `config.noise`."""
    size = torch.tensor(grid, dtype=torch.float64, pin_memory=t.is_cuda).to(t.device, non_blocking=True)
    u = keyed_random.uniform(sets.seeds, purpose="subset", count=count * len(grid)).unflatten(1, (count, len(grid)))
    positions = u * (size - 1)
    channels = sets.values.shape[-1]
    eps = torch.cat(
        [
            noise_field.normal_inside(
                sets.seeds[i : i + 1], positions[i], grid, purpose="noise", channels=channels, kernel=config.noise
            )
            for i in range(len(sets))
        ]
    )
    data = interpolate_grid(sets.values.unflatten(1, grid), positions)
    y_query, velocity = paths.interpolate(path, data, eps, t)
    coordinates = ((2 * positions + 1) / size - 1).to(sets.values.dtype)
    return Queries(coordinates, positions[0], cell_sizes=sets.queries.cell_sizes), y_query, velocity


def interpolate_grid(values: Float[Tensor, "B *grid C"], positions: Float[Tensor, "B M D"]) -> Float[Tensor, "B M C"]:
    """Values of a grid at lattice positions between its pixels, linear along each axis, clamped at its edges."""
    size = values.shape[1:-1]
    low = torch.stack([positions[..., d].floor().clamp(0, max(n - 2, 0)) for d, n in enumerate(size)], -1)
    weight = (positions - low).clamp(0, 1).to(values.dtype)
    flat = values.flatten(1, -2)
    total = torch.zeros(*positions.shape[:2], values.shape[-1], dtype=values.dtype, device=values.device)
    for corner in range(2 ** len(size)):
        index = torch.zeros(positions.shape[:2], dtype=torch.int64, device=positions.device)
        share = torch.ones(positions.shape[:2], dtype=values.dtype, device=values.device)
        for d, n in enumerate(size):
            upper = (corner >> d) & 1
            index = index * n + (low[..., d].long() + upper).clamp(max=n - 1)
            share = share * (weight[..., d] if upper else 1 - weight[..., d])
        total += share[..., None] * take_pairs(flat, index)
    return total


def random_subset(sets: CoordValueSet, count: int) -> Int64[Tensor, "B M"]:
    """Indices of `count` random pairs of each set; masked ones only if the set has fewer others.

    The selection among unmasked pairs does not depend on the padding.
    """
    if sets.mask is None:
        return keyed_random.subset(sets.seeds, len(sets.queries), count, purpose="subset")
    order = keyed_random.uniform(sets.seeds, purpose="subset", count=len(sets.queries))
    return order.masked_fill(~sets.mask, 1).argsort(1)[:, :count]


def take_pairs(values: Float[Tensor, "B N C"], index: Int64[Tensor, "B M"]) -> Float[Tensor, "B M C"]:
    return values.gather(1, index[..., None].expand(-1, -1, values.shape[-1]))
