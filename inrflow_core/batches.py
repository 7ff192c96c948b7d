"""Sets read together: values and conditions of any shards, put into one batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float64, Int64

if TYPE_CHECKING:
    from inrflow_core.shards import Shard

Found = Sequence[tuple["Shard", int]]
"""Where each set of a batch lies: its shard, and its number in it."""


@dataclass(frozen=True)
class Batch:
    """Sets that were read together.

    Where sets differ in size, `values` is padded with zeros to the largest, and `sizes` says how many pairs are real.
    Conditions that differ in size are padded likewise; `counts` has their real rows.
    """

    values: np.ndarray
    labels: np.ndarray
    names: list[str]
    seeds: np.ndarray
    """Of samples; empty for real data."""
    sizes: np.ndarray | None = None
    condition: Mapping[str, np.ndarray] = field(default_factory=dict)
    counts: Mapping[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True)
class Wanted:
    """Which conditions are read with the sets."""

    names: Sequence[str] | None = None
    """None reads all."""
    views: Float64[np.ndarray, " B"] | None = None
    """Of conditions that hold several views of a set, which one: from 0 to below 1; None reads all views."""


ALL = Wanted()
"""Every condition, with all its views."""


def uniform(found: Found, out: np.ndarray) -> np.ndarray:
    """The values of sets of one size, into `out`."""
    for place, (shard, index) in enumerate(found):
        shard.read(shard.values, index, out[place])
    return out


def ragged(found: Found, shape: tuple[int, ...], dtype: str) -> tuple[np.ndarray, Int64[np.ndarray, " B"]]:
    """The values of sets that differ in size, and their sizes; `shape` is that of one pair."""
    spans = [shard.span(index) for shard, index in found]
    sizes = np.array([stop - start for start, stop in spans], dtype=np.int64)
    out = np.zeros((len(found), max(sizes, default=0), *shape), dtype)
    for place, ((shard, _), (start, stop)) in enumerate(zip(found, spans, strict=True)):
        shard.read(shard.values, start, out[place, : stop - start], stop - start)
    return out, sizes


def conditions(found: Found, wanted: Wanted) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """The conditions of sets, and of those that differ in size how many rows are real.

    Raises:
        KeyError: a shard has no condition of a name that is wanted.
    """
    result, counts = {}, {}
    names = list(found[0][0].condition) if found and wanted.names is None else list(wanted.names or [])
    for name in names if found else []:
        if name in found[0][0].condition_offsets:
            result[name], counts[name] = _ragged_condition(found, name)
        elif wanted.views is None:
            rows = found[0][0].condition[name]
            out = result[name] = np.empty((len(found), *rows.shape[1:]), rows.dtype)
            for place, (shard, index) in enumerate(found):
                shard.read(shard.condition[name], index, out[place : place + 1])
        else:
            result[name] = _one_view(found, name, wanted.views)
    return result, counts


def _ragged_condition(found: Found, name: str) -> tuple[np.ndarray, Int64[np.ndarray, " B"]]:
    edges = [shard.condition_offsets[name][index : index + 2] for shard, index in found]
    counts = np.array([stop - start for start, stop in edges], dtype=np.int64)
    rows = found[0][0].condition[name]
    out = np.zeros((len(found), max(counts), *rows.shape[1:]), rows.dtype)
    for place, ((shard, _), (start, stop)) in enumerate(zip(found, edges, strict=True)):
        shard.read(shard.condition[name], int(start), out[place, : stop - start], int(stop - start))
    return out, counts


def _one_view(found: Found, name: str, views: Float64[np.ndarray, " B"]) -> np.ndarray:
    """Each set's view alone: the others are never read."""
    rows = found[0][0].condition[name]
    out = np.empty((len(found), *rows.shape[2:]), rows.dtype)
    for place, (shard, index) in enumerate(found):
        by_view = shard.condition[name].split()
        count = rows.shape[1]
        shard.read(by_view, index * count + int(views[place] * count), out[place : place + 1])
    return out
