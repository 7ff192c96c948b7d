"""Metrics of shapes: means over reconstructed shapes and drawn meshes, by their formulas."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from inrflow_core.evaluation.shape_sets import FunctionCollection
from inrflow_core.metrics import (
    _shape_inputs,
    components,
    reconstruction_chamfer_l1,
    reconstruction_f_score,
    reconstruction_iou,
    reconstruction_normal_consistency,
    watertight,
)
from inrflow_core.metrics._shape_inputs import ItemValues
from inrflow_core.shards.batch import Batch

RADII = (0.4, 0.5, 0.5)
"""Of the original balls; every reconstruction is a ball of radius 0.4, and the last one empty."""
RNG = np.random.default_rng(0)
SPACING = np.sqrt(4 * np.pi * 0.4**2 / 3000)
"""Root of the area of each of 3000 random points: the nearest one is half of it away, and near with Poisson's probability."""
DIRECTIONS = RNG.standard_normal((6000, 3))
DIRECTIONS /= np.linalg.norm(DIRECTIONS, axis=1, keepdims=True)
QUERIES = np.linalg.norm(RNG.uniform(-0.55, 0.55, (60_000, 3)), axis=1)


def collection(load: Any, count: int) -> FunctionCollection:
    return FunctionCollection(
        source=Path("a"),
        domain="shape",
        digest="0",
        names=[f"shape-{index}" for index in range(count)],
        load_values=lambda indices: load(indices).values,
        load_batch=load,
    )


def balls(indices: np.ndarray) -> Batch:
    radii = np.array([RADII[index] for index in indices])
    is_empty = indices == 2
    made = np.where(is_empty, 0, 0.4)[:, None, None] * DIRECTIONS[:3000]
    condition = {
        "normals": np.where(is_empty[:, None, None], 0, DIRECTIONS[:3000]),
        "is_inside": (QUERIES < 0.4) & ~is_empty[:, None],
        "original_points": radii[:, None, None] * DIRECTIONS[3000:],
        "original_normals": np.tile(DIRECTIONS[3000:], (len(indices), 1, 1)),
        "original_inside": radii[:, None] > QUERIES,
    }
    none = np.empty(0, np.int64)
    return Batch(made.astype(np.float32), np.full(len(indices), -1), [], none, condition=condition)


@pytest.fixture(scope="module")
def rebuilt() -> ItemValues:
    return ItemValues.of(collection(balls, 3), _shape_inputs._measures)


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        (reconstruction_iou, (1, 0.8**3, 0)),
        (reconstruction_chamfer_l1, (5 * SPACING, 1.01, np.sqrt(3) * 10)),
        (reconstruction_f_score, (1 - np.exp(-np.pi * (0.01 / SPACING) ** 2), 0, 0)),
        (reconstruction_normal_consistency, (1, 1, 0)),
    ],
    ids=lambda value: value.TITLE if isinstance(value, ModuleType) else "",
)
def test_scores_of_balls_have_their_formulas(metric: Any, expected: tuple[float, ...], rebuilt: ItemValues) -> None:
    (protocol,) = metric.PROTOCOLS
    each = rebuilt.per_item(metric.inputs(protocol).measure)
    assert list(each) == ["shape-0", "shape-1", "shape-2"]
    np.testing.assert_allclose([*each.values()], expected, atol=0.03)
    assert metric.compute(rebuilt, protocol) == pytest.approx(np.mean([*each.values()]))
    without = metric.jackknife_values(rebuilt, protocol, 3)
    assert sorted(without) == pytest.approx(sorted((sum(each.values()) - value) / 2 for value in each.values()))
    assert metric.remark(rebuilt, protocol) == "1 of 3 reconstructions are empty and have the worst scores"


def test_groups_are_groups_of_shapes(rebuilt: ItemValues) -> None:
    parts = [rebuilt.select_groups([group], 3) for group in range(3)]
    assert sorted(name for part in parts for name in part.names) == list(rebuilt.names)
    assert rebuilt.counts() == (3, 3)


def test_facts_of_meshes_are_shares_and_means() -> None:
    def load(indices: np.ndarray) -> Batch:
        condition = {
            "is_watertight": np.array([True, True, False, False])[indices, None],
            "components": np.array([1, 2, 3, 0])[indices, None],
        }
        values = np.zeros((len(indices), 2, 3), np.float32)
        return Batch(values, np.full(len(indices), -1), [], np.empty(0, np.int64), condition=condition)

    facts = ItemValues.of(collection(load, 4), _shape_inputs._facts)
    assert watertight.compute(facts, "preset-grid") == 50
    assert components.compute(facts, "preset-grid") == 1.5
    assert components.remark(facts, "preset-grid") == "1 of 4 meshes are of one piece, 1 are empty"
    assert facts.per_item("components") == {"shape-0": 1, "shape-1": 2, "shape-2": 3, "shape-3": 0}
