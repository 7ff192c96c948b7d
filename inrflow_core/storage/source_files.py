"""List the files of a source folder, and fingerprint them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

IGNORED = ("__MACOSX", "Thumbs.db", "desktop.ini", "lost+found")


@dataclass(frozen=True)
class Fingerprint:
    """A digest of the names and sizes of all files, their number and their bytes."""

    digest: str
    files: int
    bytes: int


def list_files(root: Path) -> list[tuple[str, int]]:
    """Every file below `root` as (name relative to it, bytes), sorted by name; without hidden files and folders.

    Links to folders are followed, each folder once.
    """
    files: list[tuple[str, int]] = []
    seen: set[tuple[int, int]] = set()
    folders = [("", root)]
    while folders:
        prefix, folder = folders.pop()
        status = folder.stat()
        if (status.st_dev, status.st_ino) in seen:
            continue
        seen.add((status.st_dev, status.st_ino))
        with os.scandir(folder) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name, reverse=True):
                if is_hidden(entry.name):
                    continue
                if os.path.isdir(entry.path):  # False for a link that leads nowhere or to itself
                    folders.append((f"{prefix}{entry.name}/", Path(entry.path)))
                elif os.path.isfile(entry.path):
                    files.append((prefix + entry.name, entry.stat().st_size))
    return sorted(files)


def is_hidden(name: str) -> bool:
    """Whether a name is that of a dot file or of a file that operating systems add."""
    return name.startswith(".") or name in IGNORED


def fingerprint(files: Iterable[tuple[str, int]]) -> Fingerprint:
    """The fingerprint of files given as (name, bytes), in any order."""
    hashed, count, total = hashlib.sha256(), 0, 0
    for name, size in sorted(files):
        hashed.update(f"{name}\0{size}\n".encode(errors="surrogateescape"))
        count, total = count + 1, total + size
    return Fingerprint(hashed.hexdigest(), count, total)
