"""KID: unbiased at few images, a closed form, parts left out, torchmetrics on the same features."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from inrflow_core.errors import UsageError
from inrflow_core.metrics import kid
from inrflow_core.metrics._inputs import Features, FeatureSpec
from inrflow_core.numerics import gaussian_stats


def given(count: int, width: int = 4, *, seed: int = 0, shift: float = 0.0) -> np.ndarray:
    return (shift + np.random.default_rng(seed).standard_normal((count, width))).astype(np.float32)


def test_two_draws_of_one_distribution_are_at_0_in_the_mean_however_few():
    values = [
        kid.compute(Features(given(8, seed=2 * seed), given(8, seed=2 * seed + 1)), "clean") for seed in range(1000)
    ]
    assert abs(np.mean(values)) < 3 * np.std(values) / np.sqrt(len(values))
    assert np.min(values) < 0 < np.max(values)


def test_the_mean_at_few_images_is_the_closed_form_of_constants_and_noise():
    # x = a, y = b (one feature): the kernel is (a b + 1)^3, of every pair.
    samples, reference = np.full((20, 1), 2.0, np.float32), np.full((30, 1), 0.5, np.float32)
    expected = 1e3 * (5**3 + 1.25**3 - 2 * 2**3)
    assert kid.compute(Features(samples, reference), "clean") == pytest.approx(expected, rel=1e-12)
    # y = +1 or -1 evenly: E k(y, y') = (8 + 0) / 2 = 4; of x = 0 the kernel is 1; in expectation 1 + 4 - 2.
    values = []
    for seed in range(1500):
        signs = np.random.default_rng(seed).choice([-1.0, 1.0], (6, 1)).astype(np.float32)
        values.append(kid.compute(Features(np.zeros((6, 1), np.float32), signs), "clean"))
    assert np.mean(values) == pytest.approx(3e3, abs=3 * np.std(values) / np.sqrt(1500))


def test_it_agrees_with_torchmetrics_on_one_subset_of_all():
    from torchmetrics.image.kid import KernelInceptionDistance

    samples, reference = given(300, 16, shift=0.3), given(300, 16, seed=1)
    other = KernelInceptionDistance(feature=torch.nn.Identity(), subsets=1, subset_size=300).set_dtype(torch.float64)
    other.update(torch.from_numpy(reference).double(), real=True)
    other.update(torch.from_numpy(samples).double(), real=False)
    value = kid.compute(Features(samples, reference), "torch-fidelity")
    assert value == pytest.approx(1e3 * float(other.compute()[0]), rel=1e-9)


def test_subsets_estimate_the_same_as_all_and_repeat_to_the_bit(monkeypatch: pytest.MonkeyPatch):
    evidence = Features(given(600, shift=0.4), given(500, seed=1))
    np.random.seed(0)
    whole = kid.compute(evidence, "clean")
    monkeypatch.setattr(kid, "SUBSET_SIZE", 200)
    np.random.seed(1)
    in_subsets = kid.compute(evidence, "clean")
    assert in_subsets == kid.compute(evidence, "clean")
    assert in_subsets == pytest.approx(whole, rel=0.05) and in_subsets != whole


def test_leaving_out_a_part_equals_the_value_of_the_others():
    evidence = Features(given(60, shift=0.4), given(60, seed=1))
    expected = [kid.compute(evidence.leave_out(part, 10), "clean") for part in range(10)]
    np.testing.assert_allclose(kid.jackknife_values(evidence, "clean", 10), expected, rtol=1e-10)


def test_leaving_out_parts_of_subsets_scatters_as_the_statistic_of_all_does(monkeypatch: pytest.MonkeyPatch):
    evidence = Features(given(900, shift=0.4), given(900, seed=1))
    whole = np.std(kid.jackknife_values(evidence, "clean", 10))
    monkeypatch.setattr(kid, "SUBSET_SIZE", 200)
    # Fresh subsets for each part would scatter about twice as far.
    assert np.std(kid.jackknife_values(evidence, "clean", 10)) == pytest.approx(whole, rel=0.25)


def test_moments_one_image_and_nan_are_refused():
    rows = given(20)
    with pytest.raises(UsageError, match="KID cannot be computed from the mean and covariance of the reference"):
        kid.compute(Features(rows, gaussian_stats.from_features(rows)), "clean")
    with pytest.raises(UsageError, match="1 references are too few"):
        kid.compute(Features(rows, rows[:1]), "clean")
    with pytest.raises(UsageError, match="features of the samples are not finite"):
        kid.compute(Features(rows * np.float32(np.inf), rows), "clean")


def test_its_unit_and_its_features_are_reported():
    assert kid.unit("clean") == "10^-3"
    assert kid.inputs("clean") == FeatureSpec("inception", "pool", "clean")
    assert kid.inputs("random") == FeatureSpec("random", "all", "v1")
