"""Features of clouds, of their own references, and of their condition images, row by row."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float32

from inrflow_core.errors import UsageError
from inrflow_core.metrics._inputs import (
    Cost,
    CostTimer,
    FeatureSpec,
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
class MatchedFeatureSpec(InputSpec):
    """Features of clouds and those of the images that each was conditioned on."""

    clouds: FeatureSpec
    images: FeatureSpec

    @property
    def features(self) -> tuple[FeatureSpec, ...]:
        return self.clouds, self.images

    @property
    def matched_by(self) -> MatchedBy:
        return "condition"

    def key(self) -> Hashable:
        return "matched features", self.clouds, self.images

    def gather(self, samples: ItemsT, reference: ItemsT | ReferenceStats, context: GatherContext[ItemsT]) -> Matches:
        """Features of samples, references and images, those of each reference and image computed once."""
        items = items_of(reference)

        def read() -> Matches:
            context.verify(samples)
            context.verify(items)
            if samples.count > context.max_feature_rows:
                raise UsageError(
                    f"{samples.count:,} samples are too many", hint=f"give {context.max_feature_rows:,} at most"
                )
            rows = [context.features(samples, self.clouds, (self.clouds.output,)).select_rows(self.clouds.output)]
            for spec, matched in ((self.clouds, context.matched_clouds), (self.images, context.matched_images)):
                unique, index = matched(samples, items)
                rows.append(context.features(unique, spec, (spec.output,)).select_rows(spec.output)[index])
            return Matches(*rows, names=samples.item_names())

        return context.once(self.key(), read)

    def estimate(self, num_samples: int, num_points: int | None, timer: CostTimer[Any]) -> list[Cost]:
        return [timer.features(spec, num_samples, is_slow=True) for spec in self.features]


@dataclass(frozen=True)
class Matches(MetricInputs):
    """Features of samples, of their reference clouds, and of their condition images, row by row."""

    samples: Float32[np.ndarray, "N F"]
    reference: Float32[np.ndarray, "N F"]
    images: Float32[np.ndarray, "N F"]
    names: Sequence[str] = ()
    """Of the samples."""

    def counts(self) -> tuple[int, int]:
        return len(self.samples), len(self.reference)

    def select_groups(self, groups: Collection[int], num_groups: int) -> Matches:
        """Some groups of the samples."""
        rows = rows_in_groups(len(self.samples), groups, num_groups)
        names = all_of(self.names, rows) if self.names else ()
        return Matches(self.samples[rows], self.reference[rows], self.images[rows], names)
