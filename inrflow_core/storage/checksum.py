"""SHA-256 of files."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from inrflow_core.errors import MissingError

BLOCK = 1 << 22
"""Bytes read at once."""


def file_digest(path: Path, *, from_disk: bool = False) -> str:
    """The SHA-256 of a file in hexadecimal, read in blocks.

    `from_disk` first drops the file from the page cache, to read the disk and not what was just written.

    Raises:
        MissingError: there is no such file.
    """
    found = hashlib.sha256()
    try:
        with path.open("rb", buffering=0) as file:
            if from_disk and hasattr(os, "posix_fadvise"):
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            while block := file.read(BLOCK):
                found.update(block)
    except FileNotFoundError as error:
        raise MissingError(f"`{path}` does not exist", hint="look for its name, or make it again") from error
    return found.hexdigest()
