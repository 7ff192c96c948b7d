"""Files of shapes: a cloud on a surface as it is, and a mesh as points on its surface with, if it is watertight, occupancies."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from inrflow_core.domains._contract import InputExample
from inrflow_core.errors import IntegrityError, UnreadableItemError, UsageError
from inrflow_core.geometry import cloud_files, mesh_interior
from inrflow_core.geometry.mesh import sample_surface_with_normals
from inrflow_core.mesh_files import reading
from inrflow_core.storage import plain_file

SUFFIXES = (*reading.SUFFIXES, *(suffix for suffix in cloud_files.SUFFIXES if suffix not in reading.SUFFIXES))
"""Of files that are read, meshes and clouds; a .ply file is one or the other."""
QUERIES, OCCUPANCIES, NORMALS = "queries", "occupancies", "normals"
"""Conditions of every shape in shards: positions, float32 (B Q 3), the packed bits of whether each is inside, and the normals
of the surface points, float32 (B P 3)."""
NUM_POINTS, NUM_QUERIES = 10_000, 100_000
"""Points on the surface of a mesh, and positions whose occupancies the error of its reconstruction is measured on."""


def read(path: Path, half: float) -> InputExample:
    """A cloud, or points on the surface of a mesh, with its box centered at the origin and its longest side 1, as in training.

    Points of a mesh are keyed by the file's content; of a watertight one the condition has queries, uniform in the cube of
    side 2 `half`, and their occupancies.

    Raises:
        IntegrityError: the file cannot be read.
        UsageError: all points coincide.
    """
    try:
        is_mesh = path.suffix.lower() in reading.SUFFIXES and (path.suffix.lower() != ".ply" or reading.has_faces(path))
    except UnreadableItemError:
        is_mesh = False  # the reader of clouds says what is broken
    return _read_mesh(path, half) if is_mesh else _read_cloud(path)


def _read_cloud(path: Path) -> InputExample:
    points, center = cloud_files.read_input(path)
    points = points[:, :3]
    low, high = points.min(0), points.max(0)
    offset, scale = (low + high) / 2, float((high - low).max())
    if scale == 0:
        raise UsageError(f"all points of `{path}` coincide", hint="give a cloud with some extent")
    values = ((points - offset) / scale).astype(np.float32)
    return InputExample(values, offset + center if center.any() else offset, scale)


def _read_mesh(path: Path, half: float) -> InputExample:
    try:
        body = reading.load(path.parent, path.name, with_colors=False).mesh
        mesh, offset, scale = mesh_interior.in_unit_cube(body)
    except UnreadableItemError as error:
        raise IntegrityError(f"`{path}` cannot be read: {error.reason}", hint="repair it, or give another") from error
    seed = int(plain_file.file_digest(path)[:15], 16)
    points, normals = sample_surface_with_normals(mesh, NUM_POINTS, seed=seed)
    condition = {NORMALS: normals.astype(np.float32)}
    if mesh_interior.count_open_edges(mesh)[0] == 0:
        queries = np.random.default_rng(seed).uniform(-half, half, (NUM_QUERIES, 3)).astype(np.float32)
        inside = mesh_interior.is_inside_by_parity(mesh, queries)
        condition |= {QUERIES: queries, OCCUPANCIES: np.packbits(inside)}
    return InputExample(points.astype(np.float32), offset, scale, condition)
