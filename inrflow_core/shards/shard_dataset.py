"""A folder of shards with its manifest: HDF5 files of sets, read at random (docs/shard-format.md).

A shard has `values` as one contiguous block, so that set i is at a computed offset of the file and is read with one
`pread` straight into the batch: no chunk look-up, no copy, no lock, any number of threads. The other arrays are
`labels`, `names`, `seeds`, `offsets` (where sets differ in size), `coordinates` (where all sets share them) and
`condition/*`. `hdf5.py` refuses whatever would make HDF5 read another file or run code.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float64, Int64

from inrflow_core.errors import IntegrityError, UsageError, did_you_mean
from inrflow_core.runtime.progress import Progress
from inrflow_core.shards import batch, manifest
from inrflow_core.shards.batch import Batch as Batch  # callers import it from here
from inrflow_core.shards.batch import ConditionSelection
from inrflow_core.shards.manifest import Manifest, ShardEntry
from inrflow_core.shards.shard_file import ShardFile

if TYPE_CHECKING:
    from inrflow_core.shards.shard_file import ShardFile
SAMPLES = "samples"
"""The one split of a shard of samples."""

SEAL = ".sha256"
"""Suffix of the file with the digest, beside a shard of samples."""


class ShardDataset:
    """A folder of shards with its manifest, or one shard of samples (`out.h5`, split `samples`), open for reading."""

    def __init__(self, path: str | Path) -> None:
        """Read the manifest and check that every shard exists with its size; opens no shard.

        Raises:
            MissingError: there are no shards.
            IntegrityError: the manifest is damaged, or a shard is missing or has another size.
        """
        path = Path(path)
        self._lock = threading.Lock()
        self._open: dict[str, ShardFile] = {}
        if path.suffix.lower() == ".h5" and not path.is_dir():
            self.folder = path.parent
            self.manifest = self._manifest_of_samples(path)
        else:
            self.folder, self.manifest = path, manifest.load(path)
            for split in self.manifest.splits.values():
                for entry in split.shards:
                    manifest.check_size(path, self.manifest, entry)
        self._edges = {
            name: np.cumsum([0, *(entry.count for entry in split.shards)])
            for name, split in self.manifest.splits.items()
        }

    @property
    def splits(self) -> list[str]:
        """Names of the splits."""
        return list(self.manifest.splits)

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes by number; empty where there are none."""
        return self.manifest.classes

    @property
    def domain(self) -> str:
        """The domain of the sets."""
        return self.manifest.domain

    def count(self, split: str) -> int:
        """Number of sets of a split."""
        return self._split(split).count

    def conditions(self, split: str) -> list[str]:
        """Names of the conditions of a split."""
        return list(self._shard(self._split(split).shards[0]).condition)

    def condition_shape(self, split: str, name: str) -> tuple[int, ...]:
        """Shape of a condition of one set with all its views, or of one row where sets differ in its length."""
        return self._shard(self._split(split).shards[0]).condition[name].shape[1:]

    def views(self, split: str, name: str) -> int:
        """Number of views of each set in a condition; the largest where sets have different numbers."""
        return int(max(self.view_counts(split, name), default=0))

    def view_counts(self, split: str, name: str) -> Int64[np.ndarray, " N"]:
        """Number of views of every set of a split in a condition."""
        counts = []
        for shard in map(self._shard, self._split(split).shards):
            edges = shard.condition_offsets.get(name)
            if edges is None:
                counts.append(np.full(len(shard), shard.condition[name].shape[1], dtype=np.int64))
            else:
                counts.append(np.diff(edges))
        return np.concatenate([np.empty(0, np.int64), *counts])

    def view_shape(self, split: str, name: str) -> tuple[int, ...]:
        """Shape of one view of a set in a condition."""
        shape = self.condition_shape(split, name)
        is_ragged = name in self._shard(self._split(split).shards[0]).condition_offsets
        return shape if is_ragged else shape[1:]

    def labels(self, split: str) -> np.ndarray:
        """The class of every set of a split, -1 for none."""
        shards = [self._shard(entry).labels for entry in self._split(split).shards]
        return np.concatenate([np.empty(0, np.int64), *shards])

    def sizes(self, split: str) -> np.ndarray | None:
        """Pairs of every set of a split, int64; None where all sets have one size."""
        offsets = [self._shard(entry).offsets for entry in self._split(split).shards]
        differences = [np.diff(edges) for edges in offsets if edges is not None]
        return np.concatenate(differences) if differences and len(differences) == len(offsets) else None

    def sizes_at(self, split: str, indices: Sequence[int] | np.ndarray) -> Int64[np.ndarray, " B"]:
        """Pairs of some sets, where sets differ in size; where they do not, the first number of their shape."""
        positions = np.asarray(indices, dtype=np.int64)
        numbers = np.searchsorted(self._edges[split], positions, side="right") - 1
        sizes = np.full(len(positions), self.manifest.shape[0], dtype=np.int64)
        for row, (number, index) in enumerate(zip(numbers, positions - self._edges[split][numbers], strict=True)):
            shard = self._shard(self._split(split).shards[number])
            if shard.offsets is not None:
                start, stop = shard.byte_range(int(index))
                sizes[row] = stop - start
        return sizes

    def names(self, split: str) -> list[str]:
        """The name of every set of a split."""
        return [name for entry in self._split(split).shards for name in self._shard(entry).names]

    def buffer(self, split: str, count: int) -> np.ndarray | None:
        """An array for the `out` of `read`, for `count` sets; None where sets differ in size."""
        shape = self.manifest.shape
        return np.empty((count, *shape), self.manifest.dtype) if shape[0] else None

    def read(
        self,
        split: str,
        indices: Sequence[int] | np.ndarray,
        out: np.ndarray | None = None,
        *,
        with_names: bool = False,
        conditions: ConditionSelection = batch.ALL,
        with_values: bool = True,
        rows: Int64[np.ndarray, "B K"] | None = None,
    ) -> Batch:
        """The sets at `indices`, in that order; values are read into `out` (see `buffer`) if it is set.

        With `with_values = False` no value is read: the batch has zeros of the same shape. With `rows`, of sets that
        differ in size, only these K rows of each are read, of the values and of the conditions with as many rows.

        Raises:
            UsageError: no such split, or the shards lack a requested condition.
            IntegrityError: a shard is damaged.
        """
        positions = np.asarray(indices, dtype=np.int64)
        assert not len(positions) or (positions.min() >= 0 and positions.max() < self.count(split))
        numbers = np.searchsorted(self._edges[split], positions, side="right") - 1
        entries = self._split(split).shards
        located = [
            (self._shard(entries[number]), int(index - self._edges[split][number]))
            for number, index in zip(numbers, positions, strict=True)
        ]
        out = self.buffer(split, len(positions)) if out is None and with_values else out
        if rows is not None:
            values, sizes = read_rows(located, rows, self.manifest.shape[1:], self.manifest.dtype, with_values), None
        elif not with_values:
            values, sizes = zero_values(located, self.manifest.shape, self.manifest.dtype)
        elif out is None:
            values, sizes = read_ragged(located, self.manifest.shape[1:], self.manifest.dtype)
        else:
            assert out.shape == (len(located), *self.manifest.shape) and out.dtype == self.manifest.dtype
            values, sizes = read_uniform(located, out), None
        try:
            condition, counts = read_conditions(located, conditions, rows)
        except KeyError as error:
            raise UsageError(
                f"the shards in `{self.folder}` have no condition {error}",
                hint="prepare them again with the conditions of the preset; docs/data-sets.md says how",
            ) from error
        return Batch(
            values,
            np.array([shard.labels[index] for shard, index in located], dtype=np.int64),
            [shard.names[index] for shard, index in located] if with_names else [],
            np.array([shard.seeds[index] for shard, index in located if shard.seeds is not None], dtype=np.int64),
            sizes,
            condition,
            counts,
        )

    def verify(self, splits: Sequence[str] | None = None, progress: Progress | None = None) -> None:
        """Read every byte of the shards of some splits (default: all) and compare with the digests in the manifest.

        Raises:
            IntegrityError: a shard is damaged; the hint has the command that repairs it.
        """
        self._verify([entry for name in splits or self.splits for entry in self._split(name).shards], progress)

    def verify_items(self, split: str, indices: Sequence[int] | np.ndarray) -> None:
        """Verify only the shards that contain some sets of a split; raises as `verify`."""
        numbers = np.unique(np.searchsorted(self._edges[split], np.asarray(indices), side="right") - 1)
        self._verify([self._split(split).shards[number] for number in numbers])

    def _verify(self, entries: Sequence[ShardEntry], progress: Progress | None = None) -> None:
        recorded = [entry for entry in entries if entry.sha256]
        for _, problem in manifest.find_damaged(self.folder, self.manifest, recorded, progress):
            raise problem

    def _manifest_of_samples(self, path: Path) -> Manifest:
        shard = self._open[path.name] = ShardFile(path, hint=f"sample again with `inrflow sample {path}`")
        beside = path.with_name(f"{path.name}{SEAL}")
        digest = beside.read_text(encoding="ascii", errors="replace").strip() if beside.is_file() else ""
        entry = ShardEntry(path.name, len(shard), path.stat().st_size, digest)
        header = shard.header
        return Manifest(
            dataset=header.dataset,
            domain=header.domain,
            version=str(header.settings.get("inrflow", "")),
            shape=shard.item_shape,
            dtype=shard.values.dtype.name,
            classes=header.classes,
            normalization=header.normalization,
            settings=header.settings,
            source={},
            splits={header.split: manifest.Split(len(shard), (entry,), manifest.ChannelStats((), ()))},
        )

    def _split(self, name: str) -> manifest.Split:
        if name not in self.manifest.splits:
            raise UsageError(
                f"the shards in `{self.folder}` have no split `{name}`", hint=did_you_mean(name, self.splits)
            )
        return self.manifest.splits[name]

    def _shard(self, entry: ShardEntry) -> ShardFile:
        shard = self._open.get(entry.file)
        if shard is None:
            with self._lock:
                shard = self._open.get(entry.file) or ShardFile(
                    self.folder / entry.file, hint=manifest.repair_hint(self.folder, self.manifest)
                )
                self._check_agrees(shard, entry)
                self._open[entry.file] = shard
        return shard

    def _check_agrees(self, shard: ShardFile, entry: ShardEntry) -> None:
        stated = self.manifest
        got = (shard.header.domain, shard.values.dtype, shard.item_shape, len(shard))
        if got != (stated.domain, stated.dtype, stated.shape, entry.count):
            raise IntegrityError(
                f"`{shard.path}` is of another data set than the manifest beside it",
                hint=manifest.repair_hint(self.folder, stated),
            )


Located = Sequence[tuple["ShardFile", int]]
"""The shard of each set of a batch, and its index there."""


def read_uniform(located: Located, out: np.ndarray) -> np.ndarray:
    """The values of sets of one size, into `out`."""
    for row, (shard, index) in enumerate(located):
        shard.read(shard.values, index, out[row])
    return out


def read_ragged(located: Located, shape: tuple[int, ...], dtype: str) -> tuple[np.ndarray, Int64[np.ndarray, " B"]]:
    """The padded values of sets that differ in size, and their sizes; `shape` is that of one pair's value."""
    spans = [shard.byte_range(index) for shard, index in located]
    sizes = np.array([stop - start for start, stop in spans], dtype=np.int64)
    out = np.zeros((len(located), max(sizes, default=0), *shape), dtype)
    for row, ((shard, _), (start, stop)) in enumerate(zip(located, spans, strict=True)):
        shard.read(shard.values, start, out[row, : stop - start], stop - start)
    return out, sizes


def read_rows(
    located: Located, rows: Int64[np.ndarray, "B K"], shape: tuple[int, ...], dtype: str, with_values: bool = True
) -> np.ndarray:
    """Some rows of each set's values, where sets differ in size; the others are not read. Zeros without values."""
    out = np.zeros((*rows.shape, *shape), dtype)
    for number, (shard, index) in enumerate(located if with_values else ()):
        start, stop = shard.byte_range(index)
        assert (rows[number] >= 0).all() and (rows[number] < stop - start).all()
        for column, row in enumerate(rows[number]):
            shard.read(shard.values, start + int(row), out[number, column : column + 1])
    return out


def zero_values(
    located: Located, shape: tuple[int, ...], dtype: str
) -> tuple[np.ndarray, Int64[np.ndarray, " B"] | None]:
    """Zeros in place of the values of sets, and the sizes of sets that differ in size; reads no values."""
    if shape[0]:
        return np.zeros((len(located), *shape), dtype), None
    ranges = [shard.byte_range(index) for shard, index in located]
    sizes = np.array([stop - start for start, stop in ranges], dtype=np.int64)
    return np.zeros((len(located), max(sizes, default=0), *shape[1:]), dtype), sizes


def read_conditions(
    located: Located, selection: ConditionSelection, rows_read: Int64[np.ndarray, "B K"] | None = None
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """The conditions of sets, and the numbers of real rows of those that differ in length.

    With `rows_read`, these rows alone of conditions that have as many rows as the sets have pairs.

    Raises:
        KeyError: a shard lacks a requested condition.
    """
    result, counts = {}, {}
    names = list(located[0][0].condition) if located and selection.names is None else list(selection.names or [])
    for name in names if located else []:
        if rows_read is not None and _has_row_for_each_pair(located, name):
            result[name] = _some_rows(located, name, rows_read)
        elif selection.views is not None and selection.has_views(name):
            result[name] = _one_view(located, name, selection.views)
        elif name in located[0][0].condition_offsets:
            result[name], counts[name] = _ragged_condition(located, name)
        else:
            rows = located[0][0].condition[name]
            out = result[name] = np.empty((len(located), *rows.shape[1:]), rows.dtype)
            for row, (shard, index) in enumerate(located):
                shard.read(shard.condition[name], index, out[row : row + 1])
    return result, counts


def _has_row_for_each_pair(located: Located, name: str) -> bool:
    return all(
        name in shard.condition_offsets
        and shard.offsets is not None
        and np.array_equal(shard.condition_offsets[name][index : index + 2], shard.offsets[index : index + 2])
        for shard, index in located
    )


def _some_rows(located: Located, name: str, rows: Int64[np.ndarray, "B K"]) -> np.ndarray:
    """Some rows of each set's condition."""
    of = located[0][0].condition[name]
    out = np.empty((*rows.shape, *of.shape[1:]), of.dtype)
    for number, (shard, index) in enumerate(located):
        start = int(shard.condition_offsets[name][index])
        for column, row in enumerate(rows[number]):
            shard.read(shard.condition[name], start + int(row), out[number, column : column + 1])
    return out


def _ragged_condition(located: Located, name: str) -> tuple[np.ndarray, Int64[np.ndarray, " B"]]:
    edges = [shard.condition_offsets[name][index : index + 2] for shard, index in located]
    counts = np.array([stop - start for start, stop in edges], dtype=np.int64)
    rows = located[0][0].condition[name]
    out = np.zeros((len(located), max(counts), *rows.shape[1:]), rows.dtype)
    for row, ((shard, _), (start, stop)) in enumerate(zip(located, edges, strict=True)):
        shard.read(shard.condition[name], int(start), out[row, : stop - start], int(stop - start))
    return out, counts


def _one_view(located: Located, name: str, views: Float64[np.ndarray, " B"]) -> np.ndarray:
    """One view of each set, zeros where it has none; the others are not read."""
    rows = located[0][0].condition[name]
    is_ragged = name in located[0][0].condition_offsets
    out = np.zeros((len(located), *rows.shape[1 if is_ragged else 2 :]), rows.dtype)
    for row, (shard, index) in enumerate(located):
        if is_ragged:
            by_view, (start, stop) = shard.condition[name], shard.condition_offsets[name][index : index + 2]
            first, count = int(start), int(stop - start)
        else:
            by_view, count = shard.condition[name].row_views(), rows.shape[1]
            first = index * count
        if count:
            shard.read(by_view, first + int(views[row] * count), out[row : row + 1])
    return out
