"""Scores of reconstructed shapes against formulas: concentric spheres, and surfaces against themselves."""

from __future__ import annotations

import numpy as np
import pytest

from inrflow_core.errors import UsageError
from inrflow_core.geometry.shape_scores import THRESHOLD, iou, surface_scores

DIRECTIONS = np.random.default_rng(0).standard_normal((40_000, 3))
DIRECTIONS /= np.linalg.norm(DIRECTIONS, axis=1, keepdims=True)


@pytest.mark.parametrize(("small", "large"), [(0.3, 0.4), (0.2, 0.5)])
def test_the_iou_of_concentric_balls_is_the_cube_of_the_ratio_of_their_radii(small: float, large: float) -> None:
    distances = np.linalg.norm(np.random.default_rng(1).uniform(-0.55, 0.55, (200_000, 3)), axis=1)
    assert iou(distances < small, distances < large) == pytest.approx((small / large) ** 3, abs=0.01)
    assert iou(distances < large, distances < small) == iou(distances < small, distances < large)


def test_the_iou_of_equal_and_of_empty_shapes_is_1() -> None:
    inside = DIRECTIONS[:, 0] > 0
    assert iou(inside, inside) == 1 and iou(inside, ~inside) == 0
    assert iou(np.zeros(9, bool), np.zeros(9, bool)) == 1 and iou(np.zeros(9, bool), np.ones(9, bool)) == 0


def test_the_chamfer_distance_of_concentric_spheres_is_that_of_their_radii_in_tenths() -> None:
    small, large = DIRECTIONS[:20_000], DIRECTIONS[20_000:]
    scores = surface_scores(0.4 * small, small, 0.5 * large, large)
    assert scores.chamfer_l1 == pytest.approx(0.1 / 0.1, rel=0.01)
    assert scores.f_score == 0
    assert scores.normal_consistency == pytest.approx(1, abs=1e-3)


def test_a_surface_against_itself_is_perfect_whichever_way_its_normals_point() -> None:
    points = 0.4 * DIRECTIONS
    assert surface_scores(points, DIRECTIONS, points, -DIRECTIONS) == pytest.approx((0, 1, 1))


def test_the_f_score_is_the_harmonic_mean_of_precision_and_recall() -> None:
    line = np.linspace(0, 1, 101)[:, None] * [1.0, 0, 0]
    normals = np.tile([0.0, 0, 1], (101, 1))
    # The first half of the line, and as many points far away: precision 1/2, recall the points within 1 % of the half.
    half = np.concatenate([line[:51], line[:51] + [0, 5, 0]])
    scores = surface_scores(half, np.tile([0.0, 1, 0], (102, 1)), line, normals)
    recall = 52 / 101
    assert pytest.approx(0.01) == THRESHOLD
    assert scores.f_score == pytest.approx(2 * 0.5 * recall / (0.5 + recall), abs=0.006)
    assert scores.normal_consistency == 0


def test_nothing_to_compare_is_an_error() -> None:
    with pytest.raises(UsageError, match="a surface without points"):
        surface_scores(np.empty((0, 3)), np.empty((0, 3)), DIRECTIONS, DIRECTIONS)
