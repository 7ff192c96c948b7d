"""Any folder of meshes as scenes in posed views, rendered by ray casting: data in the manner of SRN Cars.

Each mesh is scaled into a sphere of radius 0.5 about the origin. Cameras at 1.3 units then see it at depths of 0.8 to
1.8, as SRN's do, with SRN's focal length of 131.25 for 128 pixels.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float32, Float64

from inrflow_core.datasets import _image_decoding, _mesh_identity, _mesh_reading, _point_clouds, _posed_views
from inrflow_core.datasets._contract import DatasetIndex, Example, Item
from inrflow_core.geometry import cameras, mesh_rendering
from inrflow_core.geometry.mesh import Mesh
from inrflow_core.mesh_files import reading
from inrflow_core.numerics import keyed_random

DOMAIN = "radiance"
NEEDS_SOURCE = True
IS_READ_BY_SCAN = False
DESCRIPTION = (
    "any folder of .off, .obj, .ply, .stl and .glb meshes -> 24 rendered views of each with their cameras; train, val "
    "and test by uid or content"
)
RADIUS = 0.5
"""Of the sphere that holds each object."""


@dataclass(frozen=True)
class Config:
    """The views of each object, their cameras, and the split."""

    resolution: int = 64
    """Rows and columns of the views."""
    views: int = 24
    """Views of each object."""
    elevations: Literal["hemisphere", "ring"] = "hemisphere"
    """`hemisphere` places cameras at random on the upper half of a sphere, by the mesh's uid or content; `ring` at equal
    steps around y at `elevation`."""
    elevation: float = 20.0
    """Elevation of a ring's cameras, in degrees."""
    distance: float = 1.3
    """Distance of the cameras from the center of the object, whose radius is 0.5."""
    field_of_view: float = 51.98948897809546
    """Field of view in degrees; that of SRN: a focal length of 131.25 for 128 pixels."""
    val: float = 0.1
    """Share of the meshes in `val`; the split of a mesh depends on its uid or content alone."""
    test: float = 0.0
    """Share of the meshes in `test`."""
    surface_points: int | None = None
    """Also store this number of points of each surface with their colors, for models that encode a surface (DDMI); None: none."""

    def __post_init__(self) -> None:
        _image_decoding.check_resolution(self.resolution)
        _posed_views.check_views(self.views)
        if not (self.val >= 0 and self.test >= 0 and self.val + self.test < 1):
            raise ValueError(f"`val` is {self.val} and `test` {self.test}: each at least 0, together below 1")
        _posed_views.check_surface_points(self.surface_points)
        if not RADIUS < self.distance < np.inf:
            raise ValueError(f"`distance` is {self.distance}: above {RADIUS}, the radius of the object")
        if not 0 < self.field_of_view < 180:
            raise ValueError(f"`field_of_view` is {self.field_of_view}: between 0 and 180")
        if not -90 <= self.elevation <= 90:
            raise ValueError(f"`elevation` is {self.elevation}: from -90 to 90")


def scan(source: Path, config: Config) -> DatasetIndex:
    """Every mesh below the source, sorted by name.

    Raises:
        MissingError: there is none.
    """
    folder, files = _mesh_reading.list_source(source)
    items = [Item(name, location=str(folder)) for name in _mesh_reading.files(source, files)]
    splits = _mesh_identity.split(folder, items, config.val, config.test)
    sources = _mesh_identity.files_read(files)
    plan = _posed_views.plan(splits, config.resolution, config.views, sources, config.surface_points)
    return dataclasses.replace(plan, notes=_mesh_reading.notes(files))


def read(item: Item, config: Config) -> Example:
    """The rendered views of one mesh and their cameras, and points of its surface if they are set.

    Raises:
        UnreadableItemError: the mesh cannot be read, has no faces, no area, numbers that are not finite, or a view in
            which nothing of it is seen.
    """
    _posed_views.check_scene(config.views, config.resolution)
    root = Path(item.location)
    body = reading.load(root, item.name, with_colors=True)
    identity, mesh = _mesh_identity.identity(root / item.name), _scaled(body.mesh)
    poses = view_cameras(identity, config)
    pixels = mesh_rendering.render(mesh, poses, config.resolution, body.colors if body.has_colors else None)
    names, surface = [f"{number:03d}" for number in range(config.views)], None
    if config.surface_points is not None:
        seed = _point_clouds.seed(f"surface {identity}")
        surface = reading.colored_points(body, mesh, config.surface_points, seed=seed)
    return _posed_views.example(item, mesh_rendering.on_white(pixels), poses, names, surface)


def view_cameras(identity: str, config: Config) -> Float32[np.ndarray, "V 4 4"]:
    """The cameras of a mesh; random ones are uniform on the upper half of the sphere."""
    steps = np.arange(config.views) * (360 / config.views)
    angles = np.stack([steps, np.full(config.views, config.elevation)], axis=1)
    if config.elevations == "hemisphere":
        angles = _random_angles(identity, config.views)
    return np.stack(
        [
            cameras.orbit(azimuth, elevation, config.distance, field_of_view=config.field_of_view)
            for azimuth, elevation in angles
        ]
    )


def _random_angles(identity: str, count: int) -> Float64[np.ndarray, "V 2"]:
    seed = torch.tensor([_point_clouds.seed(f"views {identity}")])
    numbers = keyed_random.uniform(seed, purpose="views", count=2 * count).numpy().reshape(count, 2)
    return np.stack([360 * numbers[:, 0], np.degrees(np.arcsin(numbers[:, 1]))], axis=1)


def _scaled(mesh: Mesh) -> Mesh:
    """The mesh with the center of its box at the origin, inside the sphere of `RADIUS`."""
    used = mesh.vertices[np.unique(mesh.faces)]
    center = (used.min(0) + used.max(0)) / 2
    largest = np.linalg.norm(used - center, axis=1).max()
    return Mesh((mesh.vertices - center) * (RADIUS / largest), mesh.faces)
