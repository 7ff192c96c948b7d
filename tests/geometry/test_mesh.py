"""Normals and meshes of clouds whose surfaces are known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial import cKDTree

from inrflow_core.errors import UsageError
from inrflow_core.geometry.mesh import normals, reconstruct_surface


def ball(count: int, seed: int = 0) -> np.ndarray:
    points = np.random.default_rng(seed).normal(size=(count, 3))
    return points / np.linalg.norm(points, axis=1, keepdims=True)


@pytest.mark.parametrize("count", [500, 20_000])
def test_normals_of_a_ball_point_outwards(count: int) -> None:
    points = ball(count)
    alignment = np.sum(normals(points + 3.0) * points, axis=1)
    assert alignment.min() > 0.9
    assert alignment.mean() > 0.99


def test_normals_of_thin_legs_below_a_plate_point_outwards() -> None:
    from inrflow_core.geometry.open3d_import import load_open3d

    kind = load_open3d().geometry.TriangleMesh
    table = kind.create_box(2.0, 0.15, 2.0).translate((-1, 0, -1))
    for x in (-0.8, 0.8):
        for z in (-0.8, 0.8):
            table += (
                kind.create_cylinder(0.1, 1.5)
                .rotate(kind.get_rotation_matrix_from_xyz((np.pi / 2, 0, 0)), (0, 0, 0))
                .translate((x, -0.75, z))
            )
    load_open3d().utility.random.seed(0)
    cloud = table.sample_points_uniformly(4000, use_triangle_normal=True)
    points, true = np.asarray(cloud.points), np.asarray(cloud.normals)
    outside = points[:, 1] < -0.05
    agree = np.sum(normals(points) * true, axis=1) > 0
    assert agree[outside].mean() > 0.95
    assert agree.mean() > 0.97


def test_a_mesh_through_a_ball_has_its_area_and_volume() -> None:
    import trimesh

    mesh = reconstruct_surface(ball(4000).astype(np.float32))
    body = trimesh.Trimesh(mesh.vertices, mesh.faces)
    assert body.is_watertight
    assert body.area == pytest.approx(4 * np.pi, rel=0.02)
    assert body.volume == pytest.approx(4 * np.pi / 3, rel=0.02)


def test_ball_pivoting_goes_through_the_points_themselves() -> None:
    points = ball(2000).astype(np.float32)
    mesh = reconstruct_surface(points, method="pivoting")
    np.testing.assert_allclose(np.linalg.norm(mesh.vertices, axis=1), 1.0, atol=1e-6)
    assert len(mesh.faces) > 3000


def test_the_mesh_of_an_open_surface_stays_near_its_points() -> None:
    rng = np.random.default_rng(0)
    x, z = rng.uniform(-1, 1, (2, 3000))
    sheet = np.stack([x, 0.3 * x**2, z], axis=1)
    mesh = reconstruct_surface(sheet.astype(np.float32))
    assert cKDTree(sheet).query(mesh.vertices)[0].max() < 0.15
    assert cKDTree(mesh.vertices).query(sheet)[0].max() < 0.1


def test_vertices_take_the_color_of_the_nearest_point() -> None:
    points = ball(3000)
    colored = np.concatenate([points, np.where(points[:, :1] > 0, 1.0, -1.0).repeat(3, 1)], axis=1)
    mesh = reconstruct_surface(colored.astype(np.float32))
    assert mesh.colors is not None
    far = np.abs(mesh.vertices[:, 0]) > 0.2
    np.testing.assert_array_equal(mesh.colors[far, 0] == 255, mesh.vertices[far, 0] > 0)


def test_too_few_points_are_refused_with_a_remedy() -> None:
    with pytest.raises(UsageError, match="3 points are too few for a surface"):
        reconstruct_surface(np.eye(3, dtype=np.float32))
    with pytest.raises(UsageError, match="3 points has no normals"):
        normals(np.eye(3))
    with pytest.raises(UsageError, match="most points of the cloud coincide"):
        reconstruct_surface(np.zeros((100, 3), dtype=np.float32))


def test_a_cloud_in_an_exact_plane_has_the_normals_of_the_plane() -> None:
    points = np.random.default_rng(0).uniform(-1, 1, (400, 3)) * [1, 0, 1]
    np.testing.assert_allclose(np.abs(normals(points)[:, 1]), 1, atol=1e-6)
