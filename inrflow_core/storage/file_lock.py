"""Lock files, which a kill releases: they decide who may write to a folder.

The locks are `flock`s, which work over NFS too. A file system without them (some Lustre mounts) excludes no process;
writers then rely on files that are renamed when they are complete.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Literal

UNSUPPORTED = {errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL}
"""Errors of file systems without locks."""


@contextmanager
def try_lock(path: Path, kind: Literal["alone", "together"] = "alone", *, patience: float = 0.0) -> Iterator[bool]:
    """Hold the lock of a file, which is created with its folder; the holder may delete it before the release.

    Any number of processes may hold it `together`, but not while one holds it `alone`. Yields False where the file
    system has no locks.

    Raises:
        BlockingIOError: another holds it, and still does after `patience` seconds.
    """
    deadline = time.monotonic() + patience
    while True:
        try:
            file, is_locked = _locked(path, fcntl.LOCK_EX if kind == "alone" else fcntl.LOCK_SH)
            break
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise
            time.sleep(0.05)
    try:
        yield is_locked
    finally:
        file.close()


@contextmanager
def lock(path: Path) -> Iterator[None]:
    """Wait for the lock of a file and hold it alone; does not wait where the file system has no locks.

    Raises:
        FileNotFoundError: its folder is not there.
    """
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in UNSUPPORTED:
                raise
        yield


def _locked(path: Path, kind: int) -> tuple[IO[str], bool]:
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            file = path.open("a+")  # NFS wants to read for one kind, to write for the other
        except FileNotFoundError:  # another has removed the folder in between
            continue
        is_locked = True
        try:
            fcntl.flock(file, kind | fcntl.LOCK_NB)
        except OSError as error:
            is_locked = False
            if error.errno not in UNSUPPORTED:
                file.close()
                raise
        if _is_there(file, path):
            return file, is_locked
        file.close()  # its last holder removed it: that lock holds nothing


def _is_there(file: IO[str], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False
