"""Any folder of meshes as clouds: points uniform on the surface, with colors and classes."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from inrflow_core.datasets import _mesh_identity, _mesh_reading, _point_clouds, _splits
from inrflow_core.datasets._contract import DatasetIndex, Example, Item
from inrflow_core.errors import UnreadableItemError
from inrflow_core.geometry import mesh
from inrflow_core.mesh_files import reading
from inrflow_core.storage.source_files import fingerprint

DOMAIN = "points"
NEEDS_SOURCE = True
IS_READ_BY_SCAN = False
DESCRIPTION = (
    "any folder of .off, .obj, .ply, .stl and .glb meshes -> clouds of 15,000 points on their surface, train and val "
    "by uid or content; optional colors and classes (sub-folders)"
)


@dataclass(frozen=True)
class Config:
    """Points, colors and classes of the meshes, and the split."""

    points: int = 15_000
    """Points on the surface of each mesh; training samples subsets of them."""
    colors: bool = field(default=False, metadata={"key": "colours"})
    """Store colors of textures or vertices as three more numbers of each point; meshes without colors are skipped."""
    classes: bool = False
    """Label by the folder directly below the source."""
    val: float = 0.1
    """Share of the meshes that is held out; the split of a mesh depends on its content alone."""

    def __post_init__(self) -> None:
        if self.points < 1:
            raise ValueError(f"`points` is {self.points}: at least 1")
        _splits.check_share(self.val)


def scan(source: Path, config: Config) -> DatasetIndex:
    """Every mesh file below the source, sorted by name.

    Raises:
        MissingError: there is none.
    """
    folder, files = _mesh_reading.list_source(source)
    candidates = [(name, size) for name, size in files if "/" in name] if config.classes else files
    meshes = _mesh_reading.files(source, candidates, " in folders" if config.classes else "")
    classes = sorted({name.split("/")[0] for name in meshes}) if config.classes else []
    items = [Item(name, classes.index(name.split("/")[0]) if config.classes else -1, str(folder)) for name in meshes]
    return DatasetIndex(
        _mesh_identity.split(folder, items, config.val),
        shape=(config.points, 6 if config.colors else 3),
        dtype="float32",
        fingerprint=fingerprint(_mesh_identity.files_read(files)),
        classes=tuple(classes),
        normalization=_point_clouds.BOX,
        notes=_mesh_reading.notes(files) + _mesh_reading.notes_on_rest(files),
    )


def read(item: Item, config: Config) -> Example:
    """Points on one mesh, in its box; the name of the mesh is their seed.

    Raises:
        UnreadableItemError: the file cannot be read, has no faces, no area, no colors although `colors` is set, or
            numbers that are not finite.
    """
    try:
        body = reading.load(Path(item.location), item.name, with_colors=config.colors)
    except UnreadableItemError as error:
        if error.reason != reading.NO_FACES or not item.name.lower().endswith(".ply"):
            raise
        raise UnreadableItemError(f"{error.reason} (`inrflow prepare clouds` reads points)") from error
    points = mesh.sample_surface(
        body.mesh, config.points, seed=_point_clouds.seed(f"mesh {_mesh_identity.own_name(item)}")
    )
    return _point_clouds.boxed(item, points, _colors(body, points) if config.colors else None)


def _colors(body: reading.Body, points: np.ndarray) -> np.ndarray:
    """RGB in [-1, 1] at points on the mesh: of its texture, its vertices or its faces."""
    if not body.has_colors:
        raise UnreadableItemError("it has no colors")
    return body.colors(*mesh.closest_faces(body.mesh, points)) / 127.5 - 1
