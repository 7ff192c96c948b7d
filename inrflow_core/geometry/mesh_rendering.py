"""Render meshes by Open3D's ray casting: no display, no GPU, no driver. The same mesh gives the same image."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Float, Float32, Int, UInt8

from inrflow_core.geometry import cameras
from inrflow_core.geometry.mesh import Mesh
from inrflow_core.geometry.open3d_import import load_open3d

Colors = Callable[[Int[np.ndarray, " N"], Float[np.ndarray, "N 3"]], Float[np.ndarray, "N 3"]]
"""RGB in [0, 255] at points of a mesh, from their faces and barycentric weights."""
AMBIENT = 0.4
"""Share of a surface's color that is seen edge-on; the rest comes from a lamp at the camera."""
PLAIN = 190.0
"""Gray of a mesh without colors."""
SAMPLES = 2
"""Rays along each side of a pixel."""


def render(
    mesh: Mesh, cameras: Float32[np.ndarray, "V 4 4"], resolution: int, colors: Colors | None = None
) -> UInt8[np.ndarray, "V resolution resolution 4"]:
    """An image from each camera (geometry/cameras.py), RGB with straight alpha, which is 0 outside the mesh.

    Faces are flat and seen from both sides: a face shows AMBIENT of its color, and the rest times the cosine between
    its normal and the ray. Nothing is transparent and nothing casts a shadow.
    """
    open3d = load_open3d()
    scene = open3d.t.geometry.RaycastingScene()
    scene.add_triangles(mesh.vertices.astype(np.float32), mesh.faces.astype(np.uint32))
    return np.stack([_render_view(scene, camera, resolution, colors) for camera in cameras])


def on_white(pixels: UInt8[np.ndarray, "*images H W C"]) -> UInt8[np.ndarray, "*images H W 3"]:
    """Images of 3 channels unchanged, of 4 (with straight alpha) composited on white."""
    if pixels.shape[-1] == 3:
        return pixels
    alpha = pixels[..., 3:].astype(np.float32) / 255
    return (pixels[..., :3] * alpha + 255 * (1 - alpha)).round().astype(np.uint8)


def _render_view(
    scene: Any, camera: Float32[np.ndarray, "4 4"], resolution: int, colors: Colors | None
) -> UInt8[np.ndarray, "resolution resolution 4"]:
    """The mean over the rays of each pixel; the color over those that hit the mesh."""
    total = np.zeros((resolution**2, 3), dtype=np.float32)
    hits = np.zeros((resolution**2, 1), dtype=np.float32)
    steps = ((np.arange(SAMPLES) + 0.5) / SAMPLES - 0.5) / resolution
    for down, right in itertools.product(steps, steps):
        shifted = camera.copy()
        shifted[3, 2:] -= (right, down)
        pixels, seen = _cast(scene, shifted, resolution, colors)
        total[pixels] += seen
        hits[pixels] += 1
    color = total / np.maximum(hits, 1)
    image = np.concatenate([color, hits * (255 / SAMPLES**2)], axis=1).round().clip(0, 255).astype(np.uint8)
    return image.reshape(resolution, resolution, 4)


def _cast(
    scene: Any, camera: Float32[np.ndarray, "4 4"], resolution: int, colors: Colors | None
) -> tuple[Int[np.ndarray, " N"], Float[np.ndarray, "N 3"]]:
    """The pixels whose ray hits the mesh, and the color at each hit."""
    origin, directions = cameras.rays(camera, resolution, resolution)
    rays = np.empty((len(directions), 6), dtype=np.float32)
    rays[:, :3], rays[:, 3:] = origin, directions
    cast = scene.cast_rays(rays, nthreads=1)
    pixels = np.flatnonzero(np.isfinite(cast["t_hit"].numpy()))
    facing = np.abs(np.einsum("nd,nd->n", cast["primitive_normals"].numpy()[pixels], rays[pixels, 3:]))
    shade = AMBIENT + (1 - AMBIENT) * facing[:, None]
    if colors is None:
        return pixels, PLAIN * shade.repeat(3, axis=1)
    second, third = cast["primitive_uvs"].numpy()[pixels].T
    weights = np.stack([1 - second - third, second, third], axis=1)
    return pixels, colors(cast["primitive_ids"].numpy()[pixels].astype(np.int64), weights) * shade
