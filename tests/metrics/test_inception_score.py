"""Inception Score: its two ends, splits and their order, torchmetrics on the same logits."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from inrflow_core.errors import UsageError
from inrflow_core.metrics import _class_scores, inception_score
from inrflow_core.metrics._inputs import Features, FeatureSpec
from inrflow_core.numerics.gaussian_stats import GaussianStats

NOTHING = np.zeros((0, 8), np.float32)


def of(logits: np.ndarray) -> Features:
    return Features(logits.astype(np.float32), NOTHING)


def logits_of(count: int, *, classes: int = 8, scale: float = 2.0) -> np.ndarray:
    return scale * np.random.default_rng(0).standard_normal((count, classes))


@pytest.mark.parametrize("gap", [100.0, 1e4])
def test_sure_of_each_of_all_classes_is_the_number_of_classes(gap: float):
    turns = gap * np.eye(8)[np.arange(800) % 8]
    assert inception_score.compute(of(turns), "adm") == pytest.approx(8, rel=1e-12)


def test_the_same_for_all_is_1():
    assert inception_score.compute(of(np.tile(logits_of(1), (50, 1))), "adm") == pytest.approx(1, abs=1e-12)
    assert inception_score.compute(of(np.zeros((50, 8))), "torch-fidelity") == pytest.approx(1, abs=1e-12)


def test_samples_class_by_class_mislead_the_splits_in_order_and_not_the_shuffled_ones():
    sorted_classes = 100.0 * np.eye(8)[np.arange(4000) * 8 // 4000]
    sorted_classes = np.concatenate([sorted_classes[1000:], sorted_classes, sorted_classes[:1000]])
    assert inception_score.compute(of(sorted_classes), "adm") < 7.0
    assert inception_score.compute(of(sorted_classes), "torch-fidelity") == pytest.approx(8, rel=0.02)


def test_a_constant_added_to_all_logits_changes_nothing():
    logits = logits_of(100)
    moved = inception_score.compute(of(logits + 50), "adm")
    assert moved == pytest.approx(inception_score.compute(of(logits), "adm"), rel=1e-5)


def test_it_agrees_with_torchmetrics_on_the_same_logits():
    from torchmetrics.image.inception import InceptionScore

    logits = logits_of(503).astype(np.float32)
    score = InceptionScore(feature=torch.nn.Identity(), splits=1).set_dtype(torch.float64)
    score.update(torch.from_numpy(logits))
    assert _class_scores.score(logits, splits=1) == pytest.approx(float(score.compute()[0]), rel=1e-6)


def test_adm_scores_5000_samples_at_a_time_in_their_order():
    logits = logits_of(12_000)
    parts = [_class_scores.score(logits[start : start + 5000].astype(np.float32), 1) for start in (0, 5000, 10_000)]
    assert inception_score.compute(of(logits), "adm") == pytest.approx(np.mean(parts), rel=1e-12)
    few = of(logits[:5000])
    assert inception_score.compute(few, "adm") == _class_scores.score(few.samples, 1)
    assert inception_score.compute(few, "torch-fidelity") < inception_score.compute(few, "adm")


def test_the_splits_agree_with_torchmetrics_where_it_does_not_shuffle(monkeypatch: pytest.MonkeyPatch):
    from torchmetrics.image.inception import InceptionScore

    logits = logits_of(500).astype(np.float32)
    score = InceptionScore(feature=torch.nn.Identity(), splits=10)
    score.update(torch.from_numpy(logits))
    monkeypatch.setattr(torch, "randperm", lambda count, **options: torch.arange(count))
    assert _class_scores.score(logits, 10) == pytest.approx(float(score.compute()[0]), rel=1e-5)


def test_leaving_out_a_part_equals_the_score_of_the_others():
    evidence = of(logits_of(300))
    expected = [inception_score.compute(evidence.leave_out(part, 10), "adm") for part in range(10)]
    np.testing.assert_allclose(inception_score.jackknife_values(evidence, "adm", 10), expected, rtol=1e-12)


def test_the_reference_is_not_looked_at():
    samples = logits_of(40).astype(np.float32)
    other = GaussianStats(5, np.full(3, np.nan), np.eye(3))
    assert inception_score.compute(Features(samples, other), "adm") == inception_score.compute(of(samples), "adm")
    assert not inception_score.inputs("adm").needs_reference


def test_too_few_and_nan_are_refused_and_logits_are_requested():
    with pytest.raises(UsageError, match="19 samples are too few"):
        inception_score.compute(of(logits_of(19)), "adm")
    with pytest.raises(UsageError, match="features of the samples are not finite"):
        inception_score.compute(of(logits_of(30) * np.nan), "adm")
    assert inception_score.inputs("adm") == FeatureSpec("inception", "logits", "adm", needs_reference=False)
