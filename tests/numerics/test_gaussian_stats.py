"""Moments: any blocks give the same, far from 0 too; merging and taking away are each other's inverse."""

from __future__ import annotations

import numpy as np
import pytest

from inrflow_core.numerics import gaussian_stats
from inrflow_core.numerics.gaussian_stats import GaussianStats


def features(count: int, *, mean: float = 0.0) -> np.ndarray:
    draw = np.random.default_rng(0)
    return (mean + draw.standard_normal((count, 6)) @ draw.standard_normal((6, 6))).astype(np.float32)


def in_blocks(rows: np.ndarray, size: int) -> GaussianStats:
    sums = gaussian_stats.RunningGaussian(rows.shape[1])
    for start in range(0, len(rows), size):
        sums.add(rows[start : start + size])
    return sums.moments()


def assert_same(first: GaussianStats, second: GaussianStats, tolerance: float) -> None:
    assert first.count == second.count
    np.testing.assert_allclose(first.mean, second.mean, rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(first.covariance, second.covariance, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("size", [1, 2, 7, 64, 1000])
@pytest.mark.parametrize("mean", [0.0, 1e4])
def test_blocks_of_any_size_give_the_mean_and_covariance(size: int, mean: float):
    rows = features(1000, mean=mean)
    exact = rows.astype(np.float64)
    result = in_blocks(rows, size)
    np.testing.assert_allclose(result.mean, exact.mean(0), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(result.covariance, np.cov(exact.T), rtol=1e-10, atol=1e-10)
    np.testing.assert_array_equal(result.covariance, result.covariance.T)


def test_more_rows_than_are_converted_at_once_give_the_same(monkeypatch: pytest.MonkeyPatch):
    rows = features(1000)
    whole = gaussian_stats.from_features(rows)
    monkeypatch.setattr(gaussian_stats, "ROWS", 130)
    assert_same(gaussian_stats.from_features(rows), whole, 1e-12)


def test_merged_moments_are_those_of_all_and_less_undoes_it():
    rows = features(900, mean=50)
    rows[:300] += 7
    first, second, whole = (gaussian_stats.from_features(part) for part in (rows[:300], rows[300:], rows))
    assert_same(gaussian_stats.merge(first, second), whole, 1e-11)
    assert_same(gaussian_stats.subtract(whole, first), second, 1e-11)


def test_an_empty_block_changes_nothing():
    rows = features(50)
    sums = gaussian_stats.RunningGaussian(6)
    sums.add(rows[:0])
    sums.add(rows)
    sums.add(rows[:0])
    assert_same(sums.moments(), gaussian_stats.from_features(rows), 0)
