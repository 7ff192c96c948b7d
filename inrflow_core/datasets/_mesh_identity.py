"""Which side of the split a mesh belongs to, whatever else the source holds and wherever in it the mesh is.

A mesh that is named by an identifier of Objaverse (32 hexadecimal digits) is that object. Other names are often equal
(ShapeNet's meshes are all `model_normalized.obj`): their content decides, so equal files are on one side.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from inrflow_core.datasets import _splits
from inrflow_core.datasets._contract import Item
from inrflow_core.mesh_files import reading
from inrflow_core.visualization.image_io import is_image_name

UID = re.compile(r"[0-9a-f]{32}")
"""Objaverse's identifiers."""
BESIDE = (".mtl", ".npy", ".json")
"""Files beside meshes that are read: materials, and cameras of rendered views."""


def split(root: Path, items: Sequence[Item], val: float, test: float = 0.0) -> dict[str, list[Item]]:
    """The splits `train`, `val` and `test`, which get about these shares of all; without those that are empty."""
    return _splits.by_share(items, lambda item: identity(root / item.name), val, test)


def identity(path: Path) -> str:
    """What makes a mesh the same one under any path: its identifier, else a digest of its content.

    A file that cannot be opened has its name; that it cannot be read is reported later.
    """
    if UID.fullmatch(path.stem):
        return path.stem
    try:
        with path.open("rb") as file:
            head = file.read(_splits.END)
            size = file.seek(0, 2)
            file.seek(max(len(head), size - _splits.END))
            tail = file.read(_splits.END)
    except OSError:
        return path.name
    return _splits.content_digest(size, head, tail)


def own_name(item: Item) -> str:
    """The name of a mesh's file without its folders."""
    return item.name.rpartition("/")[2]


def files_read(files: Iterable[tuple[str, int]]) -> list[tuple[str, int]]:
    """The files of a source that a data set of meshes may read: others do not change what is made of it."""
    return [
        (name, size)
        for name, size in files
        if name.lower().endswith((*reading.SUFFIXES, *BESIDE)) or is_image_name(name)
    ]
