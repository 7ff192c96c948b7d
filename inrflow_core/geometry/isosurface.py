"""Meshes of functions of space: the surface where a density or the logit of an occupancy has one value.

Both are closed where the body reaches the border of the box, and go through one form of marching cubes (Open3D's Flying
Edges). Densities are evaluated on the whole grid, for fog has no surface to follow; occupancies on a coarse grid, and finer
near the surface alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Float64, Int64
from torch import Tensor

from inrflow_core.errors import OutOfMemory, UsageError
from inrflow_core.geometry.mesh import Mesh
from inrflow_core.geometry.open3d_import import load_open3d
from inrflow_core.runtime.memory import free_memory
from inrflow_core.runtime.progress import format_bytes

Field = Callable[[Float32[Tensor, "P 3"]], tuple[Float[Tensor, " P"], Float[Tensor, "P 3"]]]
"""Densities and colors (in [0, 1]) at points in the world, on any device."""
Logits = Callable[[Float32[Tensor, "P 3"]], Float[Tensor, " P"]]
"""Logits of occupancy at points, on any device."""
Box = tuple[tuple[float, float, float], tuple[float, float, float]]
"""The lowest and the highest corner."""
COARSE = 64
"""Cells of the first grid along the longest side, at most."""
CHUNK = 1 << 17
"""Points that are evaluated at once."""
MOST_RESOLUTION = 512
"""Grid points along the longest side: half a GiB of densities, and as much again for each copy of them."""
BYTES_PER_POINT = 24
"""Measured peaks of a mesh's extraction: 17 to 22 bytes for each point of its grid, whose values are copied some times."""
USUAL_LEVEL = 10.0
"""Density, per world unit, at which half the light is lost after 0.07 world units."""


def extract_surface(
    field: Field,
    box: Box,
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
    mesh = surface_of_grid(density, axes, level=level, outside=0.0)
    return replace(mesh, colors=_colors(field, mesh.vertices, chunk))


def extract_occupied(
    field: Logits,
    box: Box,
    *,
    level: float = 0.0,
    resolution: int = 128,
    chunk: int = CHUNK,
    with_normals: bool = True,
) -> Mesh:
    """The closed surface around the points of a box whose logit is above `level`, faces outwards; empty if there are none.

    The logits are evaluated on a grid of at most 65 points along the longest side, then on grids of half the step in the
    cells within one cell of the surface, down to the grid of `resolution` points. Where the surface leaves the refined
    cells, the next ones are refined too. So the mesh is that of the whole grid, but for bodies that are smaller than a cell
    of the first grid and lie between its points. At 256^3 some 15 to 20 times fewer points are evaluated.

    Args:
        level: the logit of the probability that counts as inside.
        with_normals: unit normals of the vertices, against the gradient of the logits: by differences over half a cell, four
            evaluations for each vertex.

    Raises:
        UsageError: the box is empty, the resolution is out of range, or a logit is not finite.
    """
    axes = _axes(box, None, resolution)
    values = _refined(_Sparse(field, axes, level, chunk))
    mesh = surface_of_grid(values, axes, level=level, outside=level - 1)
    if not with_normals:
        return mesh
    return replace(mesh, normals=_normals(field, mesh, float(axes[0][1] - axes[0][0]) / 2, chunk))


def check_memory(resolution: int) -> None:
    """Raise OutOfMemory if a cubic grid with that many points a side, at most `MOST_RESOLUTION`, does not fit into the free memory."""
    free, needed = free_memory(torch.device("cpu")), BYTES_PER_POINT * min(resolution, MOST_RESOLUTION) ** 3
    if free is not None and needed > free:
        raise OutOfMemory(
            f"a mesh on a grid of {resolution:,} points a side takes about {format_bytes(needed)} of memory, and "
            f"{format_bytes(free)} is free",
            hint=f"take `--resolution {max(2, int((free / BYTES_PER_POINT) ** (1 / 3)))}` or less",
        )


def surface_of_grid(
    values: Float32[np.ndarray, "X Y Z"], axes: Sequence[Float64[np.ndarray, " _"]], *, level: float, outside: float
) -> Mesh:
    """The surface of values on a grid, closed by a layer of `outside` around it and cut at the border; faces outwards.

    `axes` are the coordinates along x, y and z, of one step. Empty where no value is above the level.
    """
    open3d = load_open3d()
    # Open3D's volumes are indexed by z, y and x.
    volume = np.pad(values, 1, constant_values=outside).transpose(2, 1, 0) - np.float32(level)
    volume[volume == 0] = -np.finfo(np.float32).tiny  # a surface through a grid point has triangles without area
    if not (volume > 0).any():
        return Mesh(np.empty((0, 3)), np.empty((0, 3), dtype=np.int64))
    found = open3d.t.geometry.TriangleMesh.create_isosurfaces(open3d.core.Tensor(np.ascontiguousarray(volume)), [0.0])
    low = np.array([axis[0] for axis in axes])
    step = axes[0][1] - axes[0][0]
    vertices = low + step * (found.vertex.positions.numpy().astype(np.float64) - 1)
    vertices = np.clip(vertices, low, [axis[-1] for axis in axes])
    return Mesh(vertices, found.triangle.indices.numpy().astype(np.int64))


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


class _Sparse:
    """Logits on a grid of which only some points are evaluated; the others have the value of a point beside them."""

    def __init__(self, field: Logits, axes: Sequence[np.ndarray], level: float, chunk: int) -> None:
        self.field, self.axes, self.level, self.chunk = field, axes, level, chunk
        longest = max(len(axis) for axis in axes) - 1
        self.stride = 1
        while -(-longest // self.stride) > COARSE:
            self.stride *= 2
        self.nodes = self._nodes()
        self.values = np.empty([len(node) for node in self.nodes], dtype=np.float32)
        self.is_known = np.zeros(self.values.shape, dtype=bool)
        self.evaluate(~self.is_known)

    def evaluate(self, mask: Bool[np.ndarray, "X Y Z"]) -> None:
        """Evaluate the points of a mask that are not known yet.

        Raises:
            UsageError: a logit is not finite.
        """
        rows = np.flatnonzero(mask & ~self.is_known)
        flat = self.values.reshape(-1)
        for start in range(0, len(rows), self.chunk):
            part = rows[start : start + self.chunk]
            numbers = np.unravel_index(part, self.values.shape)
            flat[part] = _logits(
                self.field,
                np.stack([a[n[i]] for a, n, i in zip(self.axes, self.nodes, numbers, strict=True)], axis=1),
            )
        if not np.isfinite(flat[rows]).all():
            raise UsageError(
                "the occupancy is not finite at some points of the box", hint="train the model longer, or again"
            )
        self.is_known.reshape(-1)[rows] = True

    def halve(self) -> list[Int64[np.ndarray, " _"]]:
        """Go to half the stride; returns, for each axis, the cell before in which each new cell is."""
        old, values, is_known = self.nodes, self.values, self.is_known
        self.stride //= 2
        self.nodes = self._nodes()
        before = [np.searchsorted(o, n, side="right") - 1 for o, n in zip(old, self.nodes, strict=True)]
        self.values = values[np.ix_(*before)]
        is_old = [np.isin(n, o) for o, n in zip(old, self.nodes, strict=True)]
        self.is_known = np.zeros(self.values.shape, dtype=bool)
        self.is_known[np.ix_(*is_old)] = is_known
        return [numbers[:-1] for numbers in before]

    def crossed(self) -> Bool[np.ndarray, "_ _ _"]:
        """The cells that have corners on both sides of the level."""
        is_inside = self.values > self.level
        return _corners(is_inside, np.logical_or) & ~_corners(is_inside, np.logical_and)

    def _nodes(self) -> list[Int64[np.ndarray, " _"]]:
        """Numbers of the points along each axis: every `stride`-th one, and the last."""
        return [np.unique([*range(0, len(axis), self.stride), len(axis) - 1]) for axis in self.axes]


def _refined(grid: _Sparse) -> Float32[np.ndarray, "X Y Z"]:
    """The values of the finest grid: exact near the surface, on the right side of the level elsewhere."""
    cells = _dilated(grid.crossed())
    while grid.stride > 1:
        owners = grid.halve()
        while True:
            fine = cells[np.ix_(*owners)]
            grid.evaluate(_touched(fine))
            crossed = grid.crossed()
            missed = np.nonzero(crossed & ~fine)
            if not len(missed[0]):
                break
            cells[tuple(owner[numbers] for owner, numbers in zip(owners, missed, strict=True))] = True
        cells = crossed
    return grid.values


def _corners(flags: Bool[np.ndarray, "_ _ _"], combine: np.ufunc) -> Bool[np.ndarray, "_ _ _"]:
    """The flags of each cell's eight corners, combined."""
    for axis in range(3):
        count = flags.shape[axis]
        flags = combine(flags.take(range(count - 1), axis), flags.take(range(1, count), axis))
    return flags


def _touched(cells: Bool[np.ndarray, "_ _ _"]) -> Bool[np.ndarray, "_ _ _"]:
    """The points that are corners of some cells."""
    return _corners(np.pad(cells, 1), np.logical_or)


def _dilated(cells: Bool[np.ndarray, "_ _ _"]) -> Bool[np.ndarray, "_ _ _"]:
    """These cells and their neighbors."""
    return _corners(_touched(cells), np.logical_or)


def _normals(field: Logits, mesh: Mesh, step: float, chunk: int) -> Float64[np.ndarray, "V 3"]:
    """Unit vectors against the gradient, from the corners of a small tetrahedron; of the faces where it vanishes."""
    corners = np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]) / np.sqrt(3)
    gradient = np.zeros_like(mesh.vertices)
    for start in range(0, len(gradient), chunk):
        for corner in corners:
            values = _logits(field, mesh.vertices[start : start + chunk] + step * corner)
            gradient[start : start + chunk] -= values[:, None].astype(np.float64) * corner
    lengths = np.linalg.norm(gradient, axis=1, keepdims=True)
    is_flat = ~(np.isfinite(lengths) & (lengths > 0))[:, 0]
    if is_flat.any():
        first, second, third = (mesh.vertices[mesh.faces[:, corner]] for corner in range(3))
        areas = np.zeros_like(gradient)
        for corner in range(3):
            np.add.at(areas, mesh.faces[:, corner], np.cross(second - first, third - first))
        gradient[is_flat] = areas[is_flat]
        lengths = np.linalg.norm(gradient, axis=1, keepdims=True)
    return gradient / np.where(lengths > 0, lengths, 1)


@torch.no_grad()
def _logits(field: Logits, points: Float64[np.ndarray, "P 3"]) -> np.ndarray:
    return field(torch.from_numpy(points.astype(np.float32))).float().cpu().numpy()


def _colors(field: Field, vertices: Float64[np.ndarray, "V 3"], chunk: int) -> np.ndarray:
    parts = [_evaluate(field, vertices[start : start + chunk])[1] for start in range(0, len(vertices), chunk)]
    return (np.concatenate(parts).clip(0, 1) * 255).round().astype(np.uint8)


@torch.no_grad()
def _evaluate(field: Field, points: Float64[np.ndarray, "P 3"]) -> tuple[np.ndarray, np.ndarray]:
    density, color = field(torch.from_numpy(points.astype(np.float32)))
    return density.float().cpu().numpy(), color.float().cpu().numpy()
