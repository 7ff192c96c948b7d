"""Mesh files of a source: which there are, and what is said of those that are not read."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from inrflow_core.datasets._contract import notes_on_others, notes_on_unread, readers_hint
from inrflow_core.errors import MissingError
from inrflow_core.mesh_files.reading import SUFFIXES
from inrflow_core.storage.source_files import list_files
from inrflow_core.visualization.image_io import SUFFIXES as IMAGE_SUFFIXES

UNREAD = re.compile(
    r"\.(gltf|fbx|dae|3ds|3mf|usd|usda|usdc|usdz|blend|x3d|wrl|vrml|amf|ctm|drc|mdl|ma|mb|max|stp|step|igs|iges|obj\.gz|ply\.gz|stl\.gz)$",
    re.IGNORECASE,
)
"""Endings of meshes in formats that are not read: counted and named rather than left out."""


def files(source: Path, files: Sequence[tuple[str, int]], where: str = "") -> list[str]:
    """The names of the meshes among files below a source.

    Raises:
        MissingError: there is none.
    """
    meshes = [name for name, _ in files if name.lower().endswith(SUFFIXES)]
    if not meshes:
        suffixes = ", ".join(SUFFIXES[:-1]) + f" or {SUFFIXES[-1]} files"
        raise MissingError(
            f"looked below `{source}` for {suffixes}{where} and found none among {len(files):,} files",
            hint="unpack archives first, or name another folder with `--source`" + readers_hint("mesh-folder", files),
        )
    return meshes


def notes(files: Sequence[tuple[str, int]]) -> tuple[str, ...]:
    """What a user should know of the files of a source: how many are meshes of formats that are not read."""
    return notes_on_unread([name for name, _ in files if UNREAD.search(name)])


def notes_on_rest(files: Sequence[tuple[str, int]]) -> tuple[str, ...]:
    """What a user should know of files that are no meshes, and no materials and images of meshes."""
    used = (*SUFFIXES, *IMAGE_SUFFIXES, ".mtl", ".bin")
    return notes_on_others([name for name, _ in files if not (name.lower().endswith(used) or UNREAD.search(name))])


def list_source(source: Path) -> tuple[Path, list[tuple[str, int]]]:
    """The folder of a source, which may be one file, and all files below it."""
    if source.is_dir():
        return source, list_files(source)
    return source.parent, [(source.name, source.stat().st_size)]
