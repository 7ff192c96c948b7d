"""Laws of distances between clouds, and what other computations of them give."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

from inrflow_core import registry
from inrflow_core.distances import _optimal_transport, cd, emd_exact, emd_exact_squared, emd_lion, emd_pointflow
from tests.distances import shapes

EVERY = [registry.find("distances", name) for name in registry.names("distances")]
SOFT = {emd_lion: ((7, 6, 5, 4, 3, 2, 1, 0, -1, None), 2), emd_pointflow: ((7, 6, 5, 4, 3, 2, 1, 0, -1), 1)}

every_distance = pytest.mark.parametrize("distance", EVERY, ids=lambda module: module.__name__.rpartition(".")[2])


def value(distance: ModuleType, a: np.ndarray, b: np.ndarray) -> float:
    return distance.distance(distance.prepare(a), distance.prepare(b))


@pytest.fixture(scope="module")
def pair() -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(3)
    return shapes.sphere(random, 200), shapes.torus(random, 200)


@every_distance
def test_a_cloud_is_nowhere_from_itself(distance: ModuleType, pair: tuple[np.ndarray, np.ndarray]):
    a, b = pair
    # The soft matchings spend a little of each point's mass on its neighbors.
    most = {emd_lion: 2e-3, emd_pointflow: 0.1}.get(distance, 1e-15)
    assert 0 <= value(distance, a, a.copy()) <= most * value(distance, a, b)


@every_distance
def test_the_order_of_the_points_changes_nothing(distance: ModuleType, pair: tuple[np.ndarray, np.ndarray]):
    a, b = pair
    order = np.random.default_rng(0).permutation(len(a))
    assert value(distance, a[order], b[::-1]) == pytest.approx(value(distance, a, b), rel=1e-5)


@pytest.mark.parametrize(("distance", "power"), [(cd, 2), (emd_exact, 1), (emd_exact_squared, 2)])
def test_a_distance_scales_with_its_power_of_length(
    distance: ModuleType, power: int, pair: tuple[np.ndarray, np.ndarray]
):
    a, b = pair
    assert value(distance, 4 * a, 4 * b) == pytest.approx(4**power * value(distance, a, b), rel=1e-12)


@every_distance
def test_swapping_the_clouds_changes_only_what_says_so(distance: ModuleType):
    random = np.random.default_rng(1)
    a, b = shapes.plane(random, 200), shapes.box(random, 200)
    change = abs(value(distance, a, b) / value(distance, b, a) - 1)
    assert change < 1e-12 if distance.IS_SYMMETRIC else change > 1e-4


def test_the_exact_emd_keeps_the_triangle_inequality():
    a, b, c = shapes.clouds(3, 100)
    for x, y, z in ((a, b, c), (b, c, a), (c, a, b)):
        assert value(emd_exact, x, z) <= value(emd_exact, x, y) + value(emd_exact, y, z) + 1e-12


def test_a_moved_cloud_is_as_far_as_it_was_moved(pair: tuple[np.ndarray, np.ndarray]):
    a = pair[0].astype(np.float64)
    moved = a + np.array([0.3, 0.0, -0.4])
    assert value(emd_exact, a, moved) == pytest.approx(0.5, rel=1e-12)
    assert value(emd_exact_squared, a, moved) == pytest.approx(0.25, rel=1e-12)


@pytest.mark.parametrize(("distance", "metric"), [(emd_exact, "euclidean"), (emd_exact_squared, "sqeuclidean")])
def test_the_exact_emd_is_scipys_assignment(distance: ModuleType, metric: Any):
    for number, (a, b) in enumerate(zip(shapes.clouds(8, 150), shapes.clouds(8, 150, seed=5)[::-1], strict=True)):
        cost = cdist(a.astype(np.float64), b.astype(np.float64), metric)
        rows, columns = linear_sum_assignment(cost)
        assert value(distance, a, b) == pytest.approx(cost[rows, columns].mean(), rel=1e-9), number


def test_an_assignment_that_stopped_early_is_done_again(monkeypatch: pytest.MonkeyPatch):
    cost = cdist(*shapes.clouds(2, 150).astype(np.float64))
    expected = _optimal_transport.optimal_assignment(cost)
    monkeypatch.setattr(_optimal_transport, "MAX_PIVOTS", 10)
    with pytest.warns(UserWarning, match="numItermax"):
        assert _optimal_transport.optimal_assignment(cost) == pytest.approx(expected, rel=1e-12)


def test_the_mean_squared_distance_lies_above_the_square_of_the_mean(pair: tuple[np.ndarray, np.ndarray]):
    assert value(emd_exact_squared, *pair) >= value(emd_exact, *pair) ** 2


def test_the_soft_matching_costs_no_less_than_the_best(pair: tuple[np.ndarray, np.ndarray]):
    assert value(emd_lion, *pair) > 0.999 * value(emd_exact_squared, *pair)


def by_loops(a: np.ndarray, b: np.ndarray, exponents: tuple[int | None, ...], power: int) -> float:
    """The kernels' rule, one number at a time, in float64."""
    points = range(len(a))
    square = [
        [sum((float(p) - float(q)) ** 2 for p, q in zip(a[k], b[n], strict=True)) for n in points] for k in points
    ]
    left, missing = [1.0] * len(a), [1.0] * len(b)
    total = 0.0
    for exponent in exponents:
        level = 0.0 if exponent is None else -(4.0**exponent)
        weight = [[math.exp(level * square[k][n]) for n in points] for k in points]
        share = [left[k] / (1e-9 + sum(weight[k][n] * missing[n] for n in points)) for k in points]
        taken = []
        for n in points:
            offered = missing[n] * sum(weight[k][n] * share[k] for k in points)
            taken.append(min(missing[n] / (offered + 1e-9), 1.0) * missing[n])
            missing[n] = max(0.0, missing[n] - offered)
        for k in points:
            moved = [weight[k][n] * share[k] * taken[n] for n in points]
            total += sum(mass * square[k][n] ** (power / 2) for n, mass in enumerate(moved))
            left[k] = max(0.0, left[k] - sum(moved))
    return total / len(a)


@pytest.mark.parametrize("distance", SOFT, ids=["lion", "pointflow"])
def test_the_soft_matching_is_the_plain_loops(distance: ModuleType):
    exponents, power = SOFT[distance]
    for size in (0.5, 1.0, 3.0):
        a, b = size * shapes.clouds(2, 60)
        assert value(distance, a, b) == pytest.approx(by_loops(a, b, exponents, power), rel=1e-5), size


@pytest.mark.parametrize("distance", [d for d in EVERY if hasattr(d, "batched_distance")])
def test_a_batch_gives_what_its_pairs_give(distance: ModuleType):
    a, b = shapes.clouds(4, 128), shapes.clouds(4, 128, seed=9)
    distances = distance.batched_distance(torch.from_numpy(a), torch.from_numpy(b)).tolist()
    assert distances == pytest.approx([value(distance, *pair) for pair in zip(a, b, strict=True)], rel=1e-5)


def test_the_reference_sets_have_the_distances_that_were_computed_elsewhere(real_data: Callable[[str], Path]):
    with np.load(real_data("metrics/pointcloud_cd_emd/sets.npz")) as sets:
        clouds, expected = np.concatenate([sets["sample"], sets["ref"]]), {"cd": sets["cd"], "emd": sets["emd"]}
    for module, name, step in ((cd, "cd", 1), (emd_exact, "emd", 5)):
        prepared = [module.prepare(cloud) for cloud in clouds]
        for i in range(0, 40, step):
            for j in range(i + 1, 40, step):
                assert module.distance(prepared[i], prepared[j]) == pytest.approx(expected[name][i, j], rel=1e-6)
