"""Read only plain files, and digest them: a folder, a pipe or a device would fail late or hang."""

from __future__ import annotations

import difflib
import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import BinaryIO

from inrflow_core.errors import IntegrityError, MissingError

MOST_NEIGHBORS = 10_000
"""Names of a folder that are compared with one that does not exist: some tenths of a second."""


@contextmanager
def open_plain_file(path: Path, *, hint: str | None = None) -> Iterator[BinaryIO]:
    """A file, open for reading bytes; a named pipe is an error and does not block.

    Raises:
        MissingError: there is no such file.
        IntegrityError: it is a folder, a pipe or a device, a loop of links, or cannot be opened or read.
    """
    try:
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise MissingError(f"`{path}` does not exist", hint=hint) from error
    except OSError as error:
        raise IntegrityError(f"`{path}` cannot be opened: {error.strerror}", hint=hint) from error
    try:
        mode = os.fstat(handle).st_mode
        if not stat.S_ISREG(mode):
            kind = "a folder" if stat.S_ISDIR(mode) else "a pipe or a device"
            raise IntegrityError(f"`{path}` is {kind}, not a file", hint=hint)
        with os.fdopen(handle, "rb", closefd=False) as file:
            yield file
    except OSError as error:
        raise IntegrityError(f"`{path}` cannot be read: {error.strerror}", hint=hint) from error
    finally:
        os.close(handle)


def did_you_mean_path(path: Path, otherwise: str) -> str:
    """A hint for a path that does not exist: with the nearest name in the folder of its first absent part, else `otherwise`."""
    if path.exists():
        return otherwise
    absent, rest = path, Path()
    while not absent.parent.is_dir() and absent.parent != absent:
        absent, rest = absent.parent, absent.name / rest
    try:
        with os.scandir(absent.parent) as entries:
            names = [entry.name for entry in islice(entries, MOST_NEIGHBORS) if entry.name != absent.name]
    except OSError:
        return otherwise
    folded = [name for name in names if name.casefold() == absent.name.casefold()]
    stems = {Path(name).stem: name for name in reversed(names)}
    near = folded or [stems[stem] for stem in difflib.get_close_matches(absent.stem, stems, n=1)]
    if not near:
        return otherwise
    whole = absent.with_name(near[0]) / rest
    return f"did you mean `{whole if whole.exists() else absent.with_name(near[0])}`?"


def check_plain_file(path: Path) -> None:
    """Raise IntegrityError where a folder, a pipe or a device lies at a path that is to be written to: opening could block."""
    if path.exists() and not path.is_file():
        raise IntegrityError(f"`{path}` is {'a folder' if path.is_dir() else 'a pipe or a device'}, not a file")


def read_plain_file(path: Path, max_bytes: int, *, hint: str | None = None) -> bytes:
    """The bytes of a file.

    Raises:
        MissingError, IntegrityError: as `open_plain_file`, or it has more than `max_bytes` bytes.
    """
    with open_plain_file(path, hint=hint) as file:
        return file.read(_check_size(path, file.fileno(), max_bytes, hint))


def _check_size(path: Path, handle: int, max_bytes: int, hint: str | None) -> int:
    """The number of bytes of an open file; raises IntegrityError where it is above `max_bytes`."""
    size = os.fstat(handle).st_size
    if size > max_bytes:
        raise IntegrityError(f"`{path}` has {size:,} bytes, more than {max_bytes:,}", hint=hint)
    return size


BLOCK = 1 << 22
"""Bytes read at once."""


def file_digest(path: Path, *, from_disk: bool = False, max_bytes: int | None = None) -> str:
    """The SHA-256 of a file in hexadecimal, read in blocks.

    `from_disk` first drops the file from the page cache, to read the disk and not what was just written.

    Raises:
        MissingError: there is no such file.
        IntegrityError: it has more than `max_bytes` bytes; none of them is read.
    """
    digest = hashlib.sha256()
    try:
        with path.open("rb", buffering=0) as file:
            if max_bytes is not None:
                _check_size(path, file.fileno(), max_bytes, "leave it out, or make it again")
            if from_disk and hasattr(os, "posix_fadvise"):
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            while block := file.read(BLOCK):
                digest.update(block)
    except FileNotFoundError as error:
        raise MissingError(f"`{path}` does not exist", hint="look for its name, or make it again") from error
    return digest.hexdigest()
