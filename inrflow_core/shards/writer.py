"""Write one shard."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from inrflow_core.shards.hdf5 import InMemoryHDF5
from inrflow_core.shards.manifest import ShardEntry
from inrflow_core.shards.schema import Header as Header
from inrflow_core.shards.schema import ShardColumns
from inrflow_core.storage.atomic_write import atomic_write


def write(
    path: Path,
    header: Header,
    blocks: Iterable[np.ndarray],
    columns: ShardColumns,
    *,
    shape: tuple[int, ...],
    dtype: str,
) -> ShardEntry:
    """Write one shard, whole or not at all; the same arguments give the same bytes.

    `shape` is the shape of all values together; `blocks` yields their rows in order, some at a time.

    Raises:
        OutOfMemory: the disk is full.
    """
    size = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
    frame = InMemoryHDF5()
    offset = _fill(frame, header, columns, shape, dtype)
    with atomic_write(path, frame.size) as beside:
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


def _fill(frame: InMemoryHDF5, header: Header, columns: ShardColumns, shape: tuple[int, ...], dtype: str) -> int:
    """Write everything but the values into an in-memory file; return the offset of the values."""
    settings = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    settings.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    settings.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    settings.set_obj_track_times(False)
    with h5py.File(frame, "w", libver=("v110", "v110")) as file:
        for name, value in header.to_attributes().items():
            file.attrs[name] = value
        kind, space = h5py.h5t.py_create(np.dtype(dtype)), h5py.h5s.create_simple(shape)
        values = h5py.h5d.create(file.id, b"values", kind, space, settings)
        for name, array in columns.arrays().items():
            file.create_dataset(name, data=array, track_times=False)
        return values.get_offset() if values.get_storage_size() else 0
