"""Scenes as Points2NeRF stores them (Zimny et al. 2022), which DDMI's release reads: an .npz file with views and colored points.

`images` (n, H, H, 3) are floats from 0 to 1 on white, `cam_poses` (n, 4, 4) camera to world in OpenGL's axes, and `data` (N, 6)
points of the surface with RGB from 0 to 1. All cameras have one field of view. The first 80 % of the scenes, by name, are for
training, as in that release. The world of the views has z up, cameras at 3.2 units and the object 2.2 times as large as in ShapeNet's
file; its scripts take the points from that file itself, with y up. The project's world is that of the views with y up.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float, Float32, Float64, UInt8
from PIL import Image

from inrflow_core.datasets import _image_decoding, _posed_views, _rendered_views
from inrflow_core.datasets._contract import DatasetIndex, Example, Item, source_not_found
from inrflow_core.errors import IntegrityError, UnreadableItemError
from inrflow_core.geometry import cameras
from inrflow_core.storage.array_file import array_names, read_array
from inrflow_core.storage.source_files import list_files
from inrflow_core.visualization.image_io import center_crop

DOMAIN = "radiance"
NEEDS_SOURCE = True
IS_READ_BY_SCAN = False
DESCRIPTION = (
    "Points2NeRF's `.npz` files with `images`, `cam_poses` and `data` -> views with cameras and colored surface points; the "
    "first 80 % by name for training"
)
ARRAYS = ("images", "cam_poses", "data")
FIELD_OF_VIEW = math.degrees(0.6911112)
"""Of all cameras, in degrees."""
TRAINING = 0.8
"""Share of the scenes, by name, in `train`."""
POINTS_SCALE = 2.2
"""How many times as large as among its points an object is in its views, by the scripts that made them."""
MOST_SCALE = 1000.0
MISSING, FOUND = 0.5, 0.9
"""Points of which a share below `MISSING` is seen on the object are misplaced if another usual way to place them has `FOUND`."""
USUAL_VIEWS = 50
"""Views of a scene, of which the size of the shards is estimated."""
SLACK = 1e-3
"""How far numbers of half precision may be outside 0 to 1."""


@dataclass(frozen=True)
class Config:
    """How scenes become examples."""

    resolution: int = 200
    """Rows and columns of the views; larger ones are reduced."""
    views: int | None = None
    """At most this number of views of each scene, evenly spaced."""
    surface_points: int = 2048
    """Points of each surface that are stored, evenly spaced in the file's order."""
    up: Literal["z", "y"] = "z"
    """The axis of the views' world that points up; z is turned to y."""
    points_up: Literal["z", "y"] = "y"
    """The axis of the points that points up; z is turned to y."""
    points_scale: float = POINTS_SCALE
    """What positions of points are multiplied by to be in the world of the views."""

    def __post_init__(self) -> None:
        _image_decoding.check_resolution(self.resolution)
        _posed_views.check_views(self.views)
        _posed_views.check_surface_points(self.surface_points)
        if not 0 < self.points_scale <= MOST_SCALE:
            raise ValueError(f"`points_scale` is {self.points_scale}: above 0, at most {MOST_SCALE:g}")


def scan(source: Path, config: Config) -> DatasetIndex:
    """The scenes, sorted by name: the first 80 % for training, the others for testing.

    Raises:
        MissingError: there is no .npz file.
    """
    files = list_files(source) if source.is_dir() else [(source.name, source.stat().st_size)]
    root = source if source.is_dir() else source.parent
    scenes = sorted((name, size) for name, size in files if name.lower().endswith(".npz"))
    if not scenes:
        raise source_not_found("points2nerf", source, "`.npz` files with `images`, `cam_poses` and `data`", files)
    items = [Item(name.removesuffix(".npz"), location=str(root / name)) for name, _ in scenes]
    count = max(1, math.floor(TRAINING * len(items)))
    splits = {"train": items[:count], "test": items[count:]}
    return _posed_views.plan(splits, config.resolution, config.views or USUAL_VIEWS, scenes, config.surface_points)


def read(item: Item, config: Config) -> Example:
    """The views of a scene, their cameras, and points of its surface.

    Raises:
        UnreadableItemError: it cannot be read as an .npz file, would have to be unpickled, or lacks an array; views are not square, are fewer
            than two, smaller than `resolution`, all white or not from 0 to 1; another number of poses, a pose that is not a
            rotation and a position; fewer points than `surface_points`, numbers that are not finite, colors that are not from 0 to 1,
            or points that are beside the object in its views and would be on it with other settings.
    """
    images, poses, surface = _arrays(Path(item.location))
    if images.ndim != 4 or images.shape[3] != 3 or images.shape[1] != images.shape[2]:
        raise UnreadableItemError(f"its `images` are of shape {images.shape}, not (n, H, H, 3)")
    if poses.shape != (len(images), 4, 4):
        raise UnreadableItemError(f"its `cam_poses` are of shape {poses.shape}, and it has {len(images)} images")
    side, rows = images.shape[1], np.arange(len(images))
    if config.views is not None and len(rows) > config.views:
        rows = np.arange(config.views) * len(images) // config.views
    if side < config.resolution:
        raise UnreadableItemError(
            f"its views have {side} x {side} pixels, fewer than `resolution`, {config.resolution}"
        )
    _posed_views.check_scene(len(rows), side)
    views = np.stack([_view(images[row], config.resolution) for row in rows])
    seen = np.stack([_camera(poses[row], _turn(config.up), int(row)) for row in rows])
    points = _points(surface, config.surface_points)
    whole = _posed_views.example(item, views, seen, [str(row) for row in rows], _placed(points, config))
    _check_placement(points, views, seen, config)
    return whole


def _turn(up: Literal["z", "y"]) -> Float[np.ndarray, "3 3"]:
    """The rotation of a world in which an axis points up to the project's."""
    return _rendered_views.FROM_BLENDER if up == "z" else np.eye(3)


def _arrays(path: Path) -> list[np.ndarray]:
    """The three arrays of a file, as they are stored."""
    try:
        missing = [name for name in ARRAYS if name not in array_names(path)]
        arrays = [] if missing else [read_array(path, name) for name in ARRAYS]
    except IntegrityError as error:
        raise UnreadableItemError(error.message.partition(": ")[2] or "it cannot be read as an .npz file") from error
    if missing:
        raise UnreadableItemError(f"it has no array `{missing[0]}`")
    for name, array in zip(ARRAYS, arrays, strict=True):
        if array.dtype.kind != "f":
            raise UnreadableItemError(f"its `{name}` are {array.dtype}, not floats")
    return arrays


def _view(image: Float[np.ndarray, "H H 3"], resolution: int) -> UInt8[np.ndarray, "R R 3"]:
    pixels = image.astype(np.float32)
    if not ((pixels >= -SLACK) & (pixels <= 1 + SLACK)).all():
        raise UnreadableItemError("its `images` have numbers that are not from 0 to 1")
    whole = (255 * pixels).round().clip(0, 255).astype(np.uint8)
    return whole if len(whole) == resolution else center_crop(Image.fromarray(whole), resolution)


def _camera(pose: Float[np.ndarray, "4 4"], turn: np.ndarray, number: int) -> Float32[np.ndarray, "4 4"]:
    try:
        matrix = _rendered_views.pose_matrix(pose)
        if not np.allclose(matrix[3], (0, 0, 0, 1)):
            raise ValueError("no camera matrix")
    except ValueError as error:
        raise UnreadableItemError(f"the pose of its view {number} is not a rotation and a position") from error
    camera = cameras.from_opengl(matrix, cameras.focal(FIELD_OF_VIEW))
    return cameras.transformed(camera, np.zeros(3), 1.0, turn)


def _points(surface: np.ndarray, count: int) -> Float64[np.ndarray, "P 6"]:
    """Points of the surface as they are stored, and RGB in [-1, 1]."""
    if surface.ndim != 2 or surface.shape[1] != 6:
        raise UnreadableItemError(f"its `data` are of shape {surface.shape}, not (N, 6)")
    if len(surface) < count:
        raise UnreadableItemError(f"it has {len(surface):,} points, fewer than `surface_points`, {count:,}")
    some = surface[np.arange(count) * len(surface) // count].astype(np.float64)
    if not (np.abs(some) <= np.finfo(np.float32).max / MOST_SCALE).all():
        raise UnreadableItemError("its `data` have numbers that are not finite")
    colors = some[:, 3:]
    if not ((colors >= -SLACK) & (colors <= 1 + SLACK)).all():
        raise UnreadableItemError("the colors of its `data` are not from 0 to 1")
    return np.concatenate([some[:, :3], 2 * colors.clip(0, 1) - 1], axis=1)


def _placed(points: Float64[np.ndarray, "P 6"], config: Config) -> Float32[np.ndarray, "P 6"]:
    """The points in the project's world."""
    to_world = config.points_scale * _turn(config.points_up)
    return np.concatenate([points[:, :3] @ to_world.T, points[:, 3:]], axis=1).astype(np.float32)


def _check_placement(
    points: Float64[np.ndarray, "P 6"],
    views: UInt8[np.ndarray, "V R R 3"],
    seen: Float32[np.ndarray, "V 4 4"],
    config: Config,
) -> None:
    """Raise UnreadableItemError if most points are beside the object in its views, and with other settings they are on it."""
    share = _share_on_object(_placed(points, config), views, seen)
    if share >= MISSING:
        return
    others = [replace(config, points_up=up, points_scale=scale) for up in ("y", "z") for scale in (1.0, POINTS_SCALE)]
    shares = [_share_on_object(_placed(points, other), views, seen) for other in others]
    best = int(np.argmax(shares))
    if shares[best] >= FOUND:
        settings = f"--set points_up={others[best].points_up} --set points_scale={others[best].points_scale}"
        raise UnreadableItemError(
            f"{share:.0%} of its points are on the object in its views, and {shares[best]:.0%} with `{settings}`"
        )


def _share_on_object(
    points: Float32[np.ndarray, "P 6"], views: UInt8[np.ndarray, "V R R 3"], seen: Float32[np.ndarray, "V 4 4"]
) -> float:
    """The share of the points, over all views, that are before the camera and where a view is not white."""
    side, count = views.shape[1], 0
    for view, camera in zip(views, seen, strict=True):
        is_object = (view != 255).any(-1)
        with np.errstate(divide="ignore", invalid="ignore"):
            at, depth = cameras.project(camera, points[:, :3])
        is_inside = (depth > 0) & (at >= 0).all(-1) & (at < 1).all(-1)
        columns, rows = (at[is_inside] * side).astype(int).T
        count += int(is_object[rows, columns].sum())
    return count / (len(views) * len(points))
