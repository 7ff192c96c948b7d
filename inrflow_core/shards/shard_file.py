"""One open shard: contiguous arrays read by their byte range."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from io import FileIO
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from inrflow_core.errors import IntegrityError, MissingError
from inrflow_core.shards.hdf5 import array_at, column_at, group_names, open_hdf5_safely, to_text
from inrflow_core.shards.schema import FORMAT, SCHEMA
from inrflow_core.shards.schema import Header as Header

VALUE_TYPES = ("uint8", "float16", "float32")
OPEN_FILES = 256
"""Shards kept open; most systems allow a process 1,024 files."""


@dataclass(frozen=True)
class ContiguousArray:
    """A contiguous array inside a file: its offset, shape and type."""

    offset: int
    shape: tuple[int, ...]
    dtype: np.dtype

    @property
    def stride(self) -> int:
        """Bytes of one row."""
        return int(np.prod(self.shape[1:], dtype=np.int64)) * self.dtype.itemsize

    def row_views(self) -> ContiguousArray:
        """The array with the first two axes merged, so that each view is a row."""
        return ContiguousArray(self.offset, (self.shape[0] * self.shape[1], *self.shape[2:]), self.dtype)


class ShardFile:
    """One shard, open for reading. Any number of threads may read it."""

    def __init__(self, path: Path, *, hint: str | None = None) -> None:
        """Check the file and read everything but the values.

        Raises:
            MissingError: there is no such file.
            IntegrityError: it is not a shard, has another schema, is damaged, or contains a refused object.
        """
        self.path, self._hint = path, hint or "make it again"
        with open_hdf5_safely(path, hint=self._hint) as file:
            self.header = self._read_header(file)
            self.values = self._rows(file, "values", VALUE_TYPES)
            self.labels = self._column(file, "labels", np.int64)
            self.offsets = self._column(file, "offsets", np.int64) if "offsets" in file else None
            self.seeds = self._column(file, "seeds", np.int64) if "seeds" in file else None
            self.coordinates = column_at(file, "coordinates") if "coordinates" in file else None
            self.condition = {name: self._rows(file, f"condition/{name}") for name in group_names(file, "condition")}
            self.condition_offsets = {
                name: self._column(file, f"condition_offsets/{name}", np.int64)
                for name in group_names(file, "condition_offsets")
            }
        self._check_counts()

    def __len__(self) -> int:
        """Sets in this shard."""
        return len(self.labels)

    @property
    def item_shape(self) -> tuple[int, ...]:
        """Shape of one set's values; the first number is 0 if sets differ in size."""
        shape = self.values.shape[1:]
        return shape if self.offsets is None else (0, *shape)

    @cached_property
    def names(self) -> list[str]:
        """The name of every set; empty where they have none."""
        with open_hdf5_safely(self.path, hint=self._hint) as file:
            if "names" not in file:
                return [""] * len(self)
            names = column_at(file, "names")
            if names.shape != (len(self),) or names.dtype.kind != "S":
                raise self._damaged("`names` does not have a text for each set")
            return [bytes(name).decode(errors="replace") for name in names]

    def byte_range(self, index: int) -> tuple[int, int]:
        """The first row of a set's values and the row after the last, where sets differ in size."""
        assert self.offsets is not None
        return int(self.offsets[index]), int(self.offsets[index + 1])

    def read(self, rows: ContiguousArray, index: int, out: np.ndarray, count: int = 1) -> None:
        """Read `count` rows, starting at `index`, into `out`, which is contiguous and has their size.

        Raises:
            IntegrityError: the file ends before them.
        """
        expected = rows.stride * count
        if not expected:
            return
        file = _file(self)  # the reference keeps it open while it is read
        got = os.preadv(file.fileno(), [memoryview(out.data).cast("B")], rows.offset + rows.stride * index)
        if got != expected:
            raise self._damaged(f"it ends {expected - got} bytes early")

    def _read_header(self, file: h5py.File) -> Header:
        attributes = {name: to_text(value) for name, value in file.attrs.items()}
        if attributes.get("format") != FORMAT:
            raise IntegrityError(f"`{self.path}` is not a shard of inrflow", hint="`inrflow prepare` writes shards")
        if attributes.get("schema") != str(SCHEMA):
            raise IntegrityError(
                f"`{self.path}` is a shard of schema {attributes.get('schema')}, this inrflow reads {SCHEMA}",
                hint=self._hint,
            )
        return Header.from_attributes(attributes, f"`{self.path}`", hint=self._hint)

    def _rows(self, file: h5py.File, name: str, allowed: Sequence[str] | None = None) -> ContiguousArray:
        data = array_at(file, name)
        if data.chunks is not None or data.dtype.hasobject or (allowed and data.dtype.name not in allowed):
            raise self._damaged(f"`{name}` is not one contiguous block of {' or '.join(allowed or ['numbers'])}")
        rows = ContiguousArray(data.id.get_offset() or 0, data.shape, data.dtype)
        if rows.offset + rows.stride * rows.shape[0] > self.path.stat().st_size:
            raise self._damaged(f"`{name}` extends past the end of the file")
        return rows

    def _column(self, file: h5py.File, name: str, dtype: Any) -> np.ndarray:
        column = column_at(file, name)
        if column.ndim != 1 or column.dtype != dtype:
            raise self._damaged(f"`{name}` is not a row of integers")
        return column

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


@lru_cache(maxsize=OPEN_FILES)
def is_shard(path: Path) -> bool:
    """Whether a file can be opened and says that it is a shard of inrflow."""
    try:
        with open_hdf5_safely(path) as file:
            return to_text(file.attrs.get("format", "")) == FORMAT
    except (IntegrityError, MissingError):
        return False


def _file(shard: ShardFile) -> FileIO:
    """The open file of a shard; the last `OPEN_FILES` stay open."""
    return shard.path.open("rb", buffering=0)


def _are_offsets(edges: np.ndarray, count: int, rows: int) -> bool:
    """Whether offsets divide `rows` rows into `count` ranges in order."""
    return bool(len(edges) == count + 1 and edges[0] == 0 and edges[-1] == rows and (np.diff(edges) >= 0).all())
