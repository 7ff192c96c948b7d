"""Collections of samples or reference items: one protocol, and a class each for arrays, structures and shards."""

from __future__ import annotations

import functools
import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np
from jaxtyping import Int64

from inrflow_core.domains._contract import domain_class
from inrflow_core.errors import IntegrityError, UsageError
from inrflow_core.geometry import ply_reader
from inrflow_core.proteins.structure import Structure
from inrflow_core.shards.batch import Batch, ConditionSelection
from inrflow_core.shards.shard_dataset import ShardDataset

IS_CENTERED = "is_centered"
"""Whether a cloud lay too far from the origin for float32 and was centered."""
LIGHT_CONDITIONS = ("offset", "scale", "view", "item", "support")
"""Conditions that are read with every item. Others, such as images and their tokens, are many times larger than a cloud."""
IMAGE = "image"
"""The condition of point clouds in several views: the rendered image; its camera is the condition `sets.CAMERA`."""

C = TypeVar("C", bound="_Collection")


@runtime_checkable
class SampleCollection(Protocol):
    """Images, uint8 (H W C), point clouds, float32 (P C), or proteins, each read by its index."""

    @property
    def source(self) -> Path:
        """The file or folder they come from."""
        ...

    @property
    def domain(self) -> str:
        """Name of their domain: image, points, protein."""
        ...

    @property
    def digest(self) -> str:
        """sha256 of a manifest, of a file, or of the names and bytes of a folder's files."""
        ...

    @property
    def split(self) -> str | None:
        """The split of a folder of shards; None of everything else."""
        ...

    @property
    def normalization(self) -> Mapping[str, Any]:
        """How the values were normalized, as in a manifest."""
        ...

    @property
    def metadata(self) -> Mapping[str, str]:
        """Provenance that the source records of itself."""
        ...

    @property
    def source_indices(self) -> Int64[np.ndarray, " N"] | None:
        """Index of each selected item in the whole source, as samples record it; None without a selection."""
        ...

    @property
    def clusters(self) -> Int64[np.ndarray, " N"] | None:
        """A number for each item that dependent items share, such as views of one scene; None if all are independent."""
        ...

    @property
    def count(self) -> int:
        """Number of items."""
        ...

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the first item; () of proteins, which differ in size."""
        ...

    @property
    def name(self) -> str:
        """Name of the file or folder; bytes that are not text are replaced."""
        ...

    @property
    def display_name(self) -> str:
        """The source and its split, for messages."""
        ...

    def load(self, indices: Sequence[int]) -> Batch:
        """The items at `indices`, unchecked; raises IntegrityError where a file cannot be read."""
        ...

    def read(self, indices: Sequence[int]) -> Batch:
        """The items at `indices`, in that order.

        Raises:
            IntegrityError: one cannot be read, or holds numbers that are not finite; names it.
            UsageError: they differ in size.
        """
        ...

    def load_conditions(self, indices: Sequence[int]) -> Mapping[str, np.ndarray]:
        """The small conditions of the items at `indices`, without their values."""
        ...

    def item_names(self) -> list[str]:
        """Names of all items; samples and references are paired by them."""
        ...

    def class_counts(self) -> Mapping[str, int]:
        """Number of items of each class by its name, in the order of the classes; empty where items have no classes."""
        ...

    @property
    def classes(self) -> Sequence[str]:
        """Names of the classes by number; empty where items have no classes, or these no names."""
        ...

    def labels(self) -> Int64[np.ndarray, " N"]:
        """The class of each item by number, -1 for none."""
        ...

    def structures(self, indices: Sequence[int]) -> list[Structure]:
        """The proteins at `indices`, each with its item's name; raises UsageError unless the items are proteins."""
        ...

    def as_verified(self) -> SampleCollection:
        """The same items, which `verify` does not read again."""
        ...

    def verify(self) -> None:
        """Compare every byte of the shards that hold these items with the recorded digests.

        Raises:
            IntegrityError: one is damaged; names it.
        """
        ...

    def select(self, indices: Int64[np.ndarray, " S"]) -> SampleCollection:
        """The items at `indices`, in that order, as a collection."""
        ...

    def map_values(self, change: Callable[[np.ndarray], np.ndarray], description: str) -> SampleCollection:
        """The same items with `change` applied to the values of every batch; `description` enters the digest."""
        ...


@dataclass(frozen=True, kw_only=True)
class _Collection(ABC):
    """The members that the three classes share."""

    source: Path
    domain: str
    digest: str
    split: str | None = None
    normalization: Mapping[str, Any] = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=dict)
    source_indices: Int64[np.ndarray, " N"] | None = None
    clusters: Int64[np.ndarray, " N"] | None = None
    changes: tuple[Callable[[np.ndarray], np.ndarray], ...] = ()
    """Applied to the values of every batch, in order."""
    is_verified: bool = False

    @property
    def count(self) -> int:
        return self._total() if self.source_indices is None else len(self.source_indices)

    @property
    def shape(self) -> tuple[int, ...]:
        return self._shape

    @property
    def name(self) -> str:
        return os.fsencode(self.source.name or self.source.resolve().name).decode(errors="replace")

    @property
    def display_name(self) -> str:
        return f"`{self.source}`" + (f", split `{self.split}`" if self.split else "")

    def load(self, indices: Sequence[int]) -> Batch:
        batch = self._load(self.index_in_source(indices))
        for change in self.changes:
            batch = replace(batch, values=change(batch.values))
        return batch

    def read(self, indices: Sequence[int]) -> Batch:
        batch = self.load(indices)
        sizes = [] if batch.sizes is None else sorted({self.shape[0], *batch.sizes.tolist()})
        if len(sizes) > 1:
            raise UsageError(
                f"the clouds of `{self.source}` differ in size: {sizes[0]:,} to {sizes[-1]:,} points",
                hint="give clouds of one size",
            )
        if batch.values.dtype.kind == "f":
            for row in np.flatnonzero(~np.isfinite(batch.values).all(axis=(1, 2))):
                name = batch.names[row] if batch.names else f"number {indices[int(row)]}"
                raise IntegrityError(
                    f"a cloud of `{self.source}` holds numbers that are not finite in single precision: {name}",
                    hint="scale it down, leave it out, or make it again",
                )
        return batch

    def load_conditions(self, indices: Sequence[int]) -> Mapping[str, np.ndarray]:
        return self.load(indices).condition

    def class_counts(self) -> Mapping[str, int]:
        return {}

    @property
    def classes(self) -> Sequence[str]:
        return ()

    def labels(self) -> Int64[np.ndarray, " N"]:
        return np.full(self.count, -1, dtype=np.int64)

    def structures(self, indices: Sequence[int]) -> list[Structure]:
        raise UsageError(
            f"{self.display_name} holds items of the domain `{self.domain}`, not proteins", hint="give proteins"
        )

    def verify(self) -> None:
        if not self.is_verified:
            self._verify()

    def as_verified(self: C) -> C:
        return replace(self, is_verified=True)

    def select(self: C, indices: Int64[np.ndarray, " S"]) -> C:
        digest = hashlib.sha256(f"{self.digest} {self.split} {indices.tolist()}".encode()).hexdigest()
        clusters = None if self.clusters is None else self.clusters[indices]
        return replace(self, digest=digest, source_indices=self.index_in_source(indices), clusters=clusters)

    def map_values(self: C, change: Callable[[np.ndarray], np.ndarray], description: str) -> C:
        digest = hashlib.sha256(f"{self.digest} {description}".encode()).hexdigest()
        return replace(self, digest=digest, changes=(*self.changes, change))

    def index_in_source(self, indices: Sequence[int] | np.ndarray) -> Int64[np.ndarray, " S"]:
        """The indices in the whole source of the items at `indices`."""
        selected = np.asarray(indices, dtype=np.int64)
        return selected if self.source_indices is None else self.source_indices[selected].astype(np.int64)

    @abstractmethod
    def _verify(self) -> None:
        """Compare the source's bytes with its recorded digests, if it has any."""

    @functools.cached_property
    def _shape(self) -> tuple[int, ...]:
        return self._first_shape()

    def _first_shape(self) -> tuple[int, ...]:
        return tuple(self.load([0]).values.shape[1:])

    @abstractmethod
    def _total(self) -> int:
        """Number of items in the whole source."""

    @abstractmethod
    def _load(self, indices: Int64[np.ndarray, " S"]) -> Batch:
        """Items by their index in the whole source."""


@dataclass(frozen=True, kw_only=True)
class ArrayCollection(_Collection):
    """Images or point clouds of one size: in memory, in one array file, or one in each file."""

    names: Sequence[str]
    """Of every item of the source."""
    load_values: Callable[[Int64[np.ndarray, " S"]], np.ndarray]
    """Values of the items at some indices of the source, uint8 (S H W C) or floats (S P C)."""
    seeds: Int64[np.ndarray, " N"] | None = None
    """Of samples of a model in this process; None of everything else."""
    condition: Mapping[str, np.ndarray] = field(default_factory=dict)
    """Arrays with one row for each item of the source."""
    verify_source: Callable[[], None] | None = None
    """Verifies the shards that the values come from."""

    def item_names(self) -> list[str]:
        return list(self.names) if self.source_indices is None else [self.names[int(i)] for i in self.source_indices]

    def _verify(self) -> None:
        if self.verify_source is not None:
            self.verify_source()

    def _total(self) -> int:
        return len(self.names)

    def _load(self, indices: Int64[np.ndarray, " S"]) -> Batch:
        """Items; clouds in float32, and the condition `IS_CENTERED` says which were centered for that."""
        values, condition = self.load_values(indices), {name: rows[indices] for name, rows in self.condition.items()}
        if values.dtype.kind == "f":
            values, condition[IS_CENTERED] = ply_reader.single_precision(values)
        names = [self.names[int(index)] for index in indices]
        seeds = np.empty(0, dtype=np.int64) if self.seeds is None else self.seeds[indices]
        return Batch(values, np.full(len(indices), -1, dtype=np.int64), names, seeds, condition=condition)


@dataclass(frozen=True, kw_only=True)
class StructureCollection(_Collection):
    """Proteins, from files or in memory."""

    names: Sequence[str]
    """Of every protein of the source."""
    load_structure: Callable[[int], Structure]
    """The protein at an index of the source."""

    def item_names(self) -> list[str]:
        return list(self.names) if self.source_indices is None else [self.names[int(i)] for i in self.source_indices]

    def structures(self, indices: Sequence[int]) -> list[Structure]:
        return [replace(self.load_structure(int(i)), name=self.names[i]) for i in self.index_in_source(indices)]

    def _verify(self) -> None:
        """Files of structures have no recorded digests."""

    def _first_shape(self) -> tuple[int, ...]:
        return ()

    def _total(self) -> int:
        return len(self.names)

    def _load(self, indices: Int64[np.ndarray, " S"]) -> Batch:
        """Atom positions in Angstrom, float32 (S N 3), padded with zeros; as conditions the residues and `is_known`."""
        structures = [self.load_structure(int(index)) for index in indices]
        sizes = np.array([len(one.positions) for one in structures], dtype=np.int64)
        lengths = np.array([len(one.codes) for one in structures], dtype=np.int64)
        return Batch(
            _padded([one.positions for one in structures]),
            np.full(len(structures), -1, dtype=np.int64),
            [self.names[int(index)] for index in indices],
            np.empty(0, dtype=np.int64),
            sizes,
            {
                "residues": _padded([one.codes for one in structures]),
                "is_known": _padded([one.is_known for one in structures]),
            },
            {"residues": lengths, "is_known": sizes},
        )


@dataclass(frozen=True, kw_only=True)
class ShardCollection(_Collection):
    """Items of one split of a folder of shards, or of a single shard, of any domain."""

    shards: ShardDataset
    shard_split: str
    """The split that is read; a single shard has only one."""
    conditions: Sequence[str]
    """Names of the arrays that the shards hold beside the values."""
    is_by_class: bool = False
    """Whether the labels of the whole split decided which items these are."""

    @property
    def _light_conditions(self) -> ConditionSelection:
        return ConditionSelection([name for name in LIGHT_CONDITIONS if name in self.conditions])

    @property
    def _holds_structures(self) -> bool:
        return domain_class(self.domain).MAKES_STRUCTURES

    def item_names(self) -> list[str]:
        names = self.shards.names(self.shard_split)
        return names if self.source_indices is None else [names[index] for index in self.source_indices]

    @property
    def classes(self) -> Sequence[str]:
        return self.shards.classes

    def labels(self) -> Int64[np.ndarray, " N"]:
        labels = self.shards.labels(self.shard_split).astype(np.int64)
        return labels if self.source_indices is None else labels[self.source_indices]

    def class_counts(self) -> Mapping[str, int]:
        labels = self.labels()
        counts = np.bincount(labels[labels >= 0], minlength=len(self.shards.classes))
        named = dict(zip(self.shards.classes, counts.tolist(), strict=False))
        return {name: count for name, count in named.items() if count}

    def structures(self, indices: Sequence[int]) -> list[Structure]:
        """Residues are numbered from 1: shards do not store the numbers of the files."""
        if not self._holds_structures:
            return super().structures(indices)
        batch = self.shards.read(
            self.shard_split,
            self.index_in_source(indices).tolist(),
            with_names=True,
            conditions=ConditionSelection(("residues", "is_known")),
        )
        assert batch.sizes is not None
        structures = []
        for row, (atoms, count) in enumerate(zip(batch.sizes, batch.condition_lengths["residues"], strict=True)):
            codes = batch.condition["residues"][row, :count]
            is_known = batch.condition["is_known"][row, :atoms] > 0
            numbers = np.arange(1, count + 1, dtype=np.int64)
            structures.append(Structure(batch.names[row], codes, batch.values[row, :atoms], is_known, numbers))
        return structures

    def load_conditions(self, indices: Sequence[int]) -> Mapping[str, np.ndarray]:
        rows, light = self.index_in_source(indices).tolist(), self._light_conditions
        return self.shards.read(self.shard_split, rows, with_values=False, conditions=light).condition

    def has_views(self, condition: str = IMAGE) -> bool:
        """Whether every item has views of a condition, such as rendered images."""
        return condition in self.conditions

    def num_views(self, condition: str = IMAGE) -> int:
        """Views of every item; the largest number where items differ."""
        return self.shards.views(self.shard_split, condition)

    def view_counts(self, condition: str) -> Int64[np.ndarray, " N"]:
        """Views of each item."""
        counts = self.shards.view_counts(self.shard_split, condition)
        return counts if self.source_indices is None else counts[self.source_indices]

    def load_views(self, condition: str, indices: Sequence[int], views: Int64[np.ndarray, " S"]) -> np.ndarray:
        """One view of each item: images, uint8 (S H W 3), or cameras, float32 (S 4 4).

        Raises:
            UsageError: there is no such view.
        """
        count = self.num_views(condition)
        if len(views) and not 0 <= views.min() <= views.max() < count:
            raise UsageError(
                f"`{self.shards.folder}` has {count} views of every object, "
                f"and a sample is conditioned on view {views.max()}",
                hint="give the reference that the samples were conditioned on",
            )
        selection = ConditionSelection([condition], (views + 0.5) / count)
        rows = self.index_in_source(indices).tolist()
        return self.shards.read(self.shard_split, rows, conditions=selection).condition[condition]

    def _verify(self) -> None:
        """Of selected items only their shards, unless others decided the selection."""
        if self.source_indices is None or self.is_by_class:
            self.shards.verify([self.shard_split])
        else:
            self.shards.verify_items(self.shard_split, self.source_indices)

    def _first_shape(self) -> tuple[int, ...]:
        return () if self._holds_structures else super()._first_shape()

    def _total(self) -> int:
        return self.shards.count(self.shard_split)

    def _load(self, indices: Int64[np.ndarray, " S"]) -> Batch:
        return self.shards.read(self.shard_split, indices.tolist(), with_names=True, conditions=self._light_conditions)


def in_memory(
    values: np.ndarray,
    domain: str,
    *,
    source: Path,
    seeds: Int64[np.ndarray, " N"],
    normalization: Mapping[str, Any],
    condition: Mapping[str, np.ndarray] | None = None,
    provenance: str = "",
) -> ArrayCollection:
    """Samples of a model in this process, uint8 (N H W C) or float32 (N P C), each named by its seed.

    `condition` has a row for each: what it was conditioned on. `provenance` enters the digest.
    """
    head = f"{values.dtype} {values.shape} {provenance}".strip()
    return ArrayCollection(
        source=source,
        domain=domain,
        digest=hashlib.sha256(head.encode() + values.tobytes()).hexdigest(),
        normalization=normalization,
        names=[f"seed-{seed}" for seed in seeds],
        load_values=lambda indices: values[indices],
        seeds=seeds,
        condition=condition or {},
    )


def _padded(rows: Sequence[np.ndarray]) -> np.ndarray:
    longest = max(map(len, rows))
    padded = np.zeros((len(rows), longest, *rows[0].shape[1:]), rows[0].dtype)
    for index, row in enumerate(rows):
        padded[index, : len(row)] = row
    return padded
