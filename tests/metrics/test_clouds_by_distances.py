"""MMD, COV and 1-NNA: their laws, the papers' code written as loops, and values that were computed elsewhere."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from inrflow_core import registry
from inrflow_core.errors import UsageError
from inrflow_core.evaluation import pairwise_distances
from inrflow_core.geometry import point_clouds
from inrflow_core.metrics import cov, mmd, one_nna
from inrflow_core.metrics._cloud_inputs import Distances, DistanceSpec
from tests.distances import shapes

EVERY = (mmd, cov, one_nna)


def gathered(samples: np.ndarray, reference: np.ndarray, protocol: str = "cd:inrflow") -> Distances:
    samples, reference = (point_clouds.normalize(side, "inrflow", None) for side in (samples, reference))
    return pairwise_distances.compute_distances(samples, reference, one_nna.inputs(protocol))


def scores(samples: np.ndarray, reference: np.ndarray, protocol: str = "cd:inrflow") -> dict[str, float]:
    evidence = gathered(samples, reference, protocol)
    return {metric.TITLE: metric.compute(evidence, protocol) for metric in EVERY}


@pytest.mark.parametrize("metric", EVERY, ids=lambda metric: metric.TITLE)
def test_every_protocol_names_a_distance_and_a_normalization(metric: ModuleType):
    assert metric.PROTOCOLS[0] == "cd:inrflow" and metric.DOMAIN == "points"
    for protocol in metric.PROTOCOLS:
        need = metric.inputs(protocol)
        assert registry.find("distances", need.distance) and need.normalization in point_clouds.PROTOCOLS
        assert need.is_within is (metric is one_nna)
    assert "emd-lion:inrflow" in metric.PROTOCOLS and "emd-lion:pointflow" not in metric.PROTOCOLS


def test_units_are_those_of_the_tables():
    assert mmd.unit("cd:inrflow") == "10^-3" and mmd.unit("emd-lion:lion-global") == "10^-2"
    assert {mmd.unit(p) for p in mmd.PROTOCOLS if p.startswith("emd")} == {"10^-2"}
    evidence = Distances(np.array([[0.004, 0.03], [0.02, 0.01]]))
    assert mmd.compute(evidence, "cd:inrflow") == pytest.approx(7.0)
    assert mmd.compute(evidence, "emd-exact:inrflow") == pytest.approx(0.7)


@pytest.mark.parametrize("protocol", ["cd:inrflow", "emd-exact:inrflow"])
def test_a_set_against_itself_is_perfect_and_gives_itself_away(protocol: str):
    inputs = shapes.clouds(8, 64)
    assert scores(inputs, inputs, protocol) == pytest.approx({"MMD": 0, "COV": 100, "1-NNA": 0}, abs=1e-12)


def test_two_halves_of_one_distribution_cannot_be_distinguished():
    inputs = shapes.clouds(240, 48)
    result = scores(inputs[:120], inputs[120:])
    assert result["1-NNA"] == pytest.approx(50, abs=8) and result["COV"] > 45


def test_sets_far_apart_are_distinguished_and_cover_little():
    random = np.random.default_rng(0)
    spheres = np.stack([shapes.sphere(random, 64) for _ in range(20)])
    planes = np.stack([shapes.plane(random, 64) for _ in range(20)])
    assert scores(spheres, planes)["1-NNA"] == 100


def test_one_shape_repeated_covers_one_reference():
    reference = shapes.clouds(10, 64)
    assert scores(np.repeat(reference[:1], 10, 0), reference)["COV"] == 10


def test_ties_count_by_half():
    ones = np.ones((3, 3)) - np.eye(3)
    assert one_nna.compute(Distances(np.ones((3, 3)), ones, ones), "cd:inrflow") == 50


def by_the_papers_rule(evidence: Distances) -> tuple[float, float, float]:
    """MMD, COV and 1-NNA in loops over [[reference, across], [its transpose, samples]], nearest row of each column."""
    across, samples, reference = evidence.across, evidence.among_samples, evidence.among_reference
    assert samples is not None and reference is not None
    n, r = across.shape
    least = [min(across[i][j] for i in range(n)) for j in range(r)]
    covered = {min(range(r), key=lambda j, i=i: across[i][j]) for i in range(n)}
    joint = np.block([[reference, across.T], [across, samples]])
    right = 0
    for column in range(n + r):
        others = [row for row in range(n + r) if row != column]
        nearest = min(others, key=lambda row, column=column: joint[row, column])
        right += (nearest < r) == (column < r)
    return sum(least) / r, len(covered) / r, right / (n + r)


@pytest.mark.parametrize("protocol", ["cd:inrflow", "emd-lion:inrflow", "emd-exact-squared:inrflow"])
def test_values_are_those_of_the_papers_rule(protocol: str):
    evidence = gathered(shapes.clouds(13, 40), shapes.clouds(10, 40, seed=1), protocol)
    expected = by_the_papers_rule(evidence)
    result = mmd.compute(evidence, protocol), cov.compute(evidence, protocol), one_nna.compute(evidence, protocol)
    factors = (1e-3 if protocol.startswith("cd") else 1e-2, 1e-2, 1e-2)
    assert [v * f for v, f in zip(result, factors, strict=True)] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("metric", EVERY, ids=lambda metric: metric.TITLE)
def test_one_sample_is_too_few(metric: ModuleType):
    with pytest.raises(UsageError, match="there are too few samples: 1"):
        metric.compute(Distances(np.ones((1, 5)), np.zeros((1, 1)), np.zeros((5, 5))), "cd:inrflow")
    with pytest.raises(UsageError, match="there are too few references: 1"):
        metric.compute(Distances(np.ones((5, 1)), np.zeros((5, 5)), np.zeros((1, 1))), "cd:inrflow")


@pytest.mark.parametrize(("name", "distance"), [("cd", "cd"), ("emd", "emd-exact")])
def test_the_reference_sets_have_the_values_that_were_computed_elsewhere(
    real_data: Callable[[str], Path], name: str, distance: str
):
    folder = real_data("metrics/pointcloud_cd_emd")
    expected = json.loads((folder / "reference.json").read_text())[name]
    with np.load(folder / "sets.npz") as sets:
        samples, reference, matrix = sets["sample"], sets["ref"], sets[name]
    samples, reference = (
        point_clouds.normalize(side, "pointflow", point_clouds.SOURCE) for side in (samples, reference)
    )
    protocol = f"{distance}:pointflow"
    evidence = pairwise_distances.compute_distances(
        samples, reference, DistanceSpec(distance, "pointflow", is_within=True)
    )
    assert evidence.among_samples is not None and evidence.among_reference is not None
    np.testing.assert_allclose(evidence.across, matrix[:20, 20:], rtol=1e-6)
    np.testing.assert_allclose(evidence.among_samples, matrix[:20, :20], rtol=1e-6)
    np.testing.assert_allclose(evidence.among_reference, matrix[20:, 20:], rtol=1e-6)
    factor = {"cd": 1e-3, "emd": 1e-2}[name]
    assert mmd.compute(evidence, protocol) * factor == pytest.approx(expected["mmd"], rel=1e-6)
    assert cov.compute(evidence, protocol) / 100 == pytest.approx(expected["cov"], rel=1e-12)
    assert one_nna.compute(evidence, protocol) / 100 == pytest.approx(expected["one_nna"], rel=1e-12)
