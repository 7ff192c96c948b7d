"""Open HDF5 files safely, and write them in memory: no external links, no filters that run code."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from inrflow_core.errors import IntegrityError
from inrflow_core.storage.plain_file import open_plain_file


class InMemoryHDF5:
    """A new HDF5 file in memory, with a gap in place of the values.

    HDF5 itself never writes to the disk: on a full disk it prints pages, raises errors that look like bugs, and may
    crash the process (2.0 did). The methods are those of a file, as h5py calls them.
    """

    def __init__(self) -> None:
        self.at = self.size = 0
        self.pieces: list[tuple[int, bytes]] = []

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self.at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self.at, os.SEEK_END: self.size}[whence]
        return self.at

    def tell(self) -> int:
        return self.at

    def write(self, content: Any) -> int:
        self.pieces.append((self.at, bytes(content)))
        self.at += len(self.pieces[-1][1])
        self.size = max(self.size, self.at)
        return len(self.pieces[-1][1])

    def readinto(self, out: Any) -> int:
        out[:] = self.part(self.at, self.at + len(out))
        self.at += len(out)
        return len(out)

    def read(self, count: int) -> bytes:
        self.at += count
        return self.part(self.at - count, self.at)

    def truncate(self, size: int) -> int:
        self.size = size
        return size

    def flush(self) -> None:
        pass

    def part(self, start: int, stop: int) -> bytes:
        """The bytes of a part of the file; unwritten bytes are 0."""
        out = bytearray(stop - start)
        for at, content in self.pieces:
            low, high = max(at, start), min(at + len(content), stop)
            if low < high:
                out[low - start : high - start] = content[low - at : high - at]
        return bytes(out)


KNOWN_FILTERS = {h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_FLETCHER32, h5py.h5z.FILTER_LZF}
PLAIN_TYPES = {h5py.h5t.INTEGER, h5py.h5t.FLOAT, h5py.h5t.STRING, h5py.h5t.ENUM}
SMALL = 1 << 16
"""Bytes of an array that are not compared with the file's."""
MOST_TIMES_SMALLER = 1100
"""Deflate makes data at most 1,032 times smaller."""
MAX_CHUNK = 1 << 30
"""Bytes of the largest chunk, which is unpacked as a whole."""
HDF5_ERRORS = (OSError, RuntimeError, KeyError, ValueError, TypeError)
"""Errors of h5py on a damaged file."""


@contextmanager
def open_hdf5_safely(path: Path, *, hint: str = "name another file") -> Iterator[h5py.File]:
    """Open an HDF5 file, ours or a raw data set's, after a check that it neither refers to other files nor runs code.

    Raises:
        MissingError: there is no such file.
        IntegrityError: it is not an HDF5 file, is damaged (also if the block finds it), or contains a refused object.
    """
    with open_plain_file(path, hint=hint):
        pass
    try:
        with h5py.File(path, "r", locking=False) as file:
            refused = next(_refused(file), None)
            if refused is not None:
                raise IntegrityError(f"`{path}` holds {refused}, which is refused", hint=hint)
            yield file
    except HDF5_ERRORS as error:
        reason = str(error).partition("\n")[0].strip("'\"")
        raise IntegrityError(f"`{path}` is not an HDF5 file or is damaged: {reason}", hint=hint) from error


def _refused(root: h5py.Group) -> Iterator[str]:
    """Describe every object in a file that could reach outside it or run code."""
    groups, seen = [root], {root.id}  # the same object under two names has equal ids
    yield from _refused_attributes(root)
    while groups:
        group = groups.pop()
        for name in group:
            link = group.get(name, getlink=True)
            path = f"{group.name or ''}/{name}".replace("//", "/")
            if not isinstance(link, h5py.HardLink):
                yield f"a link to elsewhere, `{path}`"
                continue
            item = group[name]
            if item.id in seen:
                continue
            seen.add(item.id)
            if isinstance(item, h5py.Group):
                groups.append(item)
            elif isinstance(item, h5py.Dataset):
                yield from _refused_layout(item, path)
            else:
                yield f"a named type, `{path}`"
            yield from _refused_attributes(item)


def _refused_layout(data: h5py.Dataset, path: str) -> Iterator[str]:
    settings = data.id.get_create_plist()
    if data.id.get_type().get_class() not in PLAIN_TYPES:
        yield f"an array of neither numbers nor text, `{path}`"
    if settings.get_layout() == h5py.h5d.VIRTUAL:
        yield f"a virtual data set, `{path}`"
    if settings.get_external_count():
        yield f"a data set stored in another file, `{path}`"
    stated = data.size * data.dtype.itemsize if data.shape is not None else 0
    stored = min(data.id.get_storage_size(), data.file.id.get_filesize())
    if stated > SMALL and stated > stored * (1 if data.chunks is None else MOST_TIMES_SMALLER):
        yield f"an array that states {stated:,} bytes and has {stored:,}, `{path}`"
    if data.chunks is not None and math.prod(data.chunks) * data.dtype.itemsize > MAX_CHUNK:
        yield f"a chunk of more than {MAX_CHUNK:,} bytes, `{path}`"
    for number in range(settings.get_nfilters()):
        if settings.get_filter(number)[0] not in KNOWN_FILTERS:
            yield f"an unknown filter, number {settings.get_filter(number)[0]}, on `{path}`"


def _refused_attributes(item: Any) -> Iterator[str]:
    for number in range(h5py.h5a.get_num_attrs(item.id)):
        attribute = h5py.h5a.open(item.id, index=number)
        if attribute.get_type().get_class() not in PLAIN_TYPES:
            yield f"an attribute that is neither a number nor text, `{attribute.name.decode(errors='replace')}`"


def array_at(file: h5py.File, name: str) -> h5py.Dataset:
    """The array of a name; KeyError where it does not exist or is a group."""
    if isinstance(data := file[name], h5py.Dataset):
        return data
    raise KeyError(f"`{name}` is not an array")


def column_at(file: h5py.File, name: str) -> np.ndarray:
    """A whole array of one piece: its bytes are in the file as they are, so that it is no larger than the file.

    Raises:
        KeyError: it does not exist, is a group, is in chunks, or is text of any length.
    """
    data = array_at(file, name)
    if data.chunks is not None or data.dtype.hasobject:
        raise KeyError(f"`{name}` is not an array of one piece")
    return np.asarray(data[...])


def group_names(file: h5py.File, group: str) -> list[str]:
    """The names in a group; empty where the group does not exist."""
    members = file.get(group)
    return sorted(members) if isinstance(members, h5py.Group) else []


def to_text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
