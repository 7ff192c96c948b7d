"""Inputs of the metrics of shapes: reconstructed surfaces beside the encoded ones, and facts of drawn meshes.

Both are of the mesh at the grid of the preset, where the logit is 0. A collection of reconstructions has, as conditions, what is
compared: `normals`, `is_inside` (at the stored queries), and the stored `original_points`, `original_normals` and
`original_inside`; one of meshes has `is_watertight` and `components`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float64

from inrflow_core.errors import UsageError
from inrflow_core.geometry import shape_scores
from inrflow_core.metrics._image_pairs import means_without_each
from inrflow_core.metrics._inputs import (
    GatherContext,
    InputSpec,
    Items,
    ItemsT,
    MatchedBy,
    MetricInputs,
    ReferenceStats,
    items_of,
    rows_in_groups,
)
from inrflow_core.shards.batch import Batch

MIN_ITEMS = 1
BLOCK = 4
"""Shapes compared at once: each has some 100,000 points and queries."""
EMPTY_CHAMFER = np.sqrt(3) / shape_scores.CHAMFER_UNIT
"""Chamfer-L1 of an empty reconstruction: the diagonal of the cube, as in the code of Occupancy Networks."""
IOU, CHAMFER_L1, F_SCORE, NORMAL_CONSISTENCY = "iou", "chamfer-l1", "f-score", "normal-consistency"
SHAPE_MEASURES = (IOU, CHAMFER_L1, F_SCORE, NORMAL_CONSISTENCY)
MESH_FACTS = ("is_watertight", "components")


@dataclass(frozen=True)
class ItemSpec(InputSpec):
    """A measure of single items, whose values are `ItemValues`."""

    measure: str
    """Its name in `ItemValues.values`."""


@dataclass(frozen=True)
class ShapeSpec(ItemSpec):
    """A measure of held-out shapes that a model encodes by one call and evaluates again."""

    measure: str
    """One of `SHAPE_MEASURES`."""

    @property
    def matched_by(self) -> MatchedBy:
        return "reconstruction"

    def key(self) -> Hashable:
        return ("shapes",)

    def gather(self, samples: ItemsT, reference: ItemsT | ReferenceStats, context: GatherContext[ItemsT]) -> ItemValues:
        """All measures of every shape, once."""
        context.verify(items_of(reference))
        return context.once(self.key(), lambda: ItemValues.of(samples, _measures))


@dataclass(frozen=True)
class MeshSpec(ItemSpec):
    """A fact of each drawn mesh."""

    measure: str
    """One of `MESH_FACTS`."""
    needs_reference: bool = False

    @property
    def matched_by(self) -> MatchedBy:
        return "mesh"

    def key(self) -> Hashable:
        return ("meshes",)

    def gather(self, samples: ItemsT, reference: ItemsT | ReferenceStats, context: GatherContext[ItemsT]) -> ItemValues:
        """All facts of every mesh, and what other specs of this key measure, once."""

        def measure(batch: Batch) -> dict[str, list[float]]:
            values = _facts(batch)
            for spec in {type(spec): spec for spec in context.alike}.values():  # one measures for all of its kind
                values |= spec.measured(batch, context)
            return values

        return context.once(self.key(), lambda: ItemValues.of(samples, measure))

    def measured(self, batch: Batch, context: GatherContext[Any]) -> dict[str, list[float]]:
        """What it measures of meshes beside the facts."""
        return {}


@dataclass(frozen=True)
class ItemValues(MetricInputs):
    """Some measures of each item, by their names."""

    values: Mapping[str, Float64[np.ndarray, " N"]]
    names: tuple[str, ...]

    @staticmethod
    def of(items: Items, measure: Callable[[Batch], dict[str, list[float]]]) -> ItemValues:
        """The measures of all items of a collection, in blocks; raises UsageError if it has none."""
        if not items.count:
            raise UsageError("there are no shapes to compare", hint="give a reference with some")
        blocks, names = [], []
        for start in range(0, items.count, BLOCK):
            batch = items.read(range(start, min(start + BLOCK, items.count)))
            blocks.append(measure(batch))
            names += batch.names
        values = {name: np.concatenate([np.array(block[name], np.float64) for block in blocks]) for name in blocks[0]}
        return ItemValues(values, tuple(names))

    def per_item(self, measure: str) -> dict[str, float]:
        """A measure of each item, by its name."""
        return dict(zip(self.names, self.values[measure].tolist(), strict=True))

    def mean(self, measure: str) -> float:
        """The mean of a measure over the items."""
        return float(self.values[measure].mean())

    def counts(self) -> tuple[int, int]:
        return len(self.names), len(self.names)

    def select_groups(self, groups: Collection[int], num_groups: int) -> ItemValues:
        """The items of some groups."""
        rows = rows_in_groups(len(self.names), groups, num_groups)
        values = {name: numbers[rows] for name, numbers in self.values.items()}
        return ItemValues(values, tuple(self.names[row] for row in rows))

    def means_without_each(self, measure: str, parts: int) -> Float64[np.ndarray, " P"]:
        """The mean of a measure without each jackknife group, at the cost of one."""
        return means_without_each(self.values[measure], parts)


def remark(inputs: ItemValues, protocol: str) -> str | None:
    """How many of the shapes are empty, and so have the worst scores."""
    count = int(np.isclose(inputs.values[CHAMFER_L1], EMPTY_CHAMFER).sum())
    return f"{count:,} of {len(inputs.names):,} reconstructions are empty and have the worst scores" if count else None


def _measures(batch: Batch) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {name: [] for name in SHAPE_MEASURES}
    condition = batch.condition
    for row, points in enumerate(batch.values):
        inside, original = condition["is_inside"][row], condition["original_inside"][row]
        found[IOU].append(shape_scores.iou(inside, original))
        scores = shape_scores.SurfaceScores(EMPTY_CHAMFER, 0.0, 0.0)
        if condition["normals"][row].any():  # an empty reconstruction has points without normals
            sides = points, condition["normals"][row], condition["original_points"][row]
            scores = shape_scores.surface_scores(*sides, condition["original_normals"][row])
        for name, value in zip((CHAMFER_L1, F_SCORE, NORMAL_CONSISTENCY), scores, strict=True):
            found[name].append(value)
    return found


def _facts(batch: Batch) -> dict[str, list[float]]:
    return {name: batch.condition[name].reshape(-1).tolist() for name in MESH_FACTS}
