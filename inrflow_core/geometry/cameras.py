"""Cameras as arrays of 4 x 4: pose and focal lengths, and the rays through the patches of their images.

Rows 0 to 2 are camera-to-world, [rotation | position], in OpenCV's axes: x to the right, y down, z into the image.
Row 3 holds the focal lengths and the center, x and y, in units of the image's width and height, so that a camera
fits any resolution. The world is right-handed with y up.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Float32, Float64, Int64
from torch import Tensor

DEFAULT_FOV = 40.0
"""Field of view in degrees; INRFlow, appendix A.2."""
DISTANCE = 3.5
"""From the origin to each camera, in units in which the object's box spans [-1, 1]; INRFlow, appendix A.2."""
OPENGL = np.diag([1.0, -1.0, -1.0])
"""From OpenCV's axes to those of OpenGL and Blender (y up, z out of the image), and back."""
SUPPORT_VIEW = 64
"""The view of a scene that is encoded where novel views are measured, by pixelNeRF's convention for SRN."""
SUPPORT = "view-64-or-middle"
"""The name of that rule (`support_views`) in protocols and provenance."""


def support_views(counts: Int64[np.ndarray, " N"]) -> Int64[np.ndarray, " N"]:
    """The view to encode of scenes with these numbers of views: number 64, counted from 0, or the middle one of fewer."""
    return np.where(counts > SUPPORT_VIEW, SUPPORT_VIEW, counts // 2)


def look_at(
    position: Sequence[float],
    target: Sequence[float] = (0, 0, 0),
    up: Sequence[float] = (0, 1, 0),
    *,
    field_of_view: float = DEFAULT_FOV,
) -> Float32[np.ndarray, "4 4"]:
    """The camera at a position that has `target` in the middle of its square image.

    Where it looks along `up`, z points to the top of the image.
    """
    origin = np.asarray(position, dtype=np.float64)
    forward = np.asarray(target, dtype=np.float64) - origin
    forward /= np.linalg.norm(forward)
    right = np.cross(forward, up)
    if np.linalg.norm(right) < 1e-6:
        right = np.cross(forward, (0, 0, -1))
    right /= np.linalg.norm(right)
    rotation = np.stack([right, np.cross(forward, right), forward], axis=1)
    return camera_matrix(rotation, origin, focal(field_of_view))


def orbit(
    azimuth: float = 0.0,
    elevation: float = 0.0,
    distance: float = DISTANCE,
    *,
    field_of_view: float = DEFAULT_FOV,
) -> Float32[np.ndarray, "4 4"]:
    """The camera on a sphere about the origin that looks at it: from +z at azimuth 0, from +x at 90; in degrees.

    At the poles, elevation 90 and -90, it is the limit of the cameras of that azimuth.
    """
    turn, rise = math.radians(azimuth), math.radians(elevation)
    flat = distance * math.cos(rise)
    position = (flat * math.sin(turn), distance * math.sin(rise), flat * math.cos(turn))
    up = (0.0, 1.0, 0.0)
    if abs(flat) < 1e-6 * distance:
        tilt = -math.copysign(1.0, rise)
        up = (tilt * math.sin(turn), 0.0, tilt * math.cos(turn))
    return look_at(position, up=up, field_of_view=field_of_view)


def focal(field_of_view: float) -> float:
    """The focal length, in units of the image's side, of a field of view in degrees."""
    return 0.5 / math.tan(math.radians(field_of_view) / 2)


def camera_matrix(
    rotation: Float[np.ndarray, "3 3"], position: Float[np.ndarray, " 3"], focal_length: float
) -> Float32[np.ndarray, "4 4"]:
    """A camera from its parts, with the center in the middle of a square image."""
    camera = np.zeros((4, 4), dtype=np.float32)
    camera[:3, :3], camera[:3, 3] = rotation, position
    camera[3] = focal_length, focal_length, 0.5, 0.5
    return camera


def from_opengl(pose: Float[np.ndarray, "_ 4"], focal_length: float) -> Float32[np.ndarray, "4 4"]:
    """A camera of a camera-to-world matrix in OpenGL's axes, as Blender-style `transforms.json` files have it."""
    return camera_matrix(pose[:3, :3] @ OPENGL, pose[:3, 3], focal_length)


def from_world_to_opengl(matrix: Float[np.ndarray, "_ 4"], focal_length: float) -> Float32[np.ndarray, "4 4"]:
    """A camera of a world-to-camera matrix in OpenGL's axes, as Zero123's script writes it."""
    rotation = matrix[:3, :3].T
    return camera_matrix(rotation @ OPENGL, -rotation @ matrix[:3, 3], focal_length)


def transformed(
    camera: Float32[np.ndarray, "4 4"],
    offset: Float[np.ndarray, " 3"],
    scale: float,
    turn: Float[np.ndarray, "3 3"] | None = None,
) -> Float32[np.ndarray, "4 4"]:
    """The same camera in a world whose points are `(turn @ point - offset) / scale`; its image does not change."""
    turned = camera[:3].astype(np.float64) if turn is None else turn @ camera[:3].astype(np.float64)
    result = camera.copy()
    result[:3, :3], result[:3, 3] = turned[:, :3], (turned[:, 3] - offset) / scale
    return result


def project(
    camera: Float32[np.ndarray, "4 4"], points: Float[np.ndarray, "N 3"]
) -> tuple[Float64[np.ndarray, "N 2"], Float64[np.ndarray, " N"]]:
    """Where points appear, x and y in units of the image from its top left corner, and their depth along z."""
    matrix = camera.astype(np.float64)
    seen = (points - matrix[:3, 3]) @ matrix[:3, :3]
    return seen[:, :2] / seen[:, 2:] * matrix[3, :2] + matrix[3, 2:], seen[:, 2]


def rays(
    camera: Float32[np.ndarray, "4 4"], rows: int, columns: int
) -> tuple[Float64[np.ndarray, " 3"], Float64[np.ndarray, "{rows}*{columns} 3"]]:
    """The camera's position, and unit directions through the cell centers of a grid over its image, row by row."""
    matrix = camera.astype(np.float64)
    y, x = np.mgrid[:rows, :columns].reshape(2, -1)
    seen = np.stack([(x + 0.5) / columns, (y + 0.5) / rows], axis=1)
    flat = (seen - matrix[3, 2:]) / matrix[3, :2]
    directions = np.concatenate([flat, np.ones((len(flat), 1))], axis=1) @ matrix[:3, :3].T
    return matrix[:3, 3], directions / np.linalg.norm(directions, axis=1, keepdims=True)


def pluecker(camera: Float32[np.ndarray, "4 4"], rows: int, columns: int) -> Float64[np.ndarray, "{rows}*{columns} 6"]:
    """The six Pluecker numbers of the ray through each patch's center: its unit direction, and position x direction.

    The moment is the same for every point of the ray, and at right angles to the direction (Pluecker 1828).
    """
    origin, directions = rays(camera, rows, columns)
    return np.concatenate([directions, np.cross(origin, directions)], axis=1)


def fitted(poses: Float32[Tensor, "*sets 4 4"], rows: int, columns: int) -> Float32[Tensor, "*sets 4 4"]:
    """Cameras of square views for views of other sides: the shorter side shows what a square one shows."""
    if rows == columns:
        return poses
    shorter, result = min(rows, columns), poses.clone()
    for axis, count in enumerate((columns, rows)):
        factor = shorter / count
        result[..., 3, axis] = poses[..., 3, axis] * factor
        result[..., 3, 2 + axis] = (poses[..., 3, 2 + axis] - 0.5) * factor + 0.5
    return result


def depth_rays(
    cameras: Float32[Tensor, "*cameras 4 4"], rows: int, columns: int
) -> tuple[Float32[Tensor, "*cameras {rows}*{columns} 3"], Float32[Tensor, "*cameras {rows}*{columns} 3"]]:
    """Origins and directions of the rays through all pixel centers, row by row; directions have depth 1 along the axis.

    A point at `origin + depth * direction` has that depth in the camera; unit directions are those of `rays`.
    """
    numbers = {"dtype": torch.float64, "device": cameras.device}
    y, x = torch.meshgrid(
        (torch.arange(rows, **numbers) + 0.5) / rows, (torch.arange(columns, **numbers) + 0.5) / columns, indexing="ij"
    )
    matrix = cameras.double()
    flat = (torch.stack([x.flatten(), y.flatten()], dim=-1) - matrix[..., 3:, 2:]) / matrix[..., 3:, :2]
    directions = torch.cat([flat, torch.ones_like(flat[..., :1])], dim=-1) @ matrix[..., :3, :3].mT
    return matrix[..., None, :3, 3].expand_as(directions).float().contiguous(), directions.float()


RAY = 6
"""Numbers of a ray; in a token they follow the embedder's."""


def pluecker_batch(
    cameras: Float32[Tensor, "V 4 4"], rows: int, columns: int
) -> Float32[Tensor, "V {rows}*{columns} 6"]:
    """As `cameras.pluecker`, for many cameras and on their device."""
    half = cameras.new_tensor(0.5)
    y, x = torch.meshgrid(
        (torch.arange(rows, device=cameras.device) + half) / rows,
        (torch.arange(columns, device=cameras.device) + half) / columns,
        indexing="ij",
    )
    seen = torch.stack([x.flatten(), y.flatten()], dim=-1)
    flat = (seen - cameras[:, 3:, 2:]) / cameras[:, 3:, :2]
    directions = torch.cat([flat, torch.ones_like(flat[..., :1])], dim=-1) @ cameras[:, :3, :3].mT
    directions = torch.nn.functional.normalize(directions, dim=-1)
    return torch.cat([directions, torch.linalg.cross(cameras[:, None, :3, 3], directions)], dim=-1)
