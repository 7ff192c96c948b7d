"""The Frechet distance: closed forms, singular covariances, the remarks and refusals, torchmetrics on the same features."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from inrflow_core import registry
from inrflow_core.errors import UsageError
from inrflow_core.metrics import _frechet, fid, fid_clip, sfid
from inrflow_core.metrics._inputs import Features, FeatureSpec
from inrflow_core.numerics import gaussian_stats
from inrflow_core.numerics.gaussian_stats import GaussianStats


def given(count: int, width: int, *, seed: int = 0, scale: float = 1.0, shift: float = 0.0) -> np.ndarray:
    return (shift + scale * np.random.default_rng(seed).standard_normal((count, width))).astype(np.float32)


def of(mean: list[float], covariance: np.ndarray) -> GaussianStats:
    return GaussianStats(1000, np.array(mean, dtype=np.float64), np.asarray(covariance, dtype=np.float64))


def between(first: GaussianStats, second: GaussianStats) -> float:
    return _frechet.distance(_frechet.gaussian(first), _frechet.gaussian(second))


def rotation(width: int, seed: int) -> np.ndarray:
    return np.linalg.qr(np.random.default_rng(seed).standard_normal((width, width)))[0]


def test_diagonal_covariances_have_a_closed_form():
    first, second = of([0, 1, 2], np.diag([1, 4, 9])), of([1, 1, 0], np.diag([4, 4, 1]))
    # |(1, 0, 2)|^2 and the differences of the deviations (1, 2, 3) and (2, 2, 1), squared.
    assert between(first, second) == pytest.approx(5 + 1 + 0 + 4, rel=1e-13)


def test_commuting_covariances_in_any_frame_have_the_closed_form():
    turn, wide, narrow = rotation(40, 1), np.linspace(0.1, 5, 40), np.linspace(3, 0.2, 40)
    first, second = (of([0] * 40, turn @ np.diag(spread**2) @ turn.T) for spread in (wide, narrow))
    assert between(first, second) == pytest.approx(np.sum((wide - narrow) ** 2), rel=1e-12)


def test_two_rotated_covariances_of_the_plane_have_the_closed_form():
    angle = 0.7
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    first, second = np.diag([9.0, 1.0]), turn @ np.diag([4.0, 0.25]) @ turn.T
    # In the plane (Tr sqrt A)^2 = Tr A + 2 sqrt det A.
    root = np.sqrt(np.trace(first @ second) + 2 * np.sqrt(np.linalg.det(first @ second)))
    expected = 25 + 10 + 4.25 - 2 * root
    assert between(of([3, 0], first), of([0, 4], second)) == pytest.approx(expected, rel=1e-13)


def test_equal_sets_are_at_0_and_none_is_below():
    for rows in (given(300, 20), given(10, 20), given(300, 20) * np.float32(1e4), np.ones((9, 5), np.float32)):
        value = _frechet.compute(Features(rows, rows.copy()), "clean")
        assert 0 <= value <= 1e-12 * max(1.0, float(np.var(rows)) * rows.shape[1])


def test_a_singular_covariance_is_as_good_as_the_features_it_came_from():
    samples, reference = given(12, 30), given(15, 30, seed=1, scale=2, shift=0.3)
    whole = _frechet.compute(Features(samples, reference), "clean")
    of_moments = _frechet.compute(Features(samples, gaussian_stats.from_features(reference)), "clean")
    both = between(gaussian_stats.from_features(samples), gaussian_stats.from_features(reference))
    assert of_moments == pytest.approx(whole, rel=1e-6)
    assert both == pytest.approx(whole, rel=1e-5)


@pytest.mark.parametrize("least", [1.0, 1e-3, 1e-9, 0.0])
def test_singular_values_add_up_whatever_their_range(least: float):
    values = np.append(np.linspace(1, 2, 30), np.full(30, least))
    matrix = rotation(60, 1) @ np.diag(values) @ rotation(60, 2)
    for given_matrix in (matrix[:, :50], matrix[:50]):
        expected = np.linalg.svd(given_matrix, compute_uv=False).sum()
        assert _frechet._sum_of_singular_values(given_matrix) == pytest.approx(expected, rel=1e-11)
    assert _frechet._sum_of_singular_values(matrix) == pytest.approx(values.sum(), rel=1e-11)


def test_features_and_their_moments_give_the_same():
    samples, reference = given(200, 16), given(300, 16, seed=1, shift=0.2)
    whole = _frechet.compute(Features(samples, reference), "adm")
    assert _frechet.compute(Features(samples, gaussian_stats.from_features(reference)), "adm") == pytest.approx(
        whole, rel=1e-12
    )


@pytest.mark.parametrize(("count", "width"), [(400, 8), (60, 40), (30, 40)])
@pytest.mark.parametrize("is_of_moments", [False, True])
def test_leaving_out_a_part_equals_the_distance_of_the_others(count: int, width: int, is_of_moments: bool):
    reference = given(2 * count, width, seed=1, scale=1.3)
    evidence = Features(given(count, width), gaussian_stats.from_features(reference) if is_of_moments else reference)
    expected = [_frechet.compute(evidence.leave_out(part, 10), "clean") for part in range(10)]
    np.testing.assert_allclose(_frechet.jackknife_values(evidence, "clean", 10), expected, rtol=1e-9)


def test_it_agrees_with_torchmetrics_on_the_same_features():
    from torchmetrics.image.fid import FrechetInceptionDistance

    samples, reference = given(500, 24), given(700, 24, seed=1, scale=1.2, shift=0.1)
    other = FrechetInceptionDistance(feature=Passed(24), normalize=False).set_dtype(torch.float64)
    other.update(torch.from_numpy(reference), real=True)
    other.update(torch.from_numpy(samples), real=False)
    assert _frechet.compute(Features(samples, reference), "clean") == pytest.approx(float(other.compute()), rel=1e-5)


class Passed(torch.nn.Module):
    """A network whose features are what it is given."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.num_features = width

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return features


def test_few_images_are_reported_and_many_are_not():
    assert _frechet.remark(Features(given(9, 4), given(9, 4)), "clean") is None
    assert _frechet.remark(Features(given(4, 4), given(9, 4)), "clean") == (
        "4 samples for 4 features: much larger than with many, and comparable at equal numbers only"
    )
    note = _frechet.remark(Features(given(4, 4), given(3, 4)), "adm")
    assert note is not None and note.startswith("4 samples and 3 references for 4 features")


@pytest.mark.parametrize(
    ("samples", "reference", "message"),
    [
        (given(1, 4), given(9, 4), "1 samples are too few"),
        (given(9, 4), given(1, 4), "1 references are too few"),
        (given(9, 4) * np.float32(np.nan), given(9, 4), "features of the samples are not finite"),
        (given(9, 4), of([np.inf, 0, 0, 0], np.eye(4)), "features of the references are not finite"),
        (given(9, 4), of([0, 0, 0], np.eye(3)), "samples have 4 features and the reference 3"),
    ],
)
def test_what_has_no_distance_is_refused(samples: np.ndarray, reference: np.ndarray | GaussianStats, message: str):
    with pytest.raises(UsageError, match=message):
        _frechet.compute(Features(samples, reference), "clean")


def test_each_distance_names_its_features():
    assert fid.inputs(fid.PROTOCOLS[0]) == FeatureSpec("inception", "pool", "clean", accepts_stats=True)
    assert fid.inputs("random") == FeatureSpec("random", "all", "v1", accepts_stats=True)
    assert sfid.inputs("adm") == FeatureSpec("inception", "spatial", "adm", accepts_stats=True)
    assert fid_clip.inputs(fid_clip.PROTOCOLS[0]).network == "clip"
    assert fid_clip.inputs("inrflow").preprocessing == "inrflow"  # that of the paper's release
    assert registry.find("metrics", "fid-clip") is fid_clip
