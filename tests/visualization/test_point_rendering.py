"""Rendered clouds: every pixel shows the nearest ball."""

from __future__ import annotations

import numpy as np
import pytest

from inrflow_core.visualization import point_rendering
from tests.visualization import splatting


@pytest.mark.parametrize(("count", "radius"), [(1, 9.0), (7, 13.3), (64, 6.5), (500, 1.0), (40_000, 1.2)])
def test_many_balls_in_one_call_give_the_pixels_of_one_offset_after_the_other(count: int, radius: float):
    random = np.random.default_rng(count)
    placed = random.normal(32, 24, (count, 3))  # some lie outside of the image, some reach in
    placed[::2] = np.round(placed[::2])  # equally near ones: the last of them is seen
    ours = point_rendering.splat_balls(placed, 64, radius)
    for computed, expected in zip(ours, splatting.one_offset_after_the_other(placed, 64, radius), strict=True):
        np.testing.assert_array_equal(computed, expected)


def on_a_sphere(count: int) -> np.ndarray:
    points = np.random.default_rng(0).normal(size=(count, 3))
    return points / np.linalg.norm(points, axis=1, keepdims=True)


@pytest.mark.parametrize("count", [256, 4096, 128_000])
@pytest.mark.parametrize("stretch", [(1, 1, 1), (0.1, 1, 0.1), (1, 0.02, 1)])
def test_the_balls_of_a_cloud_are_inside_its_tile(count: int, stretch: tuple[float, ...]):
    side = 440
    radius = point_rendering.ball_radius(count, side)
    points = on_a_sphere(count) * stretch
    placed = point_rendering.project_points(points, side, 35.0, 24.0, margin=radius)[:, :2]
    outside = ((placed - radius < 0) | (placed + radius > side)).any(1)
    assert outside.mean() <= 0.002
    low, high = placed.min(0) - radius, placed.max(0) + radius
    assert 0.93 * side < (high - low).max() < 1.02 * side


def test_a_large_cloud_hides_its_back():
    count, side = 128_000, 440
    radius = point_rendering.ball_radius(count, side)
    placed = point_rendering.project_points(on_a_sphere(count), side, 35.0, 24.0, margin=radius)
    depth, _, _ = point_rendering.splat_balls(placed, side, radius)
    row, column = np.meshgrid(np.arange(side) - side / 2, np.arange(side) - side / 2, indexing="ij")
    inner = np.hypot(row, column) < 0.4 * side
    assert (depth[inner] < 0).mean() < 0.001
