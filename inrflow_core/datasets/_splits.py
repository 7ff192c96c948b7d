"""Splits of folders that come without lists: by folders that are named after splits, else by the content of each file.

A share of the items becomes `val` (and `test`). Which items these are depends on each item alone: no item changes its side with
the name of the source, with its own path, or with other files.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

from inrflow_core.datasets import _archives, _point_clouds
from inrflow_core.datasets._contract import Item
from inrflow_core.errors import UnreadableItemError

FOLDERS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
"""Names of folders that are splits, in their order."""
END = 64 << 10
"""Bytes that are read at the beginning and at the end of a file; with its size they are its content."""


def check_share(val: float | None) -> None:
    """Check the setting `val`, the share of the items that is held out.

    Raises:
        ValueError: it is not from 0 to below 1.
    """
    if val is not None and not 0 <= val < 1:
        raise ValueError(f"`val` is {val}: from 0 to below 1")


def by_share(
    items: Sequence[Item], identity: Callable[[Item], str], val: float, test: float = 0.0
) -> dict[str, list[Item]]:
    """The splits `train`, `val` and `test`, which get about these shares of all; without those that are empty.

    `identity` is what makes an item the same one under any path: a digest of its content, or an identifier.
    """
    splits: dict[str, list[Item]] = {"train": [], "val": [], "test": []}
    for item in items:
        name = identity(item)
        side = "val" if _point_clouds.is_held_out(name, val) else "train"
        if side == "train" and _point_clouds.is_held_out(name, val + test):
            side = "test"
        splits[side].append(item)
    return {name: of for name, of in splits.items() if of}


def content_digest(size: int, head: bytes, tail: bytes) -> str:
    """The identity of a file by its size, its first END bytes, and its last END bytes as far as they are beyond the first."""
    return hashlib.sha256(b"%d " % size + head + tail).hexdigest()


def identity_of(item: Item) -> str:
    """The identity of an item that is one file of a folder or an archive: its content, or its name if it cannot be read."""
    try:
        return content_digest(*_archives.ends(item.location, END))
    except UnreadableItemError:
        return item.name.rpartition("/")[2]


def in_folders(names: Sequence[str]) -> dict[str, list[str]] | None:
    """The files of each split, if all folders at the top are named after splits and `train` is among them; else None.

    The names of the files stay whole.
    """
    top = {name.partition("/")[0] for name in names}
    if "train" not in top or not top <= set(FOLDERS):
        return None
    splits: dict[str, list[str]] = {}
    for folder in sorted(top, key=list(FOLDERS).index):
        splits.setdefault(FOLDERS[folder], []).extend(name for name in names if name.startswith(f"{folder}/"))
    return splits


def root_of(common: str) -> str:
    """The root of a data set by the common parent folder of its files (`a/b/`): a folder named after a split is below it."""
    parts = common.split("/")[:-1]
    if parts and parts[-1] in FOLDERS:
        return "".join(f"{part}/" for part in parts[:-1])
    return common
