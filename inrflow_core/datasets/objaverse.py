"""Objects with images of them: clouds on the surface of meshes, renders, cameras, and the images as tokens.

INRFlow, section 4.2 and appendix A.2: 16k points of each object of Objaverse (Deitke et al. 2023), renders of 448 x 448
pixels and 40 degrees by cameras at 3.5 units on both sides of the x and z axes, features of DINOv2 joined with the
Pluecker numbers of each patch's ray. The paper does not say how objects are normalized: here the longest side of the
mesh's box spans [-1, 1] before it is rendered, so that points and cameras share their units.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float64

from inrflow_core.datasets import _mesh_identity, _mesh_reading, _point_clouds, _rendered_views, _stored_features
from inrflow_core.datasets._contract import DatasetIndex, Example, Item
from inrflow_core.geometry import cameras, mesh_rendering
from inrflow_core.geometry.mesh import Mesh, sample_surface
from inrflow_core.mesh_files import reading
from inrflow_core.storage.source_files import fingerprint

DOMAIN = "points"
NEEDS_SOURCE = True
IS_READ_BY_SCAN = False
DESCRIPTION = (
    "Objaverse's glbs/ or any folder of .off, .obj, .ply, .stl and .glb meshes -> clouds of 16,384 points, images of "
    "each object with their cameras, and DINOv2's tokens of them; train and val by uid or content"
)


@dataclass(frozen=True)
class Config:
    """Points, views and features of each object, and the split."""

    points: int = 16_384
    """Points on the surface of each mesh; training samples subsets of them."""
    resolution: int = 448
    """Rows and columns of the images."""
    views: int = 4
    """Images of each object. Rendered views are at equal steps around y; the paper has four."""
    renders: Literal["made", "found"] = "made"
    """`made` renders the meshes, `found` reads images with cameras beside them."""
    elevation: float = 0.0
    """Elevation of the cameras of rendered images, in degrees."""
    distance: float = cameras.DISTANCE
    """Distance of the cameras of rendered images from the center, in halves of the longest side."""
    field_of_view: float = cameras.DEFAULT_FOV
    """Field of view in degrees; for found images, where their files do not have it (Zero123: 49.1)."""
    world: _rendered_views.World = "mesh"
    """Axes and units of the cameras of found images: the mesh's, Blender's, or those of Zero123's script."""
    embedder: str = "dinov2"
    """The network that encodes the images; `patches` is a placeholder without weights."""
    features: Literal["stored", "online"] = "stored"
    """`stored` writes the tokens into the shards; `online` writes the images, and training computes the tokens."""
    weights: str | None = field(default=None, metadata={"is_path": True})
    """The folder of the embedder's weights; else `$INRFLOW_WEIGHTS/EMBEDDER`, else `weights/EMBEDDER`."""
    val: float = 0.1
    """Share of the meshes that is held out; the split of a mesh depends on its uid or content alone."""

    def __post_init__(self) -> None:
        for name, least in (("points", 1), ("resolution", 8), ("views", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"`{name}` is {getattr(self, name)}: at least {least}")
        if not 0 <= self.val < 1:
            raise ValueError(f"`val` is {self.val}: from 0 to below 1")
        if not 0 < self.field_of_view < 180:
            raise ValueError(f"`field_of_view` is {self.field_of_view}: between 0 and 180")
        if not -90 <= self.elevation <= 90:
            raise ValueError(f"`elevation` is {self.elevation}: from -90 to 90")
        if not self.distance > 0:
            raise ValueError(f"`distance` is {self.distance}: above 0")
        _stored_features.check(self.embedder, "image", "`dinov2` and `patches`")


def scan(source: Path, config: Config) -> DatasetIndex:
    """Every mesh below the source, sorted by name; the weights of the embedder are checked.

    Raises:
        MissingError: there is no mesh, or the weights are missing.
        IntegrityError: the weights are damaged, or those of another network.
        UsageError: there is no such embedder of images, or the package that runs it is not installed.
    """
    folder, files = _mesh_reading.list_source(source)
    items = [Item(name, location=str(folder)) for name in _mesh_reading.files(source, files)]
    return DatasetIndex(
        _mesh_identity.split(folder, items, config.val),
        shape=(config.points, 3),
        dtype="float32",
        fingerprint=fingerprint(_mesh_identity.files_read(files)),
        normalization=_point_clouds.BOX | _stored_features.origin(config, "patches"),
        condition_bytes=_condition_bytes(config),
        notes=_mesh_reading.notes(files),
    )


def read(item: Item, config: Config) -> Example:
    """Points on one mesh in its box, images of it, their cameras, and the tokens where they are stored.

    Raises:
        UnreadableItemError: the mesh cannot be read, has no faces, no area, or numbers that are not finite; found
            images are too few, cannot be read, are not square, or do not show the mesh.
    """
    root = Path(item.location)
    body = reading.load(root, item.name, with_colors=config.renders == "made")
    mesh, offset, scale = _boxed(body.mesh)
    points = sample_surface(
        mesh, config.points, seed=_point_clouds.seed(f"objaverse {_mesh_identity.own_name(item)}")
    ).astype(np.float32)
    if config.renders == "found":
        views = _rendered_views.read(root, item.name, config.views, config.resolution, config.field_of_view)
        views = _rendered_views.placed(views, config.world, offset, scale)
        _rendered_views.check(views, points)
    else:
        views = _rendered(mesh, body, config)
    condition = {"image": views.images, "camera": views.cameras}
    return Example(
        points, item.label, item.name, condition | _point_clouds.undoing(offset, scale) | _tokens(views, config)
    )


def _boxed(mesh: Mesh) -> tuple[Mesh, Float64[np.ndarray, " 3"], float]:
    """The mesh with its box in [-1, 1], and the offset and scale that undo it."""
    used = mesh.vertices[np.unique(mesh.faces)]
    low, high = used.min(0), used.max(0)
    offset, scale = (low + high) / 2, float((high - low).max() / 2)
    return Mesh((mesh.vertices - offset) / scale, mesh.faces), offset, scale


def _rendered(mesh: Mesh, body: reading.Body, config: Config) -> _rendered_views.Views:
    view_cameras = np.stack(
        [
            cameras.orbit(
                360 * index / config.views, config.elevation, config.distance, field_of_view=config.field_of_view
            )
            for index in range(config.views)
        ]
    )
    colors = body.colors if body.has_colors else None
    pixels = mesh_rendering.render(mesh, view_cameras, config.resolution, colors)
    return _rendered_views.Views(mesh_rendering.on_white(pixels), pixels[..., 3] > 0, view_cameras)


def _tokens(views: _rendered_views.Views, config: Config) -> dict[str, np.ndarray]:
    """The tokens of each view if they are stored; computed in one thread: the bytes do not depend on the workers."""
    if config.features == "online":
        return {}
    import torch

    from inrflow_core.feature_networks._contract import posed_image_tokens

    embedder, threads = _stored_features.embedder(config), torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        tokens = posed_image_tokens(embedder, torch.from_numpy(views.images), torch.from_numpy(views.cameras))
    finally:
        torch.set_num_threads(threads)
    return {"tokens": tokens.numpy()}


def _condition_bytes(config: Config) -> int:
    """Bytes of the images, cameras and tokens of an object, and of its offset and scale."""
    image, camera, tokens = 3 * config.resolution**2, 16 * 4, 0
    if config.features == "stored":
        from inrflow_core.geometry.cameras import RAY

        embedder = _stored_features.embedder(config)
        tokens = 2 * math.prod(embedder.grid(config.resolution, config.resolution)) * (embedder.width + RAY)
    return config.views * (image + camera + tokens) + 4 * (3 + 1)
