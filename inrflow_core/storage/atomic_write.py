"""Write files atomically: output paths are checked before the work starts, and a file is complete or absent."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path

from inrflow_core.errors import OutOfMemory, UsageError
from inrflow_core.runtime.progress import format_bytes

DISK_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
LONGEST = 200
"""Bytes of a file's name: systems allow 255, and while it is written the name is longer."""
NOT_ALLOWED = {errno.EACCES, errno.EPERM, errno.EROFS}


def check_writable(path: Path, *, overwrite: bool = False, count: int = 1) -> None:
    """Raise UsageError unless `path` (or with `count` above 1 each of its numbered files) can be written.

    Commands call it before the work, so that a wrong name fails at once.

    Raises:
        UsageError: the folder does not exist or cannot be written to, `path` is a folder or too long a name, or a
            file is there already and `overwrite` is off.
    """
    folder = path.parent
    if len(os.fsencode(path.name)) > LONGEST:
        raise UsageError(
            f"`{path.name[:40]}...` is too long a name: more than {LONGEST} bytes", hint="give a shorter one"
        )
    if not folder.exists():
        raise UsageError(
            f"the folder `{folder}` does not exist", hint=f"make it with `mkdir -p {folder}`, or name another place"
        )
    if not folder.is_dir():
        raise UsageError(f"`{folder}` is a file, not a folder", hint="name a place inside a folder")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UsageError(
            f"the folder `{folder}` cannot be written to", hint="change its permissions, or name another place"
        )
    for file in numbered_paths(path, count):
        if file.is_dir():
            raise UsageError(f"`{file}` is a folder", hint="name a file, or a folder that does not exist yet")
        if os.path.lexists(file) and not overwrite:  # also a link to nothing
            raise UsageError(f"`{file}` exists already", hint="add `--overwrite`, or name another file")


def numbered_paths(path: Path, count: int) -> list[Path]:
    """The files for `count` samples of a format that holds one: `path`, or `NAME-000.ply`, `NAME-001.ply`, ..."""
    if count == 1:
        return [path]
    digits = max(3, len(str(count - 1)))
    return [path.with_name(f"{path.stem}-{index:0{digits}d}{path.suffix}") for index in range(count)]


@contextmanager
def atomic_write(path: Path, size: int | None = None) -> Iterator[Path]:
    """A temporary path beside `path` to write to; it is renamed to `path` when the block succeeds and deleted when it fails.

    With `size`, the number of bytes, a full disk is an error before the first byte is written.

    Raises:
        OutOfMemory: the disk is full (exit code 5).
        UsageError: the folder cannot be written to.
    """
    # Random, not the process id: two machines on one file system can have the same.
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    try:
        if size is not None and size > shutil.disk_usage(path.parent).free:
            raise disk_full_error(path, size)
        yield beside
        with beside.open("rb") as file:
            os.fsync(file.fileno())
        beside.replace(path)
    except OSError as error:
        if error.errno in DISK_FULL:
            done = beside.stat().st_size if beside.exists() else 0
            beside.unlink(missing_ok=True)
            raise disk_full_error(path, size, done) from error
        if error.errno in NOT_ALLOWED:
            raise UsageError(f"`{path}` cannot be written: {error.strerror}", hint="name another place") from error
        raise
    finally:
        beside.unlink(missing_ok=True)


def remove(path: Path) -> None:
    """Remove a file, or a folder with all that is in it; nothing where there is neither."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def append_all_or_nothing(file: FileIO, path: Path, data: bytes) -> None:
    """Append all of `data` to a file, or nothing. The file is open without a buffer.

    Raises:
        OutOfMemory: the disk is full.
    """
    start = file.seek(0, os.SEEK_END)
    try:
        rest = memoryview(data)
        while rest:
            rest = rest[file.write(rest) :]
    except OSError as error:
        file.truncate(start)
        if error.errno in DISK_FULL:
            raise disk_full_error(path, start + len(data), start) from error
        raise


def disk_full_error(path: Path, size: int | None = None, done: int = 0) -> OutOfMemory:
    """The error for a full disk: the file, the free bytes, and the bytes of the file where known."""
    free = shutil.disk_usage(path.parent).free if path.parent.exists() else 0
    if size is None:
        message = (
            f"no room to write `{path}`: it takes more than the {format_bytes(max(free, done))} that are free for it"
        )
        hint = "free more than as much again, or name another place"
    else:
        message = f"no room to write `{path}`: it takes {format_bytes(size)}, and {format_bytes(max(free, done))} are free for it"
        hint = f"free {format_bytes(max(size - max(free, done), 1))} or more, or name another place"
    return OutOfMemory(message, hint=hint)
