"""Cameras: where they stand, what they see, other conventions, and the rays through patches."""

from __future__ import annotations

import math

import numpy as np
import pytest

from inrflow_core.geometry import cameras
from tests import camera_rings

CAMERAS = {
    "front": cameras.orbit(),
    "oblique": cameras.orbit(130, 35, 2.0, field_of_view=55),
    "above": cameras.orbit(0, 90),
    "off the middle": cameras.look_at((1, 2, -3), target=(0.3, -0.2, 0.1)),
}


def points(count: int = 50, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 1, (count, 3))


def test_the_papers_cameras_stand_on_both_sides_of_z_and_x_and_look_at_the_origin() -> None:
    four = camera_rings.orbit_ring(4)
    np.testing.assert_allclose(four[:, :3, 3], [[0, 0, 3.5], [3.5, 0, 0], [0, 0, -3.5], [-3.5, 0, 0]], atol=1e-6)
    for camera in four:
        seen, depth = cameras.project(camera, np.zeros((1, 3)))
        np.testing.assert_allclose([*seen[0], *depth], [0.5, 0.5, 3.5], atol=1e-6)
        edge = math.tan(math.radians(20)) * 3.5
        above, _ = cameras.project(camera, np.array([[0, edge, 0]]))
        np.testing.assert_allclose(above, [[0.5, 0]], atol=1e-6)


def test_from_the_front_x_goes_to_the_right() -> None:
    seen, _ = cameras.project(cameras.orbit(), np.array([[0.5, 0, 0], [0, -0.5, 0]]))
    assert seen[0, 0] > 0.5 and seen[0, 1] == pytest.approx(0.5)
    assert seen[1, 1] > 0.5 and seen[1, 0] == pytest.approx(0.5)


@pytest.mark.parametrize("camera", CAMERAS.values(), ids=CAMERAS)
def test_axes_are_a_rotation(camera: np.ndarray) -> None:
    rotation = camera[:3, :3].astype(np.float64)
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-6)
    assert np.linalg.det(rotation) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("camera", CAMERAS.values(), ids=CAMERAS)
def test_the_ray_of_a_patch_passes_through_the_point_that_is_seen_in_its_middle(camera: np.ndarray) -> None:
    rows, columns = 4, 6
    index, directions = cameras.rays(camera, rows, columns)
    on_rays = index + directions * np.linspace(1, 5, len(directions))[:, None]
    seen, depth = cameras.project(camera, on_rays)
    y, x = np.mgrid[:rows, :columns].reshape(2, -1)
    np.testing.assert_allclose(seen, np.stack([(x + 0.5) / columns, (y + 0.5) / rows], 1), atol=1e-9)
    assert (depth > 0).all()


@pytest.mark.parametrize("camera", CAMERAS.values(), ids=CAMERAS)
def test_pluecker_numbers_are_those_of_the_line_through_the_point(camera: np.ndarray) -> None:
    """A point p lies on the line (d, m) exactly where p x d = m; and d is a unit vector at right angles to m."""
    side = 1000
    numbers = cameras.pluecker(camera, side, side)
    direction, moment = numbers[:, :3], numbers[:, 3:]
    np.testing.assert_allclose((direction * moment).sum(1), 0, atol=1e-9)
    np.testing.assert_allclose(np.linalg.norm(direction, axis=1), 1, atol=1e-9)
    seen, depth = cameras.project(camera, points() / 2)
    patch = np.floor(seen * side).astype(int)
    assert ((patch >= 0) & (patch < side)).all()
    mine = patch[:, 1] * side + patch[:, 0]
    off = np.linalg.norm(np.cross(points() / 2, direction[mine]) - moment[mine], axis=1)
    half_a_patch = math.sqrt(0.5) / side / camera[3, 0] * depth
    assert (off <= half_a_patch).all()
    others = np.roll(mine, 1)
    assert np.median(np.linalg.norm(np.cross(points() / 2, direction[others]) - moment[others], axis=1)) > 0.1


@pytest.mark.parametrize("camera", CAMERAS.values(), ids=CAMERAS)
def test_moving_the_world_and_the_camera_alike_changes_no_image(camera: np.ndarray) -> None:
    turn = np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]])
    offset, scale = np.array([3.0, -2.0, 0.5]), 7.0
    again = cameras.transformed(camera, offset, scale, turn)
    seen, depth = cameras.project(camera, points())
    moved, moved_depth = cameras.project(again, (points() @ turn.T - offset) / scale)
    np.testing.assert_allclose(moved, seen, atol=1e-5)
    np.testing.assert_allclose(moved_depth * scale, depth, atol=1e-5)


@pytest.mark.parametrize("camera", CAMERAS.values(), ids=CAMERAS)
def test_opengls_matrices_both_ways_are_the_same_camera(camera: np.ndarray) -> None:
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = camera[:3, :3] @ np.diag([1, -1, -1]), camera[:3, 3]
    np.testing.assert_allclose(cameras.from_opengl(pose, float(camera[3, 0])), camera, atol=1e-6)
    np.testing.assert_allclose(
        cameras.from_world_to_opengl(np.linalg.inv(pose)[:3], float(camera[3, 0])), camera, atol=1e-6
    )


def test_a_camera_of_opengl_looks_along_minus_z() -> None:
    seen, depth = cameras.project(cameras.from_opengl(np.eye(4), 1.0), np.array([[0.5, 0.25, -1.0]]))
    np.testing.assert_allclose(seen, [[1.0, 0.25]])
    np.testing.assert_allclose(depth, [1])


@pytest.mark.parametrize("elevation", [90, -90])
@pytest.mark.parametrize("azimuth", [0, 90, 120, 180])
def test_a_camera_at_a_pole_is_the_limit_of_those_of_its_azimuth(azimuth: float, elevation: float) -> None:
    near = cameras.orbit(azimuth, elevation * (1 - 1e-5))
    np.testing.assert_allclose(cameras.orbit(azimuth, elevation), near, atol=1e-4)
