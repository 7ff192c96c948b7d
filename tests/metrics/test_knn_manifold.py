"""Precision and recall: nested supports, a plain loop, tiles, parts left out, ties, refusals."""

from __future__ import annotations

import numpy as np
import pytest

from inrflow_core.errors import UsageError
from inrflow_core.metrics import _knn_manifold, precision, recall
from inrflow_core.metrics._inputs import Features, FeatureSpec
from inrflow_core.numerics import gaussian_stats

WHOLE = np.ones((1, 1), dtype=bool)


def disc(count: int, radius: float, *, seed: int = 0) -> np.ndarray:
    """Points of a flat disc."""
    draw = np.random.default_rng(seed)
    angle, reach = draw.uniform(0, 2 * np.pi, count), radius * np.sqrt(draw.uniform(0, 1, count))
    return np.stack([reach * np.cos(angle), reach * np.sin(angle)], axis=1).astype(np.float32)


def plainly(queries: np.ndarray, support: np.ndarray, k: int = 3) -> float:
    """The definition, pair by pair in float64."""
    queries, support = queries.astype(np.float64), support.astype(np.float64)
    radii = [
        sorted(np.linalg.norm(support[i] - support[j]) for j in range(len(support)) if j != i)[k - 1]
        for i in range(len(support))
    ]
    inside = [any(np.linalg.norm(q - s) <= r for s, r in zip(support, radii, strict=True)) for q in queries]
    return float(np.mean(inside))


def test_samples_within_a_wider_reference_have_full_precision_and_the_recall_of_their_area():
    narrow, wide = disc(3000, 1), disc(3000, 2, seed=1)
    evidence = Features(narrow, wide)
    assert precision.compute(evidence, "random") > 0.95
    assert recall.compute(evidence, "random") == pytest.approx(0.25, abs=0.05)
    turned = Features(wide, narrow)
    assert recall.compute(turned, "random") == precision.compute(evidence, "random")


def test_apart_there_is_neither_and_alike_there_is_both():
    near, far = disc(200, 1), disc(200, 1, seed=1) + np.float32(10)
    assert precision.compute(Features(near, far), "random") == recall.compute(Features(near, far), "random") == 0
    assert precision.compute(Features(near, near), "random") == recall.compute(Features(near, near), "random") == 1


@pytest.mark.parametrize("tile", [7, 64, 2048])
def test_it_is_the_definition_in_tiles_of_any_size(tile: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(_knn_manifold, "TILE", tile)
    draw = np.random.default_rng(3)
    samples = draw.standard_normal((70, 5)).astype(np.float32)
    reference = (1.2 * draw.standard_normal((90, 5)) + 0.5).astype(np.float32)
    evidence = Features(samples, reference)
    assert precision.compute(evidence, "random") == plainly(samples, reference)
    assert recall.compute(evidence, "random") == plainly(reference, samples)


@pytest.mark.parametrize("metric", [precision, recall])
@pytest.mark.parametrize("tile", [9, 2048])
def test_values_of_subsets_equal_those_of_their_items_alone(metric, tile: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(_knn_manifold, "TILE", tile)
    draw = np.random.default_rng(4)
    evidence = Features(*(draw.standard_normal((count, 4)).astype(np.float32) for count in (130, 90)))
    subsets = np.random.default_rng(5).random((8, 6)) < 0.5
    subsets = np.concatenate([subsets, ~subsets])
    subsets = subsets[subsets.sum(1) >= 2]
    expected = [metric.compute(evidence.select_groups(np.flatnonzero(each).tolist(), 6), "random") for each in subsets]
    np.testing.assert_allclose(metric.subset_values(evidence, "random", subsets), expected, rtol=1e-12)
    assert len(set(expected)) > 3


def test_a_ball_is_closed_and_a_copy_is_a_neighbor():
    support = np.array([[0.0], [1.0], [2.0], [3.0]], np.float32)
    # The third neighbor of 0 is at 3, of 3 at 3, of 1 and 2 at 2: from -3 to 6.
    queries = np.array([[-3.0], [-3.01], [6.0], [6.01]], np.float32)
    np.testing.assert_array_equal(_knn_manifold.fraction_inside_manifold(queries, support, k=3, subsets=WHOLE)[0], 0.5)
    copies = np.zeros((4, 1), np.float32)
    assert (
        _knn_manifold.fraction_inside_manifold(np.array([[0.0], [1e-3]], np.float32), copies, k=3, subsets=WHOLE)[0]
        == 0.5
    )


def test_a_common_offset_costs_no_digits():
    samples, reference = disc(300, 1), disc(300, 1.3, seed=1)
    plain = precision.compute(Features(samples, reference), "random")
    offset = np.float32(512)
    rounded = [np.round((side + offset) * 256) / 256 for side in (samples, reference)]
    moved, grid = Features(*rounded), Features(*(side - offset for side in rounded))
    assert precision.compute(moved, "random") == precision.compute(grid, "random") == pytest.approx(plain, abs=0.03)


def test_too_few_moments_and_nan_are_refused():
    rows = disc(20, 1)
    with pytest.raises(UsageError, match="3 references are too few"):
        precision.compute(Features(rows, rows[:3]), "random")
    with pytest.raises(UsageError, match="Recall cannot be computed from the mean and covariance of the reference"):
        recall.compute(Features(rows, gaussian_stats.from_features(rows)), "random")
    with pytest.raises(UsageError, match="features of the references are not finite"):
        recall.compute(Features(rows, rows * np.float32(np.nan)), "random")


@pytest.mark.parametrize("metric", [precision, recall])
def test_each_protocol_names_its_network_output_and_form(metric):
    assert metric.inputs("inception:adm") == FeatureSpec("inception", "pool", "adm")
    assert metric.inputs("random") == FeatureSpec("random", "all", "v1")
    assert [metric.inputs(protocol).network for protocol in metric.PROTOCOLS] == ["inception", "vgg16", "random"]
