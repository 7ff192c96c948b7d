"""Normals of a mesh's vertices are in every format of meshes, and those without are written as before."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import trimesh
from scipy.spatial import cKDTree

from inrflow_core.formats import glb, obj, ply
from inrflow_core.geometry.mesh import Mesh
from inrflow_core.geometry.open3d_import import load_open3d

BALL = trimesh.creation.icosphere(1, 0.5)
NORMALS = np.roll(BALL.vertices / np.linalg.norm(BALL.vertices, axis=1, keepdims=True), 1, axis=0)
"""Not those of the faces, so that a reader that computes its own is found out."""


@pytest.mark.parametrize("module", [glb, obj, ply], ids=lambda module: module.__name__.rpartition(".")[2])
def test_normals_are_read_back(module: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / f"a{module.SUFFIXES[0]}"
    module.write(path, Mesh(np.asarray(BALL.vertices), np.asarray(BALL.faces), normals=NORMALS), origin={"seed": "0"})
    read = load_open3d().io.read_triangle_mesh(str(path))
    distances, numbers = cKDTree(BALL.vertices).query(np.asarray(read.vertices))  # some readers reorder them
    assert distances.max() < 1e-5 and len(set(numbers)) == len(BALL.vertices)
    np.testing.assert_allclose(np.asarray(read.vertex_normals), NORMALS[numbers], atol=1e-5)
