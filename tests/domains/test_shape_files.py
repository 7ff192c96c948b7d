"""Files of shapes: clouds as they are, meshes as points on their surface with occupancies where they are watertight."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import trimesh

from inrflow_core.domains._shape_files import NORMALS, OCCUPANCIES, QUERIES
from inrflow_core.domains.shape import Config, Domain
from inrflow_core.errors import IntegrityError

DOMAIN = Domain(Config(num_points=50, num_queries=30, grid=32))
BALL: Any = trimesh.creation.icosphere(4, 2.0)
BALL.apply_translation([10, 20, 30])


def ball(radius: float) -> Any:
    """The logit of a ball at the origin, of coordinates in [-1, 1]."""
    return lambda coordinates: 50 * (radius - (coordinates * 0.55).norm(dim=-1, keepdim=True))


@pytest.mark.parametrize("suffix", ["obj", "glb", "off", "stl", "ply"])
def test_meshes_become_points_with_normals_and_occupancies(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"a.{suffix}"
    BALL.export(path)
    assert DOMAIN.accepts(path)
    example = DOMAIN.read_input(path, {})
    np.testing.assert_allclose(np.linalg.norm(example.values, axis=1), 0.5, atol=2e-3)
    np.testing.assert_allclose(example.offset, [10, 20, 30], atol=1e-3)
    assert example.scale == pytest.approx(4, rel=1e-3)
    assert (np.vecdot(example.condition[NORMALS], example.values) > 0.49).all()
    queries = example.condition[QUERIES]
    inside = np.unpackbits(example.condition[OCCUPANCIES], count=len(queries)).astype(bool)
    away = np.abs(np.linalg.norm(queries, axis=1) - 0.5) > 2e-3
    np.testing.assert_array_equal(inside[away], (np.linalg.norm(queries, axis=1) < 0.5)[away])
    again = DOMAIN.read_input(path, {})
    np.testing.assert_array_equal(again.values, example.values)


def test_a_mesh_with_a_hole_has_no_occupancies_and_a_cloud_no_normals(tmp_path: Path) -> None:
    holed = trimesh.Trimesh(BALL.vertices, BALL.faces[:-9])
    holed.export(tmp_path / "a.obj")
    assert set(DOMAIN.read_input(tmp_path / "a.obj", {}).condition) == {NORMALS}
    trimesh.PointCloud(BALL.vertices).export(tmp_path / "b.ply")
    cloud = DOMAIN.read_input(tmp_path / "b.ply", {})
    assert cloud.condition == {}
    np.save(tmp_path / "b.npy", np.asarray(BALL.vertices, np.float64))
    np.testing.assert_allclose(DOMAIN.read_input(tmp_path / "b.npy", {}).values, cloud.values, atol=1e-6)


@pytest.mark.parametrize(("name", "content"), [("a.obj", b"v 0 0 0\n"), ("a.stl", b"\0" * 90), ("a.ply", b"ply\n")])
def test_files_without_a_surface_are_named(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(IntegrityError, match=name):
        DOMAIN.read_input(tmp_path / name, {})


def test_the_error_of_a_reconstruction_is_that_of_its_formula(tmp_path: Path) -> None:
    BALL.export(tmp_path / "a.obj")
    example = DOMAIN.read_input(tmp_path / "a.obj", {})
    right = DOMAIN.reconstruction_error(ball(0.5), example, chunk=4096)
    assert right["iou"] > 0.98 and right["chamfer_l1"] < 0.1
    small = DOMAIN.reconstruction_error(ball(0.4), example, chunk=4096)
    assert small["iou"] == pytest.approx(0.8**3, abs=0.01)
    assert small["chamfer_l1"] == pytest.approx(1, rel=0.05)
    assert DOMAIN.reconstruction_error(lambda x: torch.full((len(x), 1), -9.0), example, chunk=4096) == {"iou": 0}
