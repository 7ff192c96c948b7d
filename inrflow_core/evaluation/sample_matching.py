"""Which item of a reference each sample should be, and what it was drawn from: by name, by what is recorded, by place."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np
from jaxtyping import Int64

from inrflow_core.errors import UsageError
from inrflow_core.sample_files.collection import IMAGE, ArrayCollection, SampleCollection, ShardCollection
from inrflow_core.shards.batch import Batch

BLOCK = 64
"""Items that are read together."""

OF_IMAGES = "pictures"
"""Marks the digest of condition images; cached features are found by it."""


@dataclass(frozen=True)
class SampleMatch:
    """The reference of each sample, and the image of it that it was conditioned on."""

    reference_index: Int64[np.ndarray, " N"]
    """Indices of the references."""
    view_index: Int64[np.ndarray, " N"]
    """Indices among each reference's images; 0 where it is not recorded."""


def match_to_reference(samples: SampleCollection, reference: SampleCollection) -> SampleMatch:
    """Of each sample its own reference.

    By name where every sample has that of a reference, the ending aside; else by the place in the whole split that a
    shard of samples records (`condition/item`); else by place, where both are equally many. `condition/view` tells the
    view.

    Raises:
        UsageError: they cannot be paired, or samples of a model do not record their conditions.
    """
    mine, theirs = _told(samples), _told(reference)
    views = mine.condition.get("view", np.zeros(samples.count, np.int64)).astype(np.int64).reshape(-1)
    places = _by_name(mine.names, theirs.names)
    if places is not None:
        return SampleMatch(places, views)
    if "item" in mine.condition:
        return SampleMatch(_recorded(samples, mine.condition["item"].astype(np.int64).reshape(-1), reference), views)
    if len(mine.seeds) and "view" not in mine.condition:
        raise UsageError(
            f"{samples.display_name} holds drawn samples without a record of their conditions",
            hint="leave the metrics of pairs out, or sample from images",
        )
    if samples.count != reference.count:
        raise UsageError(
            f"{samples.count:,} samples cannot be paired with {reference.count:,} references of other names",
            hint="give as many references in the same order, or files of the same names",
        )
    return SampleMatch(np.arange(samples.count), views)


def condition_images(
    match: SampleMatch, reference: SampleCollection, given: SampleCollection | None = None
) -> tuple[SampleCollection, Int64[np.ndarray, " N"]]:
    """The images that samples were drawn from, each once, and which of them is each sample's.

    Args:
        given: images of the reference's items, by name or place; None for those that the reference holds.

    Raises:
        UsageError: there are none.
    """
    if given is not None:
        places = match_to_reference(reference, given).reference_index[match.reference_index]
        chosen, whose = np.unique(places, return_inverse=True)
        return given.select(chosen), whose.reshape(-1)
    if not isinstance(reference, ShardCollection) or not reference.has_views():
        raise UsageError(
            f"{reference.display_name} holds no images that its clouds could be sampled from",
            hint="give shards of `objaverse`, or a folder of images of the same names with `--condition-images`",
        )
    rows, whose = np.unique(np.stack([match.reference_index, match.view_index], axis=1), axis=0, return_inverse=True)

    def load_values(indices: Int64[np.ndarray, " S"]) -> np.ndarray:
        places, views = rows[indices].T
        return reference.load_views(IMAGE, places.tolist(), views)

    digest = hashlib.sha256(f"{reference.digest} {reference.split} {OF_IMAGES} {rows.tolist()}".encode()).hexdigest()
    found = ArrayCollection(
        source=reference.source,
        domain="image",
        digest=digest,
        split=reference.split,
        names=[f"item {place}, view {view}" for place, view in rows],
        load_values=load_values,
        verify_source=reference.verify,
    )
    return found, whose.reshape(-1)


def reference_clouds(
    match: SampleMatch, reference: SampleCollection
) -> tuple[SampleCollection, Int64[np.ndarray, " N"]]:
    """The references that samples should be, each once, and which of them is each sample's."""
    chosen, whose = np.unique(match.reference_index, return_inverse=True)
    is_whole = len(chosen) == reference.count
    return reference if is_whole else reference.select(chosen), whose.reshape(-1)


def _recorded(
    samples: SampleCollection, places: Int64[np.ndarray, " N"], reference: SampleCollection
) -> Int64[np.ndarray, " N"]:
    """Places of the reference's items, from those in the whole split that samples record.

    Raises:
        UsageError: the reference has no such item.
    """
    known = np.arange(reference.count) if reference.source_indices is None else reference.source_indices
    order = np.argsort(known, kind="stable")
    found = order[np.searchsorted(known, places, sorter=order).clip(max=len(known) - 1)]
    if (known[found] != places).any():
        lost = places[known[found] != places]
        raise UsageError(
            f"{samples.display_name} was drawn from item {lost[0]:,}, and {reference.display_name} holds {reference.count:,}"
            + ("" if reference.source_indices is None else " others"),
            hint="give the split that the samples were drawn from, whole",
        )
    return found


def _by_name(mine: Sequence[str], theirs: Sequence[str]) -> Int64[np.ndarray, " N"] | None:
    """The places of references with the names of samples; None where names do not tell."""
    for as_key in (str, _without_ending):
        places = {as_key(name): place for place, name in enumerate(theirs)}
        if theirs and len(places) == len(theirs) and {as_key(name) for name in mine} <= places.keys():
            return np.array([places[as_key(name)] for name in mine], dtype=np.int64)
    return None


def _without_ending(name: str) -> str:
    return str(PurePosixPath(name).with_suffix("")) if name else ""


def _told(some: SampleCollection) -> Batch:
    """Names of items and what is recorded of each; not the items themselves."""
    names: list[str] = []
    seeds: list[np.ndarray] = []
    conditions: dict[str, list[np.ndarray]] = {}
    for start in range(0, some.count, BLOCK):
        batch = some.load(range(start, min(start + BLOCK, some.count)))
        names += batch.names
        seeds.append(batch.seeds)
        for name, rows in batch.condition.items():
            conditions.setdefault(name, []).append(rows)
    nothing = np.empty(0, dtype=np.int64)
    condition = {name: np.concatenate(rows) for name, rows in conditions.items()}
    return Batch(nothing, nothing, names, np.concatenate([nothing, *seeds]), condition=condition)
