"""Read .npz and .npy files; nothing else does. Nothing is unpickled, and no array is larger than its file."""

from __future__ import annotations

import math
import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from inrflow_core.errors import IntegrityError, MissingError
from inrflow_core.storage.plain_file import open_plain_file

ERRORS = (
    *(ValueError, KeyError, OSError, EOFError, SyntaxError, RuntimeError, NotImplementedError, TypeError),
    *(zipfile.BadZipFile, zlib.error, OverflowError, tokenize.TokenError),
)
"""What NumPy raises on a file that is not an .npy or .npz file, or a damaged one."""
HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
"""Readers of an array's header, by version of the format; later versions are of records alone."""
MAGIC = (b"\x93NUMPY", b"PK\x03\x04", b"PK\x05\x06")
"""First bytes of an .npy file and of a zip, with members and without."""
SMALL = 1 << 28
"""Bytes of an array that may be packed in any number of bytes."""
MOST_TIMES_SMALLER = 100
"""Packed arrays of samples are at most a few times smaller; zeros 1,000 times."""


def array_names(path: Path, *, hint: str | None = None) -> tuple[str, ...]:
    """Names of the arrays in an .npz file; one empty name for an .npy file. The content decides the kind.

    Raises:
        MissingError: there is no such file.
        IntegrityError: it is not a plain file, or not an .npz or .npy file.
    """
    with _open(path, hint) as content:
        return ("",) if isinstance(content, np.ndarray) else tuple(content)


def read_array(path: Path, name: str = "", *, hint: str | None = None) -> np.ndarray:
    """One array of an .npz file, or with an empty name the array of an .npy file, which is mapped and not read.

    Raises:
        MissingError: there is no such file.
        IntegrityError: it is damaged, has no such array, or would have to be unpickled.
    """
    with _open(path, hint) as content:
        if isinstance(content, np.ndarray) != (not name) or (name and name not in content):
            expected = f"the array `{name}`" if name else "one array, but an archive of arrays"
            raise IntegrityError(f"`{path}` does not hold {expected}", hint=hint)
        if isinstance(content, np.ndarray):
            return content
        member = f"{name}.npy" if f"{name}.npy" in content.zip.namelist() else name
        _check_size(content.zip, member, path.stat().st_size)
        return content[name]


def array_shapes(path: Path, *, hint: str | None = None) -> dict[str, tuple[int, ...]]:
    """The shape of each array of an .npz file by its name, or with an empty name that of an .npy file; reads headers alone.

    Raises:
        MissingError: there is no such file.
        IntegrityError: it is damaged, or would have to be unpickled.
    """
    with _open(path, hint) as content:
        if isinstance(content, np.ndarray):
            return {"": content.shape}
        members = set(content.zip.namelist())
        names = {name: f"{name}.npy" if f"{name}.npy" in members else name for name in content}
        return {name: _member_header(content.zip, member)[0] for name, member in names.items()}


HINT = "copy it again, or make it again"


@contextmanager
def _open(path: Path, hint: str | None) -> Iterator[Any]:
    """An archive, or a mapped array: a header that promises terabytes fails by the file's size."""
    with open_plain_file(path, hint=hint) as file:
        start = file.read(6)
    if start and not start.startswith(MAGIC):
        raise IntegrityError(f"`{path}` is not an .npy or .npz file: it begins with {_words(start)}", hint=hint or HINT)
    try:
        content = np.load(path, allow_pickle=False, mmap_mode="r")
        start_of_data = getattr(content, "offset", None)  # of a mapped array
        if start_of_data is not None:
            surplus = path.stat().st_size - start_of_data - content.nbytes
            if surplus:  # a damaged length of the header shifts the numbers; NumPy reads the first of several arrays
                raise ValueError(f"{surplus:,} bytes follow its array")
        if isinstance(content, np.ndarray):
            yield content
        else:
            with content:
                yield content
    except FileNotFoundError as error:  # another process has deleted it meanwhile
        raise MissingError(f"`{path}` does not exist", hint=hint) from error
    except ERRORS as error:
        raise IntegrityError(f"`{path}` cannot be read: {_reason(error)}", hint=hint or HINT) from error


def _words(start: bytes) -> str:
    return f"the bytes {start.hex(' ')}" if any(start) else "zeros"


def _reason(error: Exception) -> str:
    """What is wrong, without NumPy's advice to unpickle it."""
    text = str(error)
    is_pickle = "Python objects" in text or "Object arrays" in text
    return "it holds Python objects, and only arrays of numbers and text are read" if is_pickle else text


def _check_size(archive: zipfile.ZipFile, member: str, file_size: int) -> None:
    """Raise ValueError where an array's header promises more bytes than its member has, or the member than is likely."""
    info = archive.getinfo(member)
    packed = min(info.compress_size, file_size)
    if info.file_size > max(SMALL, MOST_TIMES_SMALLER * packed):
        raise ValueError(f"its array `{member}` would unpack from {packed:,} bytes to {info.file_size:,}")
    shape, dtype = _member_header(archive, member)
    if math.prod(shape) * dtype.itemsize > info.file_size:
        raise ValueError(f"its array `{member}` has fewer bytes than its header promises")


def _member_header(archive: zipfile.ZipFile, member: str) -> tuple[tuple[int, ...], np.dtype]:
    """The shape and type of an array in an archive."""
    with archive.open(member) as file:
        version = np.lib.format.read_magic(file)
        if version not in HEADERS:
            raise ValueError(f"its array `{member}` is of version {version}")
        shape, _, dtype = HEADERS[version](file)
    return shape, dtype
