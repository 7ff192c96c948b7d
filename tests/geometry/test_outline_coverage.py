"""Coverage of outlines: known areas, means over blocks, holes, and curves within their tolerance."""

from __future__ import annotations

import numpy as np
import pytest

from inrflow_core.geometry.outline_coverage import coverage, flatten


def circle(radius: float, corners: int = 200) -> np.ndarray:
    """A polygon that is clockwise on the screen, about a center between pixels."""
    angle = np.linspace(0, 2 * np.pi, corners, endpoint=False)
    return np.array([0.47, 0.53]) + radius * np.stack([np.cos(angle), np.sin(angle)], 1)


def area(polygon: np.ndarray) -> float:
    x, y = polygon.T
    return float((x * np.roll(y, -1) - y * np.roll(x, -1)).sum() / 2)


def test_pixels_that_a_rectangle_cuts_have_their_share() -> None:
    rectangle = np.array([[0.15, 0.3], [0.7, 0.3], [0.7, 0.525], [0.15, 0.525]])
    columns = [0, 0.5, 1, 1, 1, 1, 1, 0, 0, 0]
    rows = [0, 0, 0, 1, 1, 0.25, 0, 0, 0, 0]
    np.testing.assert_allclose(coverage([rectangle], 10), np.outer(rows, columns), atol=1e-12)


@pytest.mark.parametrize("resolution", [1, 5, 24, 192])
def test_the_sum_over_all_pixels_is_the_area_of_the_polygon_less_its_hole(resolution: int) -> None:
    outer, hole = circle(0.41), circle(0.17)[::-1]
    pixels = coverage([outer, hole], resolution)
    assert pixels.sum() / resolution**2 == pytest.approx(area(outer) + area(hole), rel=1e-12)
    assert pixels.min() >= -1e-12 and pixels.max() <= 1 + 1e-12


@pytest.mark.parametrize("factor", [2, 3, 8])
def test_the_mean_over_a_block_of_pixels_is_the_coverage_of_the_larger_pixel(factor: int) -> None:
    star = np.array([0.5, 0.5]) + np.random.default_rng(0).uniform(0.1, 0.5, 40)[:, None] * (
        circle(1, 40) - [0.47, 0.53]
    )
    fine, coarse = coverage([star], 24 * factor), coverage([star], 24)
    np.testing.assert_allclose(fine.reshape(24, factor, 24, factor).mean((1, 3)), coarse, atol=1e-12)


def test_an_outline_on_the_sides_of_the_square_covers_it_all() -> None:
    square = np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
    np.testing.assert_allclose(coverage([square], 7), 1, atol=1e-12)


@pytest.mark.parametrize("tolerance", [1e-2, 1e-4, 1e-6])
def test_chords_are_within_the_tolerance_of_the_curve_and_no_shorter_than_needed(tolerance: float) -> None:
    start, control, end = np.array([[0.0, 0.0]]), np.array([[0.5, 1.0]]), np.array([[1.0, 0.0]])
    polygon = np.append(flatten(start, control, end, tolerance), end, axis=0)
    x = np.linspace(0, 1, 20001)
    distance = np.abs(np.interp(x, *polygon.T) - 2 * x * (1 - x)).max()  # the parabola y = 2 x (1 - x)
    assert tolerance / 4 < distance < 1.01 * tolerance


def test_a_straight_piece_stays_one_edge() -> None:
    corners = np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0]])
    ends = np.roll(corners, -1, axis=0)
    np.testing.assert_array_equal(flatten(corners, (corners + ends) / 2, ends, 1e-6), corners)
