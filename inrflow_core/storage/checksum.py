"""SHA-256 of files."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from inrflow_core.errors import MissingError


def file_digest(path: Path) -> str:
    """The sha256 of a file, in hexadecimal; read as a stream.

    Raises:
        MissingError: there is no such file.
    """
    try:
        with path.open("rb", buffering=0) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError as error:
        raise MissingError(f"`{path}` does not exist", hint="look for its name, or make it again") from error


BLOCK = 1 << 22


def disk_digest(path: Path) -> str:
    """SHA-256 of a file, read in blocks from the disk and not from the system's memory of what was written."""
    found = hashlib.sha256()
    with path.open("rb") as file:
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        while block := file.read(BLOCK):
            found.update(block)
    return found.hexdigest()
