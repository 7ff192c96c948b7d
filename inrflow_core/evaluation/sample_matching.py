"""Match samples with their reference items and condition images: by name, by recorded index, or by order."""

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
"""Items read at once."""

OF_IMAGES = "pictures"
"""Marks the digest of condition images; cached features are found by it."""


@dataclass(frozen=True)
class SampleMatch:
    """The reference of each sample, and the image of it that it was conditioned on."""

    reference_index: Int64[np.ndarray, " N"]
    """Indices of the references."""
    view_index: Int64[np.ndarray, " N"]
    """Indices among each reference's images; 0 if not recorded."""


def match_to_reference(samples: SampleCollection, reference: SampleCollection) -> SampleMatch:
    """The reference item of each sample.

    By name if every sample has the name of a reference, apart from the suffix; else by the index in the whole split
    that a shard of samples records (`condition/item`); else in order, if both are equally many. The view is
    `condition/view`.

    Raises:
        UsageError: they cannot be matched, or samples of a model do not record their conditions.
    """
    sampled, references = _metadata(samples), _metadata(reference)
    views = sampled.condition.get("view", np.zeros(samples.count, np.int64)).astype(np.int64).reshape(-1)
    by_name = _match_names(sampled.names, references.names)
    if by_name is not None:
        return SampleMatch(by_name, views)
    if "item" in sampled.condition:
        return SampleMatch(
            match_recorded(samples, sampled.condition["item"].astype(np.int64).reshape(-1), reference), views
        )
    if len(sampled.seeds) and "view" not in sampled.condition:
        raise UsageError(
            f"{samples.display_name} holds samples of a model without a record of their conditions",
            hint="leave out the metrics that compare pairs, or sample from images",
        )
    if samples.count != reference.count:
        raise UsageError(
            f"{samples.count:,} samples cannot be matched with {reference.count:,} references of other names",
            hint="give as many references in the same order, or files of the same names",
        )
    return SampleMatch(np.arange(samples.count), views)


def condition_images(
    match: SampleMatch, reference: SampleCollection, images: SampleCollection | None = None
) -> tuple[SampleCollection, Int64[np.ndarray, " N"]]:
    """The images that samples were conditioned on, each once, and each sample's index among them.

    Args:
        images: images of the reference's items, matched by name or order; None for those in the reference.

    Raises:
        UsageError: the reference has no images.
    """
    if images is not None:
        indices = match_to_reference(reference, images).reference_index[match.reference_index]
        selected, inverse = np.unique(indices, return_inverse=True)
        return images.select(selected), inverse.reshape(-1)
    if not isinstance(reference, ShardCollection) or not reference.has_views():
        raise UsageError(
            f"{reference.display_name} has no images of its clouds",
            hint="give shards of `objaverse`, or a folder of images of the same names with `--condition-images`",
        )
    rows, inverse = np.unique(np.stack([match.reference_index, match.view_index], axis=1), axis=0, return_inverse=True)

    def load_values(indices: Int64[np.ndarray, " S"]) -> np.ndarray:
        items, views = rows[indices].T
        return reference.load_views(IMAGE, items.tolist(), views)

    digest = hashlib.sha256(f"{reference.digest} {reference.split} {OF_IMAGES} {rows.tolist()}".encode()).hexdigest()
    collection = ArrayCollection(
        source=reference.source,
        domain="image",
        digest=digest,
        split=reference.split,
        names=[f"item {item}, view {view}" for item, view in rows],
        load_values=load_values,
        verify_source=reference.verify,
    )
    return collection, inverse.reshape(-1)


def reference_clouds(
    match: SampleMatch, reference: SampleCollection
) -> tuple[SampleCollection, Int64[np.ndarray, " N"]]:
    """The references of samples, each once, and each sample's index among them."""
    selected, inverse = np.unique(match.reference_index, return_inverse=True)
    is_whole = len(selected) == reference.count
    return reference if is_whole else reference.select(selected), inverse.reshape(-1)


def match_recorded(
    samples: SampleCollection, recorded: Int64[np.ndarray, " N"], reference: SampleCollection
) -> Int64[np.ndarray, " N"]:
    """Indices among the reference's items, from the indices in the whole split that the samples record.

    Raises:
        UsageError: the reference lacks one of the items.
    """
    known = np.arange(reference.count) if reference.source_indices is None else reference.source_indices
    order = np.argsort(known, kind="stable")
    indices = order[np.searchsorted(known, recorded, sorter=order).clip(max=len(known) - 1)]
    if (known[indices] != recorded).any():
        lost = recorded[known[indices] != recorded]
        raise UsageError(
            f"{samples.display_name} has samples of item {lost[0]:,}, and {reference.display_name} holds "
            f"{reference.count:,}" + ("" if reference.source_indices is None else " others"),
            hint="give the whole split that the samples were conditioned on",
        )
    return indices


def _match_names(sampled: Sequence[str], references: Sequence[str]) -> Int64[np.ndarray, " N"] | None:
    """Indices of the references with the names of samples; None unless every sample has exactly one."""
    for as_key in (str, _without_ending):
        indices = {as_key(name): index for index, name in enumerate(references)}
        if references and len(indices) == len(references) and {as_key(name) for name in sampled} <= indices.keys():
            return np.array([indices[as_key(name)] for name in sampled], dtype=np.int64)
    return None


def _without_ending(name: str) -> str:
    return str(PurePosixPath(name).with_suffix("")) if name else ""


def _metadata(items: SampleCollection) -> Batch:
    """Names, seeds and conditions of items, without their values."""
    names: list[str] = []
    seeds: list[np.ndarray] = []
    conditions: dict[str, list[np.ndarray]] = {}
    for start in range(0, items.count, BLOCK):
        batch = items.load(range(start, min(start + BLOCK, items.count)))
        names += batch.names
        seeds.append(batch.seeds)
        for name, rows in batch.condition.items():
            conditions.setdefault(name, []).append(rows)
    nothing = np.empty(0, dtype=np.int64)
    condition = {name: np.concatenate(rows) for name, rows in conditions.items()}
    return Batch(nothing, nothing, names, np.concatenate([nothing, *seeds]), condition=condition)
