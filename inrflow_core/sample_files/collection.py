"""Items to judge, or to judge by: pictures, clouds or proteins of a shard, a folder of shards or of files, read in parts."""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from inrflow_core.errors import IntegrityError, UsageError, did_you_mean
from inrflow_core.proteins.structure import Structure
from inrflow_core.shards import shard_dataset
from inrflow_core.shards.batch import Batch

NOUNS = {"image": "pictures", "points": "clouds", "protein": "proteins"}
"""What items of each domain are called."""


@dataclass(frozen=True)
class SampleCollection:
    """Some pictures, uint8 (H W C), clouds, float32 (P C), or proteins, that can be read by number."""

    source: Path
    domain: str
    count: int
    digest: str
    """sha256 of what decides them: a manifest, a file, or the names and bytes of a folder's files."""
    fetch: Callable[[Sequence[int]], Batch]
    split: str | None = None
    normalisation: Mapping[str, Any] = field(default_factory=dict)
    facts: Mapping[str, str] = field(default_factory=dict)
    """What is known of where they come from."""
    verify: Callable[[], None] = lambda: None
    """Compares every byte with the digests that shards have beside them; raises IntegrityError, naming what is damaged."""
    fetch_pictures: Callable[[Sequence[int], np.ndarray], np.ndarray] | None = None
    """Given some places and a view of each (from 0 on), what clouds look like, uint8 (B H W 3); None where nobody knows."""
    fetch_cameras: Callable[[Sequence[int], np.ndarray], np.ndarray] | None = None
    """The same of the cameras that saw them, float32 (B 4 4) as `cameras` has them."""
    structures: Callable[[Sequence[int]], list[Structure]] | None = None
    """Of proteins: the structures at some places, each under the name that it is paired by."""
    names: Callable[[], list[str]] | None = None
    """Of proteins: those names, of all."""
    places: np.ndarray | None = None
    """Of a part: where each item stands in the whole split, which is what samples record; None for the whole."""

    def read(self, indices: Sequence[int]) -> Batch:
        """The items at `indices`, in that order.

        Raises:
            IntegrityError: one cannot be read, or holds numbers that are not finite; names it.
            UsageError: they are not of one size.
        """
        batch = self.fetch(indices)
        sizes = [] if batch.sizes is None else sorted({self.shape[0], *batch.sizes.tolist()})
        if len(sizes) > 1:
            raise UsageError(
                f"the clouds of `{self.source}` differ in size: {sizes[0]:,} to {sizes[-1]:,} points",
                hint="give clouds of one size",
            )
        if batch.values.dtype.kind == "f":
            for place in np.flatnonzero(~np.isfinite(batch.values).all(axis=(1, 2))):
                name = batch.names[place] if batch.names else f"number {indices[int(place)]}"
                raise IntegrityError(
                    f"a cloud of `{self.source}` holds numbers that are not finite: {name}",
                    hint="leave it out, or make it again",
                )
        return batch

    @functools.cached_property
    def shape(self) -> tuple[int, ...]:
        """Shape of one item, the first as good as any; of proteins, which differ in size, none."""
        if self.domain == "protein":
            return ()
        return tuple(self.fetch([0]).values.shape[1:])

    @property
    def name(self) -> str:
        """What their place is called, where no text can hold a byte of it with a mark in its stead."""
        return os.fsencode(self.source.name or self.source.resolve().name).decode(errors="replace")

    @property
    def spelled(self) -> str:
        """Where they lie, for messages."""
        return f"`{self.source}`" + (f", split `{self.split}`" if self.split else "")


def subset(items: SampleCollection, places: np.ndarray) -> SampleCollection:
    """The items at some places, in that order."""
    digest = hashlib.sha256(f"{items.digest} {items.split} {places.tolist()}".encode()).hexdigest()

    def fetch(indices: Sequence[int]) -> Batch:
        return items.fetch(places[np.asarray(indices, dtype=np.int64)].tolist())

    def viewed(fetch_views: Callable[[Sequence[int], np.ndarray], np.ndarray] | None) -> Any:
        if fetch_views is None:
            return None
        return lambda indices, views: fetch_views(places[np.asarray(indices, dtype=np.int64)].tolist(), views)

    of_whole = places if items.places is None else items.places[places]
    found = replace(
        items,
        count=len(places),
        digest=digest,
        fetch=fetch,
        fetch_pictures=viewed(items.fetch_pictures),
        fetch_cameras=viewed(items.fetch_cameras),
        places=of_whole.astype(np.int64),
    )
    structures, names = items.structures, items.names
    if structures is None or names is None:
        return found
    return replace(
        found,
        structures=lambda indices: structures(places[np.asarray(indices, dtype=np.int64)].tolist()),
        names=lambda: [names()[place] for place in places],
    )


def evenly_spaced(items: SampleCollection, most: int) -> SampleCollection:
    """At most so many of the items, evenly spread."""
    return (
        items if items.count <= most else subset(items, np.linspace(0, items.count - 1, most).round().astype(np.int64))
    )


def filter_classes(items: SampleCollection, names: Sequence[str]) -> SampleCollection:
    """Those items, from shards, whose class is one of `names`.

    Raises:
        UsageError: they have no such class, or none of it.
    """
    opened = shard_dataset.ShardDataset(items.source) if items.split is not None else None
    for name in names:
        if opened is None or name not in opened.classes:
            raise UsageError(
                f"{items.spelled} has no class `{name}`",
                hint=did_you_mean(name, () if opened is None else opened.classes),
            )
    assert opened is not None and items.split is not None
    numbers = [opened.classes.index(name) for name in names]
    places = np.flatnonzero(np.isin(opened.labels(items.split), numbers))
    if not len(places):
        raise UsageError(f"{items.spelled} holds nothing of the classes {', '.join(names)}", hint="name others")
    facts = {**items.facts, "classes": ", ".join(names)}
    return replace(subset(items, places), facts=facts)


def resized(items: SampleCollection, size: tuple[int, int], filter: str) -> SampleCollection:
    """Pictures enlarged to rows and columns by Pillow's `bilinear` or `bicubic` filter, when they are read."""
    from PIL import Image

    resampling = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}[filter]

    def fetch(indices: Sequence[int]) -> Batch:
        batch = items.fetch(indices)
        channels = batch.values.shape[3]
        large = [
            np.array(Image.fromarray(one.squeeze(2) if channels == 1 else one).resize((size[1], size[0]), resampling))
            for one in batch.values
        ]
        return replace(batch, values=np.stack(large).reshape(len(large), *size, channels))

    digest = hashlib.sha256(f"{items.digest} {filter} {size[0]}x{size[1]}".encode()).hexdigest()
    return replace(items, fetch=fetch, digest=digest)
