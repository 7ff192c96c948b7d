"""Labels of samples: in turn, at random, and with the frequencies of the data that samples are compared with."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from inrflow_core.models import Model
from inrflow_core.sampling.labels import UNIFORM, class_frequencies, resolve_labels
from tests import tiny

SEEDS = range(20_000)


@pytest.fixture(scope="module")
def labeled() -> Model:
    return dataclasses.replace(tiny.model(tiny.IMAGE), metadata={"classes": list(tiny.NAMES)})


def shares(labels: list[int] | None) -> np.ndarray:
    assert labels is not None
    return np.bincount(labels, minlength=len(tiny.NAMES)) / len(labels)


def test_random_labels_have_the_frequencies_of_the_reference(labeled: Model):
    counts = {name: 10 * number**2 for number, name in enumerate(tiny.NAMES)}
    expected = np.array(list(counts.values())) / sum(counts.values())
    result = shares(resolve_labels(labeled, SEEDS, None, counts))
    np.testing.assert_allclose(result, expected, atol=4 * np.sqrt(0.25 / len(SEEDS)))
    assert result[0] == 0


def test_the_label_of_a_seed_does_not_depend_on_the_other_seeds(labeled: Model):
    counts = {name: 1 + number for number, name in enumerate(tiny.NAMES)}
    some = resolve_labels(labeled, range(100, 110), None, counts)
    assert some == (resolve_labels(labeled, range(200), None, counts) or [])[100:110]


@pytest.mark.parametrize(
    ("requested", "counts"),
    [
        (UNIFORM, {tiny.NAMES[0]: 9, tiny.NAMES[1]: 1}),
        (None, {}),
        (None, {"another": 9, tiny.NAMES[1]: 1}),
        (None, dict.fromkeys(tiny.NAMES, 7)),
    ],
    ids=["requested", "no classes", "other classes", "equal frequencies"],
)
def test_labels_are_else_uniform_and_the_same(labeled: Model, requested: str | None, counts: dict[str, int]):
    result = resolve_labels(labeled, SEEDS, requested, counts)
    assert result == resolve_labels(labeled, SEEDS)
    np.testing.assert_allclose(shares(result), 1 / len(tiny.NAMES), atol=4 * np.sqrt(0.25 / len(SEEDS)))


def test_classes_that_the_reference_lacks_are_not_sampled(labeled: Model):
    assert class_frequencies(labeled, {tiny.NAMES[1]: 5}) == [float(name == tiny.NAMES[1]) for name in tiny.NAMES]
    assert set(resolve_labels(labeled, range(50), None, {tiny.NAMES[1]: 5}) or []) == {1}
