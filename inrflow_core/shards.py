"""Shards: HDF5 files of sets, and the only file that opens HDF5 (docs/shard-format.md).

A shard holds `values` as one contiguous block, so that set i lies at a computed place of the file and is read with
one `pread` straight into the batch: no chunk look-up, no copy, no lock, and any number of threads at once. `labels`,
`names`, `seeds`, `offsets` (where sets differ in size), `coordinates` (where all sets share them) and `condition/*`
lie beside it.

A file from outside is data: whatever would make HDF5 read another file or run other code (external and soft links,
external storage, virtual data sets, references, filters beyond gzip, shuffle, lzf and fletcher32) is refused.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, lru_cache
from io import FileIO
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from inrflow_core import batches, manifest
from inrflow_core.batches import Batch as Batch  # part of this file's face, as some of the next
from inrflow_core.batches import Wanted as Wanted
from inrflow_core.columns import FORMAT, SCHEMA, Frame
from inrflow_core.columns import Columns as Columns
from inrflow_core.columns import Header as Header
from inrflow_core.columns import joined as joined
from inrflow_core.errors import IntegrityError, MissingError, UsageError, did_you_mean
from inrflow_core.manifest import Manifest, Progress, ShardEntry
from inrflow_core.manifest import digest as digest
from inrflow_core.outputs import written

VALUE_TYPES = ("uint8", "float16", "float32")
SAMPLES = "samples"
"""The one split of a shard that generation wrote."""

SEAL = ".sha256"
"""Of a shard of samples: the suffix of the file beside it that holds its digest."""
OPEN_FILES = 256
"""Systems allow a process 1,024 as a rule."""
KNOWN_FILTERS = {h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_FLETCHER32, h5py.h5z.FILTER_LZF}
PLAIN_TYPES = {h5py.h5t.INTEGER, h5py.h5t.FLOAT, h5py.h5t.STRING, h5py.h5t.ENUM}
DAMAGE = (OSError, RuntimeError, KeyError, ValueError, TypeError)
"""What h5py raises on a file that is not what it claims."""


def write(
    path: Path, header: Header, blocks: Iterable[np.ndarray], columns: Columns, *, shape: tuple[int, ...], dtype: str
) -> ShardEntry:
    """Write one shard, whole or not at all; the same arguments give the same bytes.

    `shape` is that of all values together, of which `blocks` brings some rows at a time, in order.

    Raises:
        OutOfMemory: the disk is full.
    """
    size = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
    frame = Frame()
    offset = _fill(frame, header, columns, shape, dtype)
    with written(path, frame.size) as beside:
        rows, hashed = 0, hashlib.sha256()
        with beside.open("wb") as file:

            def put(content: Any) -> None:
                hashed.update(content)
                file.write(content)

            put(frame.part(0, offset))
            for block in blocks:
                assert block.dtype == dtype and block.shape[1:] == shape[1:]
                put(np.ascontiguousarray(block).data)
                rows += len(block)
            put(frame.part(offset + size, frame.size))
        assert rows == shape[0]
        return ShardEntry(path.name, len(columns.labels), frame.size, hashed.hexdigest())


def _fill(frame: Frame, header: Header, columns: Columns, shape: tuple[int, ...], dtype: str) -> int:
    """Write a shard's parts but the values into a frame; returns where the values belong."""
    settings = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    settings.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    settings.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    settings.set_obj_track_times(False)
    with h5py.File(frame, "w", libver=("v110", "v110")) as file:
        for name, value in header.attributes().items():
            file.attrs[name] = value
        kind, space = h5py.h5t.py_create(np.dtype(dtype)), h5py.h5s.create_simple(shape)
        values = h5py.h5d.create(file.id, b"values", kind, space, settings)
        for name, array in columns.arrays().items():
            file.create_dataset(name, data=array, track_times=False)
        return values.get_offset() if values.get_storage_size() else 0


@dataclass(frozen=True)
class Rows:
    """A contiguous array inside a file: where it begins, and what one row is."""

    offset: int
    shape: tuple[int, ...]
    dtype: np.dtype

    @property
    def stride(self) -> int:
        """Bytes of one row."""
        return int(np.prod(self.shape[1:], dtype=np.int64)) * self.dtype.itemsize

    def split(self) -> Rows:
        """The same block with what the second axis counts as rows."""
        return Rows(self.offset, (self.shape[0] * self.shape[1], *self.shape[2:]), self.dtype)


class Shard:
    """One shard, open for reading. Any number of threads may read it."""

    def __init__(self, path: Path, *, hint: str | None = None) -> None:
        """Check the file and read everything but the values.

        Raises:
            MissingError: there is no such file.
            IntegrityError: it is no shard, of another schema, damaged, or holds what is refused.
        """
        self.path, self._hint = path, hint or "make it again"
        with opened(path, hint=self._hint) as file:
            self.header = self._read_header(file)
            self.values = self._rows(file, "values", VALUE_TYPES)
            self.labels = self._column(file, "labels", np.int64)
            self.offsets = self._column(file, "offsets", np.int64) if "offsets" in file else None
            self.seeds = self._column(file, "seeds", np.int64) if "seeds" in file else None
            self.coordinates = _data(file, "coordinates")[...] if "coordinates" in file else None
            self.condition = {name: self._rows(file, f"condition/{name}") for name in _names(file, "condition")}
            self.condition_offsets = {
                name: self._column(file, f"condition_offsets/{name}", np.int64)
                for name in _names(file, "condition_offsets")
            }
        self._check_counts()

    def __len__(self) -> int:
        """Sets in this shard."""
        return len(self.labels)

    @property
    def inner(self) -> tuple[int, ...]:
        """Shape of one set's values; the first number is 0 where sets differ in it."""
        shape = self.values.shape[1:]
        return shape if self.offsets is None else (0, *shape)

    @cached_property
    def names(self) -> list[str]:
        """The name of every set; empty where they have none."""
        with opened(self.path, hint=self._hint) as file:
            if "names" not in file:
                return [""] * len(self)
            return [bytes(name).decode(errors="replace") for name in _data(file, "names")[...]]

    def span(self, index: int) -> tuple[int, int]:
        """The rows of the values that a set has, where sets differ in size."""
        assert self.offsets is not None
        return int(self.offsets[index]), int(self.offsets[index + 1])

    def read(self, rows: Rows, index: int, out: np.ndarray, count: int = 1) -> None:
        """Put `count` rows from `index` on into `out`, which is contiguous and has their size.

        Raises:
            IntegrityError: the file ends before them.
        """
        wanted = rows.stride * count
        if not wanted:
            return
        file = _file(self)  # named, so that it stays open while it is read
        got = os.preadv(file.fileno(), [memoryview(out.data).cast("B")], rows.offset + rows.stride * index)
        if got != wanted:
            raise self._damaged(f"it ends {wanted - got} bytes early")

    def _read_header(self, file: h5py.File) -> Header:
        told = {name: _text(value) for name, value in file.attrs.items()}
        if told.get("format") != FORMAT:
            raise IntegrityError(f"`{self.path}` is no shard of inrflow", hint="`inrflow prepare` writes shards")
        if told.get("schema") != str(SCHEMA):
            raise IntegrityError(
                f"`{self.path}` is a shard of schema {told.get('schema')}, this inrflow reads {SCHEMA}", hint=self._hint
            )
        normalisation, classes, settings = (json.loads(told[name]) for name in ("normalisation", "classes", "settings"))
        return Header(told["domain"], told["dataset"], told["split"], normalisation, tuple(classes), settings)

    def _rows(self, file: h5py.File, name: str, allowed: Sequence[str] | None = None) -> Rows:
        data = _data(file, name)
        if data.chunks is not None or data.dtype.hasobject or (allowed and data.dtype.name not in allowed):
            raise self._damaged(f"`{name}` is not one contiguous block of {' or '.join(allowed or ['numbers'])}")
        rows = Rows(data.id.get_offset() or 0, data.shape, data.dtype)
        if rows.offset + rows.stride * rows.shape[0] > self.path.stat().st_size:
            raise self._damaged(f"`{name}` goes on past the end of the file")
        return rows

    def _column(self, file: h5py.File, name: str, dtype: Any) -> np.ndarray:
        data = _data(file, name)
        if data.ndim != 1 or data.dtype != dtype:
            raise self._damaged(f"`{name}` is no row of whole numbers")
        return np.asarray(data[...])

    def _check_counts(self) -> None:
        count, pairs = len(self.labels), self.values.shape[0]
        if self.offsets is None:
            is_right = count == pairs
        else:
            is_right = _are_offsets(self.offsets, count, pairs)
        for name, rows in self.condition.items():
            edges = self.condition_offsets.get(name)
            is_right &= rows.shape[0] == count if edges is None else _are_offsets(edges, count, rows.shape[0])
        if not is_right or not set(self.condition_offsets) <= set(self.condition):
            raise self._damaged("its parts do not have the same number of sets")

    def _damaged(self, what: str) -> IntegrityError:
        return IntegrityError(f"`{self.path}` is damaged: {what}", hint=self._hint)


class Shards:
    """A folder of shards with its manifest, or one shard of samples (`out.h5`, split `samples`), open for reading."""

    def __init__(self, place: str | Path) -> None:
        """Read the manifest and check that every shard is there and has its size; nothing else is opened.

        Raises:
            MissingError: there are no shards.
            IntegrityError: the manifest was changed, or a shard is absent or has another size.
        """
        place = Path(place)
        self._lock = threading.Lock()
        self._open: dict[str, Shard] = {}
        if place.suffix.lower() == ".h5" and not place.is_dir():
            self.folder = place.parent
            self.manifest = self._of_samples(place)
        else:
            self.folder, self.manifest = place, manifest.load(place)
            for split in self.manifest.splits.values():
                for entry in split.shards:
                    manifest.check_size(place, self.manifest, entry)
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
        """Sets of a split."""
        return self._split(split).count

    def conditions(self, split: str) -> list[str]:
        """What is known of every set of a split beside its values: names of conditions."""
        return list(self._shard(self._split(split).shards[0]).condition)

    def condition_shape(self, split: str, name: str) -> tuple[int, ...]:
        """Shape of a condition of one set, in all its views; of one that differs in size, that of a row."""
        return self._shard(self._split(split).shards[0]).condition[name].shape[1:]

    def views(self, split: str, name: str) -> int:
        """How many views of each set a condition holds."""
        return self.condition_shape(split, name)[0]

    def labels(self, split: str) -> np.ndarray:
        """The class of every set of a split, -1 for none."""
        shards = [self._shard(entry).labels for entry in self._split(split).shards]
        return np.concatenate([np.empty(0, np.int64), *shards])

    def names(self, split: str) -> list[str]:
        """The name of every set of a split."""
        return [name for entry in self._split(split).shards for name in self._shard(entry).names]

    def buffer(self, split: str, count: int) -> np.ndarray | None:
        """An array that `read` can fill with `count` sets; None where sets differ in size."""
        shape = self.manifest.shape
        return np.empty((count, *shape), self.manifest.dtype) if shape[0] else None

    def read(
        self,
        split: str,
        indices: Sequence[int] | np.ndarray,
        out: np.ndarray | None = None,
        *,
        with_names: bool = False,
        conditions: Wanted = batches.ALL,
    ) -> Batch:
        """The sets at `indices`, in that order; values go into `out` (see `buffer`) where it is given.

        Raises:
            UsageError: no such split, or the shards lack a condition that is wanted.
            IntegrityError: a shard is damaged.
        """
        wanted = np.asarray(indices, dtype=np.int64)
        assert not len(wanted) or (wanted.min() >= 0 and wanted.max() < self.count(split))
        numbers = np.searchsorted(self._edges[split], wanted, side="right") - 1
        entries = self._split(split).shards
        found = [
            (self._shard(entries[number]), int(index - self._edges[split][number]))
            for number, index in zip(numbers, wanted, strict=True)
        ]
        out = self.buffer(split, len(wanted)) if out is None else out
        if out is None:
            values, sizes = batches.ragged(found, self.manifest.shape[1:], self.manifest.dtype)
        else:
            assert out.shape == (len(found), *self.manifest.shape) and out.dtype == self.manifest.dtype
            values, sizes = batches.uniform(found, out), None
        try:
            condition, counts = batches.conditions(found, conditions)
        except KeyError as error:
            raise UsageError(
                f"the shards in `{self.folder}` hold no {error} with their sets",
                hint="prepare them again with what the preset learns from; docs/data-sets.md says how",
            ) from error
        return Batch(
            values,
            np.array([shard.labels[index] for shard, index in found], dtype=np.int64),
            [shard.names[index] for shard, index in found] if with_names else [],
            np.array([shard.seeds[index] for shard, index in found if shard.seeds is not None], dtype=np.int64),
            sizes,
            condition,
            counts,
        )

    def verify(self, splits: Sequence[str] | None = None, progress: Progress | None = None) -> None:
        """Read every byte of the shards of some splits (all, without them) and compare with the manifest's digests.

        Raises:
            IntegrityError: a shard is damaged; the hint says how to mend it.
        """
        wanted = [entry for name in splits or self.splits for entry in self._split(name).shards if entry.sha256]
        for _, problem in manifest.problems(self.folder, self.manifest, wanted, progress):
            raise problem

    def verify_items(self, split: str, indices: Sequence[int]) -> None:
        """The same of those shards alone that hold some sets of a split."""
        places = np.unique(np.searchsorted(self._edges[split], np.asarray(indices), side="right") - 1)
        for entry in [self._split(split).shards[place] for place in places]:
            if entry.sha256:
                manifest.check(self.folder, self.manifest, entry)

    def _of_samples(self, path: Path) -> Manifest:
        shard = self._open[path.name] = Shard(path, hint=f"draw the samples again with `inrflow sample {path}`")
        beside = path.with_name(f"{path.name}{SEAL}")
        digest = beside.read_text(encoding="ascii", errors="replace").strip() if beside.is_file() else ""
        entry = ShardEntry(path.name, len(shard), path.stat().st_size, digest)
        header = shard.header
        return Manifest(
            dataset=header.dataset,
            domain=header.domain,
            version=str(header.settings.get("inrflow", "")),
            shape=shard.inner,
            dtype=shard.values.dtype.name,
            classes=header.classes,
            normalisation=header.normalisation,
            settings=header.settings,
            source={},
            splits={header.split: manifest.Split(len(shard), (entry,), manifest.Statistics((), ()))},
        )

    def _split(self, name: str) -> manifest.Split:
        if name not in self.manifest.splits:
            raise UsageError(
                f"the shards in `{self.folder}` have no split `{name}`", hint=did_you_mean(name, self.splits)
            )
        return self.manifest.splits[name]

    def _shard(self, entry: ShardEntry) -> Shard:
        shard = self._open.get(entry.file)
        if shard is None:
            with self._lock:
                shard = self._open.get(entry.file) or Shard(
                    self.folder / entry.file, hint=manifest.mending(self.folder, self.manifest)
                )
                self._check_agrees(shard, entry)
                self._open[entry.file] = shard
        return shard

    def _check_agrees(self, shard: Shard, entry: ShardEntry) -> None:
        told = self.manifest
        got = (shard.header.domain, shard.values.dtype, shard.inner, len(shard))
        if got != (told.domain, told.dtype, told.shape, entry.count):
            raise IntegrityError(
                f"`{shard.path}` is of another data set than the manifest beside it",
                hint=manifest.mending(self.folder, told),
            )


@contextmanager
def opened(path: Path, *, hint: str = "name another file") -> Iterator[h5py.File]:
    """An HDF5 file for reading, after everything in it that could reach outside was refused; also for raw data sets.

    Raises:
        MissingError: there is no such file.
        IntegrityError: it is no HDF5 file, is damaged (also when found inside the block), or holds what is refused.
    """
    if not path.is_file():
        raise MissingError(f"`{path}` does not exist", hint=hint)
    try:
        with h5py.File(path, "r", locking=False) as file:
            refused = next(_refused(file), None)
            if refused is not None:
                raise IntegrityError(f"`{path}` holds {refused}, which is refused", hint=hint)
            yield file
    except DAMAGE as error:
        reason = str(error).partition("\n")[0].strip("'\"")
        raise IntegrityError(f"`{path}` is no HDF5 file or is damaged: {reason}", hint=hint) from error


@lru_cache(maxsize=OPEN_FILES)
def _file(shard: Shard) -> FileIO:
    """A shard's file; of those that were read last `OPEN_FILES` stay open, however many shards a data set has."""
    return shard.path.open("rb", buffering=0)


def _refused(root: h5py.Group) -> Iterator[str]:
    """Everything in a file that could reach outside it or run code, in words."""
    groups, seen = [root], {root.id}  # the same object under two names has equal ids
    yield from _refused_attributes(root)
    while groups:
        group = groups.pop()
        for name in group:
            link = group.get(name, getlink=True)
            place = f"{group.name or ''}/{name}".replace("//", "/")
            if not isinstance(link, h5py.HardLink):
                yield f"a link to elsewhere, `{place}`"
                continue
            item = group[name]
            if item.id in seen:
                continue
            seen.add(item.id)
            if isinstance(item, h5py.Group):
                groups.append(item)
            elif isinstance(item, h5py.Dataset):
                yield from _refused_layout(item, place)
            else:
                yield f"a named type, `{place}`"
            yield from _refused_attributes(item)


def _refused_layout(data: h5py.Dataset, place: str) -> Iterator[str]:
    settings = data.id.get_create_plist()
    if data.id.get_type().get_class() not in PLAIN_TYPES:
        yield f"something else than numbers and text, `{place}`"
    if settings.get_layout() == h5py.h5d.VIRTUAL:
        yield f"a virtual data set, `{place}`"
    if settings.get_external_count():
        yield f"a data set stored in another file, `{place}`"
    for number in range(settings.get_nfilters()):
        if settings.get_filter(number)[0] not in KNOWN_FILTERS:
            yield f"an unknown filter, number {settings.get_filter(number)[0]}, on `{place}`"


def _refused_attributes(item: Any) -> Iterator[str]:
    for number in range(h5py.h5a.get_num_attrs(item.id)):
        attribute = h5py.h5a.open(item.id, index=number)
        if attribute.get_type().get_class() not in PLAIN_TYPES:
            yield f"an attribute that is no number or text, `{attribute.name.decode(errors='replace')}`"


def _data(file: h5py.File, name: str) -> h5py.Dataset:
    if isinstance(data := file[name], h5py.Dataset):
        return data
    raise KeyError(f"`{name}` is no array")


def _names(file: h5py.File, group: str) -> list[str]:
    """What a group holds; nothing where it is not there."""
    found = file.get(group)
    return sorted(found) if isinstance(found, h5py.Group) else []


def _are_offsets(edges: np.ndarray, count: int, rows: int) -> bool:
    """Whether `count` runs that begin at 0 and never go back cover so many rows."""
    return bool(len(edges) == count + 1 and edges[0] == 0 and edges[-1] == rows and (np.diff(edges) >= 0).all())


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
