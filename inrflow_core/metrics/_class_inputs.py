"""Inputs of the accuracy: whether each sample has the class that was requested, by its nearest reference or by a classifier.

The requested class is that of the sample's label, or of the item of the reference whose condition, such as a text, it was drawn
under.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int64

from inrflow_core.errors import UsageError
from inrflow_core.feature_networks._contract import find_extractor
from inrflow_core.metrics._cloud_inputs import DistanceSpec
from inrflow_core.metrics._inputs import (
    Cost,
    CostTimer,
    FeatureSpec,
    GatherContext,
    InputSpec,
    Items,
    ItemsT,
    MetricInputs,
    ReferenceStats,
    items_of,
    rows_in_groups,
)

BLOCK = 64
"""Samples read at once."""


@dataclass(frozen=True)
class NearestClassSpec(DistanceSpec):
    """Whether the nearest reference of each sample has the requested class; an empty sample has none."""

    @property
    def needs_class(self) -> bool:
        return True

    def check(self, reference: Items | ReferenceStats, metric: str, context: GatherContext[Any]) -> None:
        super().check(reference, metric, context)
        items = items_of(reference)
        if not len(items.classes) or (items.labels() < 0).any():
            raise UsageError(
                f"{items.display_name} has items without a class, and `{metric}` takes the class of the nearest one",
                hint="give shards with classes with `--reference`",
            )

    def gather(
        self, samples: ItemsT, reference: ItemsT | ReferenceStats, context: GatherContext[ItemsT]
    ) -> ClassMatches:
        """By the distances that other metrics of this key use.

        Raises:
            UsageError: the class of a sample is not known, or the reference has no item of it.
        """
        items = items_of(reference)
        requested = requested_classes(samples, items, context)
        classes = [items.classes[int(label)] for label in items.labels()]
        absent = sorted(set(requested) - set(classes))
        if absent:
            raise UsageError(
                f"{items.display_name} has no item of the class `{absent[0]}`, which samples were requested to have",
                hint="give a reference with items of all classes",
            )
        spec = self._covering(context.alike)
        distances = context.once(spec, lambda: context.distances(samples, items, spec))
        nearest = class_of_nearest(distances.across, items.labels())
        is_right = np.array([items.classes[int(label)] == name for label, name in zip(nearest, requested, strict=True)])
        is_empty = empty_ones(samples)
        return ClassMatches(is_right & ~is_empty, int(is_empty.sum()), items.count)


@dataclass(frozen=True)
class ClassifierSpec(InputSpec):
    """Whether a classifier of clouds gives each sample the requested class, among all of its classes."""

    network: str
    """The file in `feature_networks/`, with `logits` among its outputs and their `CLASSES`."""
    preprocessing: str

    @property
    def logits(self) -> FeatureSpec:
        """The output of the classifier."""
        return FeatureSpec(self.network, "logits", self.preprocessing, needs_reference=False)

    @property
    def features(self) -> tuple[FeatureSpec, ...]:
        return (self.logits,)

    @property
    def needs_class(self) -> bool:
        return True

    def key(self) -> Hashable:
        return ("classifier", self.network, self.preprocessing)

    def check(self, reference: Items | ReferenceStats, metric: str, context: GatherContext[Any]) -> None:
        super().check(reference, metric, context)
        items = items_of(reference)
        self._numbers(
            [items.classes[int(label)] for label in np.unique(items.labels()) if 0 <= label < len(items.classes)]
        )

    def gather(
        self, samples: ItemsT, reference: ItemsT | ReferenceStats, context: GatherContext[ItemsT]
    ) -> ClassMatches:
        """By the largest logit of each sample.

        Raises:
            UsageError: the class of a sample is not known, or none of the classifier's.
        """
        requested = self._numbers(requested_classes(samples, items_of(reference), context))
        logits = context.features(samples, self.logits, (self.logits.output,)).select_rows(self.logits.output)
        if len(logits) != samples.count:
            raise UsageError(
                f"{samples.count:,} samples are too many", hint=f"give {context.max_feature_rows:,} at most"
            )
        is_empty = empty_ones(samples)
        return ClassMatches((logits.argmax(1) == requested) & ~is_empty, int(is_empty.sum()), 0)

    def estimate(self, num_samples: int, num_points: int | None, timer: CostTimer[Any]) -> list[Cost]:
        return [timer.features(self.logits, num_samples, is_slow=True)]

    def _numbers(self, names: Sequence[str]) -> Int64[np.ndarray, " N"]:
        """The classifier's numbers of classes; raises UsageError for a name that it does not have."""
        known: Sequence[str] = find_extractor(self.network).file.CLASSES
        plain = [name.lower().replace(" ", "_").replace("-", "_") for name in names]
        for name in plain:
            if name not in known:
                raise UsageError(
                    f"`{self.network}` has {len(known)} classes, and `{name}` is none of them",
                    hint="choose the classes of the reference with `--classes`, or `accuracy:nearest-class`, which needs no "
                    f"weights; its classes: {', '.join(known)}",
                )
        return np.array([known.index(name) for name in plain], dtype=np.int64)


@dataclass(frozen=True)
class ClassMatches(MetricInputs):
    """Whether each sample has the requested class."""

    is_right: Bool[np.ndarray, " N"]
    num_empty: int
    """Empty samples; none is right."""
    num_references: int
    """References that the samples were compared with; 0 for a classifier."""

    def counts(self) -> tuple[int, int]:
        return len(self.is_right), self.num_references

    def num_independent(self) -> int:
        """The samples."""
        return len(self.is_right)

    def select_groups(self, groups: Collection[int], num_groups: int) -> ClassMatches:
        """Some groups of the samples."""
        rows = rows_in_groups(len(self.is_right), groups, num_groups)
        return ClassMatches(self.is_right[rows], self.num_empty, self.num_references)


def class_of_nearest(distances: Float[np.ndarray, "N R"], labels: Int64[np.ndarray, " R"]) -> Int64[np.ndarray, " N"]:
    """The label of the nearest of R references of each of N samples; of equally near ones the first."""
    return labels[distances.argmin(1)]


def requested_classes(samples: ItemsT, reference: ItemsT, context: GatherContext[ItemsT]) -> list[str]:
    """The name of the class of each sample: of its label, else of the item of its condition.

    Raises:
        UsageError: a sample has neither, or its class has no name.
    """
    context.verify(samples)
    items, labels = samples, samples.labels()
    if (labels < 0).all():
        items, labels = reference, reference.labels()[context.match(samples, reference).reference_index]
    if (labels >= 0).all() and labels.max() < len(items.classes):
        return [items.classes[int(label)] for label in labels]
    raise UsageError(
        f"the classes of the samples of {samples.display_name} are not known",
        hint="evaluate samples under labels of named classes, or under texts of a reference with classes",
    )


def empty_ones(samples: Items) -> Bool[np.ndarray, " N"]:
    """Which samples have all of their points in one place."""
    starts = range(0, samples.count, BLOCK)
    values = (samples.read(range(start, min(start + BLOCK, samples.count))).values for start in starts)
    return np.concatenate([(clouds == clouds[:, :1]).all(axis=(1, 2)) for clouds in values])
