"""A mesh of a density in space: the surface where it has one value, with the colors there."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float, Float32, Float64
from torch import Tensor

from inrflow_core.errors import UsageError
from inrflow_core.geometry.mesh import Mesh
from inrflow_core.geometry.open3d_import import load_open3d

Field = Callable[[Float32[Tensor, "P 3"]], tuple[Float[Tensor, " P"], Float[Tensor, "P 3"]]]
"""Densities and colors (in [0, 1]) at points in the world, on any device."""
CHUNK = 1 << 17
"""Points that are evaluated at once."""
MOST_RESOLUTION = 512
"""Grid points along the longest side: half a GiB of densities, and as much again for each copy of them."""
USUAL_LEVEL = 10.0
"""Density, per world unit, at which half the light is lost after 0.07 world units."""


def extract_surface(
    field: Field,
    box: tuple[tuple[float, float, float], tuple[float, float, float]],
    *,
    level: float | None = None,
    resolution: int = 128,
    chunk: int = CHUNK,
) -> Mesh:
    """The closed surface around the points of a box whose density is above `level`, faces outwards.

    The density is evaluated on a grid of cubes with `resolution` points along the longest side of the box, and a surface
    goes through each edge of the grid where the linear interpolation has the level (Open3D's Flying Edges, a form of
    marching cubes). Where the body reaches the border of the box, the border closes it.

    Args:
        box: its lowest and highest corner.
        level: None takes `usual_level`.

    Raises:
        UsageError: the box is empty, `level` is not above 0, the resolution is out of range, a density is not finite, or
            none is above the level.
    """
    axes = _axes(box, level, resolution)
    density = _density(field, axes, chunk)
    if not np.isfinite(density).all():
        raise UsageError("the density is not finite at some points of the box", hint="train the model longer, or again")
    if level is None:
        level = usual_level(density)
    if not (density > level).any():
        raise UsageError(
            f"no density in the box is above the level {level:g}: the highest is {density.max():g}",
            hint="take a lower level, or another box",
        )
    open3d = load_open3d()
    # Open3D's volumes are indexed by z, y and x. A layer of no density around the grid closes the surface.
    volume = np.pad(density, 1).transpose(2, 1, 0) - np.float32(level)
    found = open3d.t.geometry.TriangleMesh.create_isosurfaces(open3d.core.Tensor(np.ascontiguousarray(volume)), [0.0])
    low = np.array([axis[0] for axis in axes])
    step = axes[0][1] - axes[0][0]
    vertices = low + step * (found.vertex.positions.numpy().astype(np.float64) - 1)
    vertices = np.clip(vertices, low, [axis[-1] for axis in axes])
    faces = found.triangle.indices.numpy().astype(np.int64)
    return Mesh(vertices, faces, _colors(field, vertices, chunk))


def usual_level(density: Float32[np.ndarray, "X Y Z"]) -> float:
    """10 per world unit, or half the highest density of fog that is nowhere as dense."""
    return min(USUAL_LEVEL, float(density.max()) / 2)


def _axes(box: tuple[tuple[float, ...], tuple[float, ...]], level: float | None, resolution: int) -> list[np.ndarray]:
    """The grid's coordinates along x, y and z: cubes of one size, around the middle of the box."""
    low, high = (np.array(corner, dtype=np.float64) for corner in box)
    if not (np.isfinite([low, high]).all() and (low < high).all()):
        raise UsageError(f"the box from {box[0]} to {box[1]} is empty", hint="give the lowest corner, then the highest")
    if level is not None and not 0 < level < np.inf:
        raise UsageError(f"the level of a surface is {level:g}", hint="give a density above 0")
    if not 2 <= resolution <= MOST_RESOLUTION:
        raise UsageError(f"a grid of {resolution:,} points along a side", hint=f"from 2 to {MOST_RESOLUTION:,} points")
    step = (high - low).max() / (resolution - 1)
    counts = np.maximum(2, np.ceil((high - low) / step - 1e-9).astype(int) + 1)
    start = (low + high) / 2 - step * (counts - 1) / 2
    return [first + step * np.arange(count) for first, count in zip(start, counts, strict=True)]


def _density(field: Field, axes: list[np.ndarray], chunk: int) -> Float32[np.ndarray, "X Y Z"]:
    shape = tuple(len(axis) for axis in axes)
    density = np.empty(shape, dtype=np.float32)
    flat = density.reshape(-1)
    for start in range(0, flat.size, chunk):
        part = np.arange(start, min(start + chunk, flat.size))
        points = np.stack([axis[i] for axis, i in zip(axes, np.unravel_index(part, shape), strict=True)], axis=1)
        flat[part] = _evaluate(field, points)[0]
    return density


def _colors(field: Field, vertices: Float64[np.ndarray, "V 3"], chunk: int) -> np.ndarray:
    parts = [_evaluate(field, vertices[start : start + chunk])[1] for start in range(0, len(vertices), chunk)]
    return (np.concatenate(parts).clip(0, 1) * 255).round().astype(np.uint8)


@torch.no_grad()
def _evaluate(field: Field, points: Float64[np.ndarray, "P 3"]) -> tuple[np.ndarray, np.ndarray]:
    density, color = field(torch.from_numpy(points.astype(np.float32)))
    return density.float().cpu().numpy(), color.float().cpu().numpy()
