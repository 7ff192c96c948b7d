"""Existing renders of a mesh with their cameras, in files beside it.

Zero123's script writes `views/<uid>/000.png` with `000.npy`, world-to-camera of 3 x 4 in OpenGL's axes; Blender-style
files are a `transforms.json` among the images, with camera-to-world matrices.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float, Float32, UInt8
from PIL import Image

from inrflow_core.errors import InrflowError, UnreadableItemError
from inrflow_core.geometry import cameras, mesh_rendering
from inrflow_core.mesh_files.reading import UNREADABLE
from inrflow_core.storage import typed_json
from inrflow_core.storage.array_file import read_array
from inrflow_core.visualization.image_io import read_image

World = Literal["mesh", "blender", "zero123"]
FOLDERS = ("views", "views_release")
TRANSFORMS = "transforms.json"
FROM_BLENDER = np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]])
"""Blender's importers rotate a mesh from y up to z up; this rotates it back."""
MODELS = ("PINHOLE", "SIMPLE_PINHOLE", "OPENCV")
"""Camera models of nerfstudio that are a pinhole where their distortion is 0."""
DISTORTIONS = ("k1", "k2", "k3", "k4", "p1", "p2")
PERSPECTIVE = ("PERSP", "PERSPECTIVE")
"""Blender's words for a pinhole."""
OF_NO_FOCAL_LENGTH = {
    *("frames", "file_path", "transform_matrix", "rotation", "time", "sharpness", "camera_model", "camera_type"),
    *("aabb", "aabb_scale", "scale", "offset", "applied_transform", "applied_scale", "orientation_override"),
    *("ply_file_path", "mask_path", "depth_file_path", "colmap_im_id", *DISTORTIONS),
}
"""Keys that say nothing about a focal length: any other, where none is known, may state it in another way."""
CENTERED = 0.01
"""How far the center may lie from the middle, in units of the side, and focal lengths differ."""
SEEN = 0.8
"""Fraction of the points that must project onto the object, in images with a transparent background."""
CHECKED = 2048
"""Number of points checked."""


@dataclass(frozen=True)
class Views:
    """Square images of one object and their cameras."""

    images: UInt8[np.ndarray, "V R R 3"]
    """Composited on white."""
    is_shown: Bool[np.ndarray, "V R R"]
    """Where the object can be: where the image is not fully transparent."""
    cameras: Float32[np.ndarray, "V 4 4"]


def read(root: Path, mesh: str, count: int, resolution: int, field_of_view: float) -> Views:
    """The first `count` images of a mesh below `root`, by name; cameras are in the world of their files.

    Args:
        field_of_view: in degrees, for images whose files do not have it.

    Raises:
        UnreadableItemError: there are fewer, or an image or camera cannot be read.
    """
    folder = _folder(root, mesh)
    views = [] if folder is None else _list_views(root, folder, field_of_view)
    if len(views) < count:
        raise UnreadableItemError(f"it has {len(views)} views with cameras, fewer than {count}")
    images_and_alphas = [_square_image(path, resolution) for path, _ in views[:count]]
    images, alphas = (np.stack(arrays) for arrays in zip(*images_and_alphas, strict=True))
    return Views(images, alphas > 0, np.stack([camera for _, camera in views[:count]]))


def placed(views: Views, world: World, offset: Float[np.ndarray, " 3"], scale: float) -> Views:
    """The views with cameras in the units of the normalized mesh, whose points are `(point - offset) / scale`.

    Args:
        world: the world of the cameras: the mesh's own (`mesh`), Blender's with z up (`blender`), or Blender's with the
            mesh's box centered and its longest side 1 (`zero123`).
    """
    if world == "zero123":
        offset, scale = np.zeros(3), 0.5
    turn = None if world == "mesh" else FROM_BLENDER
    moved = [cameras.transformed(camera, offset, scale, turn) for camera in views.cameras]
    return replace(views, cameras=np.stack(moved))


def check(views: Views, points: Float[np.ndarray, "N 3"]) -> None:
    """Raise UnreadableItemError unless the images show the points, as a check of the world of the cameras.

    Raises:
        UnreadableItemError: too few points appear where an image is not transparent.
    """
    subset = points[:: max(1, len(points) // CHECKED)].astype(np.float64)
    side = views.images.shape[1]
    for number, camera in enumerate(views.cameras):
        seen, depth = cameras.project(camera, subset)
        pixels = np.floor(seen * side).astype(np.int64)
        column, row = pixels[((pixels >= 0) & (pixels < side)).all(1) & (depth > 0)].T
        share = float(views.is_shown[number, row, column].mean()) if len(row) else 0.0
        if share < SEEN:
            raise UnreadableItemError(
                f"{100 * share:.0f} % of its points appear on the object in view {number}: its cameras are of another "
                "world or field of view"
            )


def _folder(root: Path, mesh: str) -> Path | None:
    """The folder of the views of a mesh: by its whole name or its last part, below the source or beside the mesh."""
    path = Path(mesh).with_suffix("")
    for name in FOLDERS:
        for candidate in (root / name / path, root / name / path.name, root / path.parent / name / path.name):
            if candidate.is_dir():
                return candidate
    return None


def _list_views(root: Path, folder: Path, field_of_view: float) -> list[tuple[Path, Float32[np.ndarray, "4 4"]]]:
    try:
        if (folder / TRANSFORMS).is_file():
            return _transforms(root, folder, field_of_view)
        focal = cameras.focal(field_of_view)
        pairs = [(path, path.with_suffix(".npy")) for path in sorted(folder.glob("*.png"))]
        return [
            (path, cameras.from_world_to_opengl(pose_matrix(read_array(camera)), focal))
            for path, camera in pairs
            if camera.is_file()
        ]
    except UnreadableItemError:
        raise
    except (*UNREADABLE, InrflowError) as error:
        raise UnreadableItemError("the cameras of its views cannot be read") from error


def _transforms(root: Path, folder: Path, field_of_view: float) -> list[tuple[Path, Float32[np.ndarray, "4 4"]]]:
    table = typed_json.read_json(folder / TRANSFORMS)
    views = []
    for frame in table["frames"]:
        focal = _focal({**table, **frame}, field_of_view)
        path = (folder / frame["file_path"]).resolve()
        path = path if path.suffix else path.with_suffix(".png")
        if not path.is_relative_to(root.resolve()):
            raise ValueError(frame["file_path"])
        views.append((path, cameras.from_opengl(pose_matrix(frame["transform_matrix"]), focal)))
    return sorted(views, key=lambda pair: pair[0])


def _focal(camera: dict[str, Any], field_of_view: float) -> float:
    """The focal length in units of the image's side: of `fl_x` and `w`, of an angle, or else of the field of view.

    Raises:
        UnreadableItemError: the camera has distortion, another model than a pinhole, a center beside the middle, or a focal
            length that is stated in another way or twice.
    """
    is_perspective = str(camera.get("camera_type", "PERSP")).upper() in PERSPECTIVE
    is_known = is_perspective and camera.get("camera_model", "PINHOLE") in MODELS
    if not is_known or any(camera.get(name, 0) for name in DISTORTIONS):
        raise UnreadableItemError("the cameras of its views are not pinhole cameras")
    for center, side in (("cx", "w"), ("cy", "h")):
        if center in camera and not abs(camera[center] / camera[side] - 0.5) < CENTERED:
            raise UnreadableItemError("the cameras of its views have their center beside the middle of the image")
    if "fl_x" in camera or "fl_y" in camera:
        across, down = camera.get("fl_x", camera.get("fl_y")), camera.get("fl_y", camera.get("fl_x"))
        focal = across / camera["w"]
        if not (0 < focal < math.inf and abs(down / camera.get("h", camera["w"]) / focal - 1) < CENTERED):
            raise UnreadableItemError("the cameras of its views have different focal lengths across and down")
        if "camera_angle_x" in camera and not abs(math.tan(camera["camera_angle_x"] / 2) * 2 * focal - 1) < CENTERED:
            raise UnreadableItemError("the cameras of its views state two focal lengths")
        return focal
    angle = camera.get("camera_angle_x")
    if angle is None and camera.keys() - OF_NO_FOCAL_LENGTH:
        raise UnreadableItemError("the cameras of its views state a focal length in an unknown way")
    if angle is not None and not 0 < angle < math.pi:
        raise ValueError(f"no angle: {angle}")
    return cameras.focal(field_of_view if angle is None else math.degrees(angle))


def pose_matrix(numbers: Sequence[Any] | np.ndarray) -> Float[np.ndarray, "_ 4"]:
    """A camera matrix, 3 x 4 or 4 x 4; ValueError unless it is finite, also in float32, and a rotation."""
    matrix = np.asarray(numbers, dtype=np.float64)
    if matrix.shape not in ((3, 4), (4, 4)) or not (np.abs(matrix) <= np.finfo(np.float32).max).all():
        raise ValueError("no camera matrix")
    turn = matrix[:3, :3]
    if not np.allclose(turn @ turn.T, np.eye(3), atol=1e-3) or np.linalg.det(turn) < 0:
        raise ValueError("no rotation")
    return matrix


def _square_image(path: Path, resolution: int) -> tuple[UInt8[np.ndarray, "R R 3"], UInt8[np.ndarray, "R R"]]:
    """A square image on white, and its alpha, at the resolution."""
    try:
        pixels = read_image(path, "RGBA")
    except InrflowError as error:
        raise UnreadableItemError("one of its views cannot be read") from error
    if pixels.width != pixels.height:
        raise UnreadableItemError(f"its views are not square: {pixels.width} x {pixels.height} pixels")
    white, alpha = Image.fromarray(mesh_rendering.on_white(np.asarray(pixels))), pixels.getchannel("A")
    if pixels.width != resolution:
        white = white.resize((resolution, resolution), Image.Resampling.LANCZOS)
        alpha = alpha.resize((resolution, resolution), Image.Resampling.BOX)
    return np.array(white), np.array(alpha)
