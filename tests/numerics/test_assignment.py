"""Assignments: permutations that reach the least sum of squared distances, or come near it."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from inrflow_core.distances import _optimal_transport
from inrflow_core.numerics import assignment


def sets(count: int, channels: int = 3, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Noise, and the surface of a flat box."""
    generator = np.random.default_rng(seed)
    noise, box = generator.standard_normal((2, count, channels))
    return noise, 2 * box / np.abs(box).max(1, keepdims=True) * np.linspace(0.3, 1, channels)


def mean_square(first: np.ndarray, second: np.ndarray) -> float:
    return float(np.square(first - second).sum(1).mean())


def least(first: np.ndarray, second: np.ndarray) -> float:
    return _optimal_transport.optimal_assignment(np.square(first[:, None] - second[None]).sum(2))


@pytest.mark.parametrize("assign", [assignment.exact, assignment.blocked], ids=["exact", "blocked"])
def test_six_points_get_the_best_of_all_720_permutations(assign):
    for seed in range(5):
        noise, data = sets(6, seed=seed)
        best = min(itertools.permutations(range(6)), key=lambda order: mean_square(noise, data[list(order)]))
        assert assign(noise, data).tolist() == list(best)


@pytest.mark.parametrize("count", [1, 2, 31, 32, 33, 65, 100, 500, 1000])
def test_every_point_is_assigned_once(count):
    assert np.sort(assignment.blocked(*sets(count))).tolist() == list(range(count))
    assert count > 500 or np.sort(assignment.exact(*sets(count))).tolist() == list(range(count))


@pytest.mark.parametrize(
    ("count", "channels", "most"), [(256, 3, 1.04), (256, 6, 1.06), (1000, 3, 1.04), (2048, 3, 1.04)]
)
def test_blocks_end_within_4_percent_of_the_least_mean_square_or_6_with_colors(count, channels, most):
    """Means over solids: 1.0 % at 256 points and 1.7 % at 2,048."""
    noise, data = sets(count, channels)
    optimum = least(noise, data)
    ratio = mean_square(noise, data[assignment.blocked(noise, data)]) / optimum
    assert 1 - 1e-9 < ratio < most
    assert mean_square(noise, data) > 2 * optimum


def test_the_exact_assignment_is_the_one_of_the_network_simplex():
    noise, data = sets(200)
    assert mean_square(noise, data[assignment.exact(noise, data)]) == pytest.approx(least(noise, data), rel=1e-12)


@pytest.mark.parametrize("assign", [assignment.exact, assignment.blocked], ids=["exact", "blocked"])
def test_pairs_depend_neither_on_the_order_nor_on_the_scale_of_the_data(assign):
    noise, data = sets(150)
    order = np.random.default_rng(1).permutation(150)
    expected = data[assign(noise, data)]
    np.testing.assert_array_equal(data[order][assign(noise, data[order])], expected)
    if assign is assignment.exact:
        np.testing.assert_array_equal(data[assign(noise, 0.25 * data)], expected)
