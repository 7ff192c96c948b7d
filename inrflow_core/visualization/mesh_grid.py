"""Render meshes as images: each in its own view, side by side."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from inrflow_core.geometry import cameras, mesh_rendering
from inrflow_core.geometry.mesh import Mesh
from inrflow_core.visualization.image_grid import tile_images

FIELD_OF_VIEW = 30.0
"""In degrees: nearly a parallel projection."""
MARGIN = 1.02
"""The sphere around a mesh touches the border of the image at 1."""


def render_meshes(
    meshes: Sequence[Mesh],
    *,
    columns: int | None = None,
    size: int = 256,
    captions: Sequence[str] = (),
    azimuth: float = 35.0,
    elevation: float = 24.0,
) -> Image.Image:
    """The meshes side by side on white, each `size` pixels high and seen from the front, right and above; y is up.

    The view fits the sphere around the mesh's box. A mesh without faces is a white tile. Angles are in degrees.
    """
    distance = MARGIN / math.sin(math.radians(FIELD_OF_VIEW) / 2)
    camera = cameras.orbit(azimuth, elevation, distance, field_of_view=FIELD_OF_VIEW)[None]
    tiles = [_tile(mesh, camera, size) for mesh in meshes]
    return (
        tiles[0] if len(tiles) == 1 and not captions else tile_images(tiles, columns=columns, captions=captions, gap=0)
    )


def render_around(
    mesh: Mesh, *, count: int, elevation: float, size: int
) -> UInt8[np.ndarray, "{count} {size} {size} 3"]:
    """A mesh on white from `count` azimuths at equal steps, the first in front (+z); it fits the view as in `render_meshes`."""
    distance = MARGIN / math.sin(math.radians(FIELD_OF_VIEW) / 2)
    angles = [360 * index / count for index in range(count)]
    orbit = [cameras.orbit(angle, elevation, distance, field_of_view=FIELD_OF_VIEW) for angle in angles]
    return np.stack([np.asarray(_tile(mesh, camera[None], size)) for camera in orbit])


def _tile(mesh: Mesh, camera: np.ndarray, size: int) -> Image.Image:
    if not len(mesh.faces):
        return Image.new("RGB", (size, size), "white")
    low, high = mesh.vertices.min(0), mesh.vertices.max(0)
    centered = mesh.vertices - (low + high) / 2
    fitted = Mesh(centered / max(float(np.linalg.norm(centered, axis=1).max()), 1e-12), mesh.faces)
    return Image.fromarray(mesh_rendering.on_white(mesh_rendering.render(fitted, camera, size))[0])
