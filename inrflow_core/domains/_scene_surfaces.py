"""Colored surfaces, which the encoder of a scene reads: their files, their subsets in training, and the error of their colors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32, Float64, Int64
from torch import Tensor

from inrflow_core.domains._contract import InputExample
from inrflow_core.errors import IntegrityError, UnreadableItemError, UsageError
from inrflow_core.geometry import ply_reader
from inrflow_core.geometry.mesh import Mesh
from inrflow_core.mesh_files import reading
from inrflow_core.numerics import keyed_random
from inrflow_core.sets import SURFACE
from inrflow_core.storage import plain_file

SUFFIXES = reading.SUFFIXES
"""Of files that are read: clouds in .ply, meshes in all of them."""
SLACK = 1e-3
"""Share of the extent by which points may be outside, by rounding."""
NUM_POINTS = 10_000
"""Points on the surface of a mesh."""
LEAST_ERROR = 1e-12
"""The mean squared error of equal colors counts as this one."""


def is_surface_name(name: str) -> bool:
    """Whether a file may be a surface, by its suffix."""
    return name.lower().endswith(SUFFIXES)


def subset(
    surface: Float32[Tensor, "B S 6"], count: int, seeds: Int64[Tensor, " B"], extent: float, *, is_training: bool
) -> Float32[Tensor, "B P 6"]:
    """At most `count` points of each surface, keyed by its seed.

    Raises:
        UsageError: `is_training`, and there are fewer, or a point is outside the cube of `extent`.
    """
    stored = surface.shape[1]
    farthest = float(surface[..., :3].abs().max())
    if is_training and farthest > extent * (1 + SLACK):
        raise UsageError(
            f"a surface point of the scenes has a coordinate of {farthest:.4g}, and scenes are within {extent:g} of the origin",
            hint=f"set `domain.extent={farthest * 1.01:.3g}`, or prepare smaller scenes",
        )
    if is_training and stored < count:
        raise UsageError(
            f"the scenes have {stored:,} surface points, and the preset needs {count:,}",
            hint=f"set `domain.surface_points={stored}`, or prepare scenes with more points",
        )
    if stored <= count:
        return surface
    selected = keyed_random.subset(seeds.cpu(), stored, count, purpose="surface")
    return surface.gather(1, selected[..., None].expand(-1, -1, surface.shape[2]))


def color_error(
    medium: Callable[[Tensor], tuple[Tensor, Tensor]], surface: Float32[np.ndarray, "P 6"], chunk: int
) -> dict[str, float]:
    """`color_psnr`: the peak signal-to-noise ratio in dB of a scene's colors at points of a surface."""
    points = torch.from_numpy(surface)
    colors = torch.cat([medium(part)[1].cpu() for part in points[:, :3].split(chunk)])
    error = (colors - (points[:, 3:] + 1) / 2).square().mean()
    return {"color_psnr": float(-10 * error.clamp(min=LEAST_ERROR).log10())}


def read(path: Path, extent: float, resolution: int) -> InputExample:
    """A surface with the center of its box at the origin and its farthest point at `extent`, as `prepare views` places meshes.

    The example has no views; its condition has the points, in world units, whose colors are in [-1, 1]. Points of a mesh are
    keyed by the file's content.

    Raises:
        IntegrityError: the file cannot be read.
        UsageError: it is a cloud without colors, or all points coincide.
    """
    try:
        is_mesh = path.suffix.lower() != ".ply" or reading.has_faces(path)
    except UnreadableItemError:
        is_mesh = False  # the reader of clouds says what is broken
    surface, offset, scale = _of_mesh(path, extent) if is_mesh else _of_cloud(path, extent)
    nothing = np.empty((0, resolution, resolution, 3), dtype=np.uint8)
    return InputExample(nothing, offset, scale, {SURFACE: surface})


def _of_mesh(path: Path, extent: float) -> tuple[Float32[np.ndarray, "P 6"], Float64[np.ndarray, " 3"], float]:
    """Points on a mesh that is placed first: far from the origin single precision would merge its vertices."""
    try:
        body = reading.load(path.parent, path.name, with_colors=True)
    except UnreadableItemError as error:
        raise IntegrityError(f"`{path}` cannot be read: {error.reason}", hint="repair it, or give another") from error
    offset, scale = _placement(body.mesh.vertices[np.unique(body.mesh.faces)], extent, path)
    placed = Mesh((body.mesh.vertices - offset) / scale, body.mesh.faces)
    seed = int(plain_file.file_digest(path)[:15], 16)
    return reading.colored_points(body, placed, NUM_POINTS, seed=seed), offset, scale


def _of_cloud(path: Path, extent: float) -> tuple[Float32[np.ndarray, "P 6"], Float64[np.ndarray, " 3"], float]:
    points, center = ply_reader.read_cloud(path)
    if points.shape[1] < 6:
        raise UsageError(
            f"the points of `{path}` have no colors, and scenes are encoded from colored ones",
            hint="give a .ply cloud with red, green and blue, or a mesh",
        )
    positions = points[:, :3].astype(np.float64)
    offset, scale = _placement(positions, extent, path)
    surface = np.concatenate([(positions - offset) / scale, points[:, 3:6]], axis=1).astype(np.float32)
    return surface, offset + center, scale


def _placement(
    positions: Float64[np.ndarray, "P 3"], extent: float, path: Path
) -> tuple[Float64[np.ndarray, " 3"], float]:
    """The center of a box, and what its farthest point from there is divided by to be at `extent`."""
    offset = (positions.min(0) + positions.max(0)) / 2
    scale = float(np.linalg.norm(positions - offset, axis=1).max()) / extent
    if not 0 < scale < np.inf:
        raise UsageError(
            f"all points of `{path}` coincide, or are too far apart", hint="give a surface with some extent"
        )
    return offset, scale
