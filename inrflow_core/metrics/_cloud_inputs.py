"""Inputs of the metrics of point clouds: the clouds themselves, and distances between them."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from jaxtyping import Float, Float64, Int64

from inrflow_core.metrics._inputs import (
    Cost,
    CostTimer,
    GatherContext,
    InputSpec,
    ItemsT,
    MatchedBy,
    MetricInputs,
    ReferenceStats,
    all_of,
    items_of,
    rows_in_groups,
)


@dataclass(frozen=True)
class CloudSpec(InputSpec):
    """The clouds themselves."""

    normalization: str
    """As in `DistanceSpec`."""

    def key(self) -> Hashable:
        return "clouds", self.normalization

    def gather(self, samples: ItemsT, reference: ItemsT | ReferenceStats, context: GatherContext[ItemsT]) -> Clouds:
        items = items_of(reference)
        return context.once(self.key(), lambda: Clouds(*context.clouds(samples, items, self.normalization)))


@dataclass(frozen=True)
class Clouds(MetricInputs):
    """Clouds of equally many points."""

    samples: Float[np.ndarray, "N P 3"]
    reference: Float[np.ndarray, "R P 3"]

    def counts(self) -> tuple[int, int]:
        return len(self.samples), len(self.reference)

    def select_groups(self, groups: Collection[int], num_groups: int) -> Clouds:
        """Some groups of both sides."""
        sides = self.samples, self.reference
        return Clouds(*(clouds[rows_in_groups(len(clouds), groups, num_groups)] for clouds in sides))


@dataclass(frozen=True)
class DistanceSpec(InputSpec):
    """Distances between clouds."""

    distance: str
    """The file in `distances/`."""
    normalization: str
    """How clouds are normalized: `inrflow`, `lion-global`, `pointflow` or `ddmi` (`point_clouds.normalize`)."""
    is_within: bool = False
    """Also distances within the samples and within the reference."""
    is_paired: bool = False
    """Also each sample's own reference (`sample_matching.match_to_reference`)."""

    @property
    def matched_by(self) -> MatchedBy:
        return "condition" if self.is_paired else ""

    def key(self) -> Hashable:
        return "distances", self.distance, self.normalization

    def gather(
        self, samples: ItemsT, reference: ItemsT | ReferenceStats, context: GatherContext[ItemsT]
    ) -> MetricInputs:
        """`Distances`: all that metrics of this key need; own references for a spec with `is_paired` alone."""
        items, spec = items_of(reference), self._covering(context.alike)
        distances = context.once(spec, lambda: context.distances(samples, items, spec))
        return (
            replace(distances, own_reference=context.match(samples, items).reference_index, names=samples.item_names())
            if self.is_paired
            else distances
        )

    def estimate(self, num_samples: int, num_points: int | None, timer: CostTimer[Any]) -> list[Cost]:
        return [timer.distances(self._covering(timer.alike), num_samples, num_points)]

    def _covering(self, specs: Any) -> DistanceSpec:
        """The spec of the distances that all `specs` of this key need."""
        return DistanceSpec(self.distance, self.normalization, is_within=any(spec.is_within for spec in specs))


@dataclass(frozen=True)
class Distances(MetricInputs):
    """Distances between samples and reference, and within each if a metric needs them; the diagonals are 0."""

    across: Float64[np.ndarray, "N R"]
    among_samples: Float64[np.ndarray, "N N"] | None = None
    among_reference: Float64[np.ndarray, "R R"] | None = None
    own_reference: Int64[np.ndarray, " N"] | None = None
    """Each sample's own reference, if the spec has `is_paired`."""
    names: Sequence[str] = field(default=(), kw_only=True)
    """Of the samples, if the spec has `is_paired`."""

    def counts(self) -> tuple[int, int]:
        samples, references = self.across.shape
        return samples, references

    def select_groups(self, groups: Collection[int], num_groups: int) -> Distances:
        """Some groups of both sides; of the samples alone if each has its own reference."""
        if self.own_reference is not None:
            rows = rows_in_groups(len(self.across), groups, num_groups)
            names = all_of(self.names, rows) if self.names else ()
            return Distances(self.across[rows], own_reference=self.own_reference[rows], names=names)
        rows, columns = (rows_in_groups(count, groups, num_groups) for count in self.across.shape)
        return Distances(
            self.across[np.ix_(rows, columns)],
            None if self.among_samples is None else self.among_samples[np.ix_(rows, rows)],
            None if self.among_reference is None else self.among_reference[np.ix_(columns, columns)],
        )
