"""Confidence intervals: their error is the true deviation, and they have their nominal coverage."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from inrflow_core.evaluation import intervals
from inrflow_core.evaluation.metric_specs import MetricSpec, parse_metrics
from inrflow_core.metrics import _frechet
from inrflow_core.metrics._cloud_inputs import Distances
from inrflow_core.metrics._image_pairs import Pairs
from inrflow_core.metrics._inputs import Features, MetricInputs, assign_groups
from inrflow_core.numerics.gaussian_stats import GaussianStats


def gaussian(draw: np.random.Generator, count: int, width: int = 3) -> np.ndarray:
    return draw.standard_normal((count, width)).astype(np.float32)


def mean_of(evidence: MetricInputs) -> float:
    assert isinstance(evidence, Features)
    return float(evidence.samples.mean())


NOTHING = np.zeros((0, 3), np.float32)


def test_the_error_of_a_mean_is_its_deviation_and_the_interval_covers_the_truth():
    draws = 1500
    results = []
    for seed in range(draws):
        interval = intervals.jackknife_interval(
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
        interval = intervals.jackknife_interval(
            lambda inputs: _frechet.compute(inputs, "clean"),
            evidence,
            values=_frechet.jackknife_values(evidence, "clean", intervals.NUM_GROUPS),
        )
        assert interval is not None
        values.append((interval.low + interval.high) / 2)
        errors.append(interval.error)
    assert np.sqrt(np.mean(np.square(errors))) == pytest.approx(np.std(values), rel=0.15)


def test_values_passed_in_and_computed_ones_make_the_same_interval():
    draw = np.random.default_rng(0)
    evidence = Features(gaussian(draw, 100), gaussian(draw, 80))

    def compute(inputs: Features) -> float:
        return _frechet.compute(inputs, "clean")

    slow = intervals.jackknife_interval(compute, evidence)
    fast = intervals.jackknife_interval(
        compute,
        evidence,
        value=compute(evidence),
        values=_frechet.jackknife_values(evidence, "clean", intervals.NUM_GROUPS),
    )
    assert slow is not None and fast is not None
    np.testing.assert_allclose([fast.low, fast.high, fast.error], [slow.low, slow.high, slow.error], rtol=1e-9)
    assert slow.low < compute(evidence) < slow.high


@pytest.mark.parametrize("name", ["fid:random", "kid:random", "precision:random", "recall:random"])
def test_short_cuts_leave_out_whole_clusters(name: str):
    """Frames of one clip are in one group; fast values are those of the inputs without these frames."""
    draw, clusters = np.random.default_rng(0), np.repeat(np.arange(30), 3)
    evidence = Features(gaussian(draw, 90), gaussian(draw, 90), clusters, clusters)
    spec, *_ = parse_metrics([name], "image")
    metric = spec.metric
    if metric.subset_values is not None:
        halves = intervals.balanced_halves()
        fast = metric.subset_values(evidence, spec.protocol, halves)
        slow = [spec.compute(evidence.select_groups(np.flatnonzero(half).tolist(), 12)) for half in halves]
    else:
        assert metric.jackknife_values is not None
        fast = metric.jackknife_values(evidence, spec.protocol, 10)
        slow = [spec.compute(evidence.leave_out(part, 10)) for part in range(10)]
    np.testing.assert_allclose(fast, slow, rtol=1e-7)


def test_too_few_for_two_in_each_part_have_no_interval():
    draw = np.random.default_rng(0)
    assert intervals.jackknife_interval(mean_of, Features(gaussian(draw, 19), NOTHING)) is None
    assert intervals.jackknife_interval(mean_of, Features(gaussian(draw, 20), NOTHING)) is not None
    assert intervals.jackknife_interval(mean_of, Features(gaussian(draw, 90), gaussian(draw, 19))) is None


def test_the_smaller_side_counts_where_parts_are_left_out_of_both():
    rows = np.zeros((30, 3), np.float32)
    assert Features(rows, rows[:8]).num_independent() == 8
    assert Features(rows, GaussianStats(9, np.zeros(3), np.eye(3))).num_independent() == 30
    assert Distances(np.zeros((7, 5))).num_independent() == 5
    images = np.zeros((4, 2, 2, 1), np.uint8)
    assert Pairs(images, images).num_independent() == 4


def test_parts_are_equal_disjoint_and_no_class_that_comes_in_turn():
    owners = assign_groups(1003, 10)
    assert sorted(np.bincount(owners)) == [100] * 7 + [101] * 3
    rows = np.arange(1003, dtype=np.float32)[:, None]
    remaining = [set(Features(rows, rows).samples[assign_groups(1003, 10) != part][:, 0]) for part in range(10)]
    assert set.union(*remaining) == set(rows[:, 0]) and not set.intersection(*remaining)
    # Of labels 0 to 9 in turn each part has about ten each.
    table = np.histogram2d(owners, np.arange(1003) % 10, bins=10)[0]
    assert table.min() >= 2 and table.max() <= 22


def test_halves_are_disjoint_and_orthogonal():
    halves = intervals.balanced_halves()
    assert halves.shape == (22, 12)
    np.testing.assert_array_equal(halves[::2], ~halves[1::2])
    signs = np.where(halves[::2], 1, -1)
    np.testing.assert_array_equal(signs.sum(1), 0)
    np.testing.assert_array_equal(signs @ signs.T, 12 * np.eye(11))


def test_half_samples_of_a_mean_have_the_error_of_the_mean():
    errors = []
    for seed in range(400):
        inputs = Features(gaussian(np.random.default_rng(seed), 48, 1), NOTHING[:, :1])
        interval = intervals.half_sample_interval(mean_of, inputs, value=mean_of(inputs))
        assert interval is not None
        errors.append(interval.error)
    assert np.sqrt(np.mean(np.square(errors))) == pytest.approx(1 / np.sqrt(48), rel=0.05)


CLOUD_METRICS = parse_metrics(["one-nna:cd:inrflow", "cov:cd:inrflow"], "points")
IMAGE_METRICS = parse_metrics(["precision:random", "recall:random"], "image")
SETTINGS = {"equal": (96, 96, 8, 0.0, 1.0), "shifted": (150, 120, 6, 1.5, 0.8)}
"""Samples, references, dimensions, distance of the means, and the samples' deviation; the references' is 1."""


def points_of(setting: str, seed: int) -> tuple[Features, Distances]:
    """The same draw as features and as distances."""
    samples, references, width, shift, scale = SETTINGS[setting]
    draw = np.random.default_rng(seed)
    x = (scale * draw.standard_normal((samples, width)) + shift / np.sqrt(width)).astype(np.float32)
    y = gaussian(draw, references, width)
    return Features(x, y), Distances(*(cdist(a.astype(float), b.astype(float)) for a, b in ((x, y), (x, x), (y, y))))


def coverage(metric: MetricSpec, setting: str, draws: int) -> float:
    """The share of intervals that contain the mean of all values."""
    results = []
    for seed in range(draws):
        inputs = points_of(setting, seed)[metric in CLOUD_METRICS]
        value = metric.compute(inputs)
        interval = intervals.metric_interval(metric, inputs, value)
        assert interval is not None
        results.append((value, *interval))
    values, low, high = np.array(results).T
    return float(np.mean((low <= values.mean()) & (values.mean() <= high)))


def test_intervals_of_metrics_that_count_neighbors_cover_the_mean():
    """All four together, 240 intervals; the jackknife covers it in 99 % of them."""
    shares = [coverage(metric, "equal", 60) for metric in (*CLOUD_METRICS, *IMAGE_METRICS)]
    assert 0.91 <= np.mean(shares) <= 0.985


@pytest.mark.parametrize("metric", [*CLOUD_METRICS, *IMAGE_METRICS], ids=lambda metric: metric.name)
def test_the_jackknife_of_metrics_that_count_neighbors_has_a_larger_error(metric: MetricSpec):
    """1.4 to 1.9 times the deviation over draws, which half samples have: the reason for them."""
    errors = []
    for seed in range(20):
        inputs = points_of("equal", seed)[metric in CLOUD_METRICS]
        value = metric.compute(inputs)
        jackknife = intervals.jackknife_interval(metric.compute, inputs, value=value)
        halves = intervals.half_sample_interval(metric.compute, inputs, value=value)
        assert jackknife is not None and halves is not None
        errors.append((jackknife.error, halves.error))
    by_jackknife, by_halves = np.sqrt(np.mean(np.square(errors), axis=0))
    assert 1.25 < by_jackknife / by_halves < 2.2


@pytest.mark.slow
@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("metric", [*CLOUD_METRICS, *IMAGE_METRICS], ids=lambda metric: metric.name)
def test_the_coverage_of_each_metric_that_counts_neighbors_is_95_percent(metric: MetricSpec, setting: str):
    assert 0.92 <= coverage(metric, setting, 600) <= 0.97


def test_an_interval_ends_at_the_bounds_of_its_metric():
    near, far = np.zeros((40, 3), np.float32), np.ones((40, 3), np.float32)
    draw = np.random.default_rng(0)
    apart = Features(near + gaussian(draw, 40), 3 * far + gaussian(draw, 40))
    (recall,) = parse_metrics(["recall:random"], "image")
    interval = intervals.metric_interval(recall, apart, recall.compute(apart))
    assert interval is not None and interval[0] == 0.0 < interval[1] <= 1.0
