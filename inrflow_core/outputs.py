"""Files that a command writes: checked before the work starts, whole or absent when it ends."""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from inrflow_core.errors import OutOfMemory, UsageError

NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
LONGEST = 200
"""Bytes of a file's name: systems allow 255, and while it is written the name is longer."""
NOT_ALLOWED = {errno.EACCES, errno.EPERM, errno.EROFS}


def check_output(path: Path, *, overwrite: bool = False, count: int = 1) -> None:
    """Nothing, where `path` (and with `count` above 1 its numbered files) can be written.

    Called before anything is drawn, so that a wrong name costs a second and not an hour.

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
    for file in numbered(path, count):
        if file.is_dir():
            raise UsageError(f"`{file}` is a folder", hint="name a file")
        if file.exists() and not overwrite:
            raise UsageError(f"`{file}` exists already", hint="add `--overwrite`, or name another file")


def numbered(path: Path, count: int) -> list[Path]:
    """The files for `count` samples of a format that holds one: `path`, or `NAME-000.ply`, `NAME-001.ply`, ..."""
    if count == 1:
        return [path]
    digits = max(3, len(str(count - 1)))
    return [path.with_name(f"{path.stem}-{index:0{digits}d}{path.suffix}") for index in range(count)]


@contextmanager
def written(path: Path) -> Iterator[Path]:
    """A name beside `path` to write to: becomes `path` when the block ends well, is removed when it does not.

    Raises:
        OutOfMemory: the disk is full (exit code 5).
        UsageError: the place cannot be written to.
    """
    # Drawn, not the process's number: two machines that share a file system may have the same.
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    try:
        yield beside
        with beside.open("rb") as file:
            os.fsync(file.fileno())
        beside.replace(path)
    except OSError as error:
        if error.errno in NO_ROOM:
            raise OutOfMemory(
                f"no room to write `{path}`: {error.strerror}", hint="free some disk, or name another place"
            ) from error
        if error.errno in NOT_ALLOWED:
            raise UsageError(f"`{path}` cannot be written: {error.strerror}", hint="name another place") from error
        raise
    finally:
        beside.unlink(missing_ok=True)
