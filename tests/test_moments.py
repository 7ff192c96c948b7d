"""Moments: any blocks give the same, far from 0 too; merging and taking away are each other's inverse."""

from __future__ import annotations

import numpy as np
import pytest

from inrflow_core import moments
from inrflow_core.evidence import Moments


def features(count: int, *, mean: float = 0.0) -> np.ndarray:
    draw = np.random.default_rng(0)
    return (mean + draw.standard_normal((count, 6)) @ draw.standard_normal((6, 6))).astype(np.float32)


def in_blocks(rows: np.ndarray, size: int) -> Moments:
    sums = moments.Sums(rows.shape[1])
    for start in range(0, len(rows), size):
        sums.add(rows[start : start + size])
    return sums.moments()


def assert_same(first: Moments, second: Moments, tolerance: float) -> None:
    assert first.count == second.count
    np.testing.assert_allclose(first.mean, second.mean, rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(first.covariance, second.covariance, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("size", [1, 2, 7, 64, 1000])
@pytest.mark.parametrize("mean", [0.0, 1e4])
def test_blocks_of_any_size_give_the_mean_and_covariance(size: int, mean: float):
    rows = features(1000, mean=mean)
    exact = rows.astype(np.float64)
    found = in_blocks(rows, size)
    np.testing.assert_allclose(found.mean, exact.mean(0), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(found.covariance, np.cov(exact.T), rtol=1e-10, atol=1e-10)
    np.testing.assert_array_equal(found.covariance, found.covariance.T)


def test_more_rows_than_are_converted_at_once_give_the_same(monkeypatch: pytest.MonkeyPatch):
    rows = features(1000)
    whole = moments.of(rows)
    monkeypatch.setattr(moments, "ROWS", 130)
    assert_same(moments.of(rows), whole, 1e-12)


def test_merged_moments_are_those_of_all_and_less_undoes_it():
    rows = features(900, mean=50)
    rows[:300] += 7
    first, second, whole = (moments.of(part) for part in (rows[:300], rows[300:], rows))
    assert_same(moments.merged(first, second), whole, 1e-11)
    assert_same(moments.less(whole, first), second, 1e-11)


def test_an_empty_block_changes_nothing():
    rows = features(50)
    sums = moments.Sums(6)
    sums.add(rows[:0])
    sums.add(rows)
    sums.add(rows[:0])
    assert_same(sums.moments(), moments.of(rows), 0)
