"""Inputs of the metrics of several samples under one condition: how much these differ from each other.

Every text of the reference has as many samples (`--samples-per-item`), and each sample is compared with the others of its text,
in the coordinates in which the model draws it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Hashable
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from jaxtyping import Float

from inrflow_core.distances import _contract as distances
from inrflow_core.errors import UsageError
from inrflow_core.geometry import point_clouds
from inrflow_core.metrics._inputs import (
    Cost,
    CostTimer,
    GatherContext,
    Items,
    ItemsT,
    MatchedBy,
    ReferenceStats,
    items_of,
)
from inrflow_core.metrics._shape_inputs import ItemSpec, ItemValues

BLOCK = 64
"""Samples read at once."""


@dataclass(frozen=True)
class MutualSpec(ItemSpec):
    """Of each text, the sum over its samples of the mean distance to the other samples; `measure` is a file in `distances/`."""

    count: int
    """Samples of each text."""
    points: int
    """Points of each sample."""

    @property
    def matched_by(self) -> MatchedBy:
        return "condition"

    @property
    def samples_per_item(self) -> int:
        return self.count

    def key(self) -> Hashable:
        return ("mutual differences", self.measure, self.count, self.points)

    def gather(
        self, samples: ItemsT, reference: ItemsT | ReferenceStats, context: GatherContext[ItemsT]
    ) -> MutualDifferences:
        """The sum of each text that has samples.

        Raises:
            UsageError: a text has another number of samples, or a sample has too few points.
        """
        items = items_of(reference)

        def read() -> MutualDifferences:
            match = context.match(samples, items)
            texts = np.stack([match.reference_index, match.view_index], axis=1)
            unique, group, counts = np.unique(texts, axis=0, return_inverse=True, return_counts=True)
            if (counts != self.count).any():
                raise UsageError(
                    f"the samples are of {len(unique):,} texts, {counts.min():,} to {counts.max():,} of each, and "
                    f"{self.count} of each are compared",
                    hint=f"evaluate a run with `--samples-per-item {self.count}`",
                )
            clouds = read_clouds(samples, self.points)
            names = items.item_names()
            sums = [mutual_difference(clouds[group.reshape(-1) == text], self.measure) for text in range(len(unique))]
            is_empty = (clouds == clouds[:, :1]).all(axis=(1, 2))
            own_names = tuple(names[item] for item in unique[:, 0])
            return MutualDifferences({self.measure: np.array(sums)}, own_names, len(clouds), int(is_empty.sum()))

        return context.once(self.key(), read)

    def estimate(self, num_samples: int, num_points: int | None, timer: CostTimer[Any]) -> list[Cost]:
        pairs = num_samples * (self.count - 1) // 2
        clouds = np.random.default_rng(0).uniform(-0.5, 0.5, (2, self.points, 3))
        start = time.perf_counter()
        mutual_difference(clouds, self.measure)
        return [(f"{pairs:,} pairs of samples by `{self.measure}`", pairs * (time.perf_counter() - start))]


@dataclass(frozen=True)
class MutualDifferences(ItemValues):
    """A number for each text."""

    num_samples: int
    num_empty: int
    """Samples all of whose points are in one place."""

    def counts(self) -> tuple[int, int]:
        return self.num_samples, len(self.names)

    def num_independent(self) -> int:
        """The texts."""
        return len(self.names)


def mutual_difference(clouds: Float[np.ndarray, "K P 3"], distance: str) -> float:
    """The sum over K clouds of the mean distance to the K - 1 others; their order does not change it."""
    part = distances.find(distance)
    assert part.is_symmetric
    prepared = [part.prepare(cloud.astype(np.float64)) for cloud in clouds]
    total = math.fsum(part.file.distance(one, other) for one, other in combinations(prepared, 2))
    return 2 * total / (len(prepared) - 1)


def read_clouds(items: Items, points: int) -> Float[np.ndarray, "N P 3"]:
    """That many points of each item, the same ones of items of one size; raises UsageError if there are fewer."""
    clouds: list[np.ndarray] = []
    for start in range(0, items.count, BLOCK):
        batch = items.read(range(start, min(start + BLOCK, items.count)))
        clouds += point_clouds.subsample(list(batch.values), points, [0] * len(batch.values), what="samples")
    return np.stack([cloud[:, :3] for cloud in clouds])
