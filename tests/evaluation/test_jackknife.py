"""Confidence intervals: the jackknife's error is the true deviation, and the interval has its nominal coverage."""

from __future__ import annotations

import numpy as np
import pytest

from inrflow_core.evaluation import jackknife
from inrflow_core.metrics import _frechet
from inrflow_core.metrics._cloud_inputs import Distances
from inrflow_core.metrics._image_pairs import Pairs
from inrflow_core.metrics._inputs import Features, MetricInputs, jackknife_groups
from inrflow_core.numerics.gaussian_stats import GaussianStats


def gaussian(draw: np.random.Generator, count: int, width: int = 3) -> np.ndarray:
    return draw.standard_normal((count, width)).astype(np.float32)


def mean_of(evidence: MetricInputs) -> float:
    assert isinstance(evidence, Features)
    return float(evidence.samples.mean())


def frechet_of(evidence: MetricInputs) -> float:
    assert isinstance(evidence, Features)
    return _frechet.compute(evidence, "clean")


NOTHING = np.zeros((0, 3), np.float32)


def test_the_error_of_a_mean_is_its_deviation_and_the_interval_covers_the_truth():
    draws = 1500
    results = []
    for seed in range(draws):
        interval = jackknife.jackknife_interval(
            mean_of, Features(gaussian(np.random.default_rng(seed), 50, 1), NOTHING[:, :1])
        )
        assert interval is not None
        results.append((interval.error, interval.low <= 0 <= interval.high))
    errors, covered = np.array(results).T
    assert np.sqrt(np.mean(errors**2)) == pytest.approx(1 / np.sqrt(50), rel=0.05)
    assert covered.mean() == pytest.approx(0.95, abs=0.02)


def test_the_error_of_a_frechet_distance_is_its_deviation():
    values, errors = [], []
    for seed in range(300):
        draw = np.random.default_rng(seed)
        evidence = Features(gaussian(draw, 200), 1.5 * gaussian(draw, 300) + np.float32(0.5))
        interval = jackknife.jackknife_interval(
            frechet_of,
            evidence,
            values=_frechet.jackknife_values(evidence, "clean", jackknife.NUM_GROUPS),
        )
        assert interval is not None
        values.append((interval.low + interval.high) / 2)
        errors.append(interval.error)
    assert np.sqrt(np.mean(np.square(errors))) == pytest.approx(np.std(values), rel=0.15)


def test_values_passed_in_and_computed_ones_make_the_same_interval():
    draw = np.random.default_rng(0)
    evidence = Features(gaussian(draw, 100), gaussian(draw, 80))
    slow = jackknife.jackknife_interval(frechet_of, evidence)
    fast = jackknife.jackknife_interval(
        frechet_of,
        evidence,
        value=frechet_of(evidence),
        values=_frechet.jackknife_values(evidence, "clean", jackknife.NUM_GROUPS),
    )
    assert slow is not None and fast is not None
    np.testing.assert_allclose([fast.low, fast.high, fast.error], [slow.low, slow.high, slow.error], rtol=1e-9)
    assert slow.low < frechet_of(evidence) < slow.high


def test_too_few_for_two_in_each_part_have_no_interval():
    draw = np.random.default_rng(0)
    assert jackknife.jackknife_interval(mean_of, Features(gaussian(draw, 19), NOTHING)) is None
    assert jackknife.jackknife_interval(mean_of, Features(gaussian(draw, 20), NOTHING)) is not None
    assert jackknife.jackknife_interval(mean_of, Features(gaussian(draw, 90), gaussian(draw, 19))) is None


def test_the_smaller_side_counts_where_parts_are_left_out_of_both():
    rows = np.zeros((30, 3), np.float32)
    assert Features(rows, rows[:8]).num_independent() == 8
    assert Features(rows, GaussianStats(9, np.zeros(3), np.eye(3))).num_independent() == 30
    assert Distances(np.zeros((7, 5))).num_independent() == 5
    images = np.zeros((4, 2, 2, 1), np.uint8)
    assert Pairs(images, images).num_independent() == 4


def test_parts_are_equal_disjoint_and_no_class_that_comes_in_turn():
    owners = jackknife_groups(1003, 10)
    assert sorted(np.bincount(owners)) == [100] * 7 + [101] * 3
    rows = np.arange(1003, dtype=np.float32)[:, None]
    remaining = [set(Features(rows, rows).leave_out(part, 10).samples[:, 0]) for part in range(10)]
    assert set.union(*remaining) == set(rows[:, 0]) and not set.intersection(*remaining)
    # Of labels 0 to 9 in turn each part has about ten each.
    table = np.histogram2d(owners, np.arange(1003) % 10, bins=10)[0]
    assert table.min() >= 2 and table.max() <= 22
