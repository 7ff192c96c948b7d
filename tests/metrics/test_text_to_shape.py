"""Metrics of shapes under texts: their laws, and values by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from inrflow_core.errors import UsageError
from inrflow_core.evaluation.gather import EvaluationSettings, Gatherer
from inrflow_core.metrics import tmd
from inrflow_core.metrics._mutual_inputs import MutualSpec, mutual_difference
from inrflow_core.sample_files.collection import ArrayCollection

RNG = np.random.default_rng(0)
SURFACES = RNG.uniform(-0.5, 0.5, (15, 300, 3)).astype(np.float32)
"""Points of 15 shapes."""


def collection(values: np.ndarray, name: str = "a", **condition: np.ndarray) -> ArrayCollection:
    return ArrayCollection(
        source=Path(name),
        domain="shape",
        digest=name,
        names=[f"{name}-{index}" for index in range(len(values))],
        load_values=lambda indices: values[indices],
        condition=condition,
    )


def chamfer(one: np.ndarray, other: np.ndarray) -> float:
    """The mean squared distance to the nearest point, both directions added, from all distances."""
    squares = np.square(one.astype(np.float64)[:, None] - other[None]).sum(2)
    return squares.min(0).mean() + squares.min(1).mean()


def tmd_of(values: np.ndarray, items: np.ndarray, folder: Path, spec: MutualSpec) -> tuple[float, dict[str, float]]:
    samples = collection(values, "sample", item=items, view=np.zeros_like(items))
    reference = collection(SURFACES[:4], "text")
    inputs = spec.gather(samples, reference, Gatherer(EvaluationSettings(folder)))
    return tmd.FACTOR * inputs.mean("cd"), inputs.per_item("cd")


def test_identical_samples_do_not_differ_and_known_ones_do_as_by_hand():
    assert mutual_difference(np.repeat(SURFACES[:1], 10, axis=0), "cd") == 0
    points = np.zeros((3, 1, 3))
    points[1, 0, 0], points[2, 0, 1] = 0.3, 0.4  # squares of distances 0.09, 0.16 and 0.25, each in both directions
    assert mutual_difference(points, "cd") == pytest.approx(2 * (0.09 + 0.16 + 0.25))
    clouds = SURFACES[:4]
    means = [np.mean([chamfer(clouds[one], clouds[other]) for other in range(4) if other != one]) for one in range(4)]
    assert mutual_difference(clouds, "cd") == pytest.approx(np.sum(means), rel=1e-12)


def test_tmd_is_the_mean_over_texts_in_any_order_of_the_samples(tmp_path: Path):
    items = np.repeat([2, 0, 3], 5)
    spec = MutualSpec("cd", 5, 300)
    value, each = tmd_of(SURFACES, items, tmp_path, spec)
    expected = {f"text-{item}": mutual_difference(SURFACES[items == item], "cd") for item in (0, 2, 3)}
    assert each == expected and value == pytest.approx(100 * np.mean([*expected.values()]))
    order = RNG.permutation(15)
    assert tmd_of(SURFACES[order], items[order], tmp_path, spec) == (value, each)
    same = np.repeat(SURFACES[:3], 5, axis=0)
    assert tmd_of(same, items, tmp_path, spec)[0] == 0


def test_tmd_refuses_another_number_of_samples_and_too_few_points(tmp_path: Path):
    items = np.repeat([2, 0, 3], 5)
    with pytest.raises(UsageError, match="of 3 texts, 5 to 5 of each, and 10 of each are compared"):
        tmd_of(SURFACES, items, tmp_path, tmd.inputs("k10:cd:2048:as-drawn"))
    with pytest.raises(UsageError, match="300 points, fewer than the 2,048"):
        tmd_of(SURFACES, items, tmp_path, tmd.inputs("k5:cd:2048:as-drawn"))


def test_an_empty_sample_is_a_point_and_is_counted(tmp_path: Path):
    values = SURFACES.copy()
    values[4] = 0
    samples = collection(values, "sample", item=np.repeat([0, 1, 2], 5), view=np.zeros(15, np.int64))
    inputs = MutualSpec("cd", 5, 300).gather(
        samples, collection(SURFACES[:4], "text"), Gatherer(EvaluationSettings(tmp_path))
    )
    assert tmd.remark(inputs, tmd.PROTOCOLS[0]) == "1 of 15 samples are empty, and each is compared as one point"
    assert (inputs.counts(), inputs.num_independent()) == ((15, 3), 3)
    without = tmd.jackknife_values(inputs, tmd.PROTOCOLS[0], 3)
    each = 100 * inputs.values["cd"]
    assert sorted(without) == pytest.approx(sorted((each.sum() - one) / 2 for one in each))
