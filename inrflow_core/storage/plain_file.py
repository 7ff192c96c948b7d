"""Read a whole plain file of limited size: never a folder, a pipe or a device, which would fail late or hang."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from inrflow_core.errors import IntegrityError, MissingError


def read_plain_file(path: Path, max_bytes: int, *, hint: str | None = None) -> bytes:
    """The bytes of a file.

    It is opened without waiting, so that a named pipe is refused instead of waited for.

    Raises:
        MissingError: there is no such file.
        IntegrityError: it is a folder, a pipe or a device, a loop of links, cannot be opened, or has more than
            `max_bytes` bytes.
    """
    try:
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise MissingError(f"`{path}` does not exist", hint=hint) from error
    except OSError as error:
        raise IntegrityError(f"`{path}` cannot be opened: {error.strerror}", hint=hint) from error
    try:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            kind = "a folder" if stat.S_ISDIR(status.st_mode) else "a pipe or a device"
            raise IntegrityError(f"`{path}` is {kind}, not a file", hint=hint)
        if status.st_size > max_bytes:
            raise IntegrityError(f"`{path}` has {status.st_size:,} bytes, more than {max_bytes:,}", hint=hint)
        with os.fdopen(handle, "rb", closefd=False) as file:
            return file.read(max_bytes + 1)
    except OSError as error:
        raise IntegrityError(f"`{path}` cannot be read: {error.strerror}", hint=hint) from error
    finally:
        os.close(handle)
