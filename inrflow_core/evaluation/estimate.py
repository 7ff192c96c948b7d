"""Estimate the time of an evaluation: features and distances of a few items are timed."""

from __future__ import annotations

import time
from collections.abc import Collection, Hashable, Sequence

import numpy as np

from inrflow_core.distances import _contract as distance_contract
from inrflow_core.domains._contract import domain_class
from inrflow_core.evaluation import distance_matrix, pairwise_distances
from inrflow_core.evaluation.gather import Gatherer, normalized_clouds
from inrflow_core.evaluation.metric_specs import MetricSpec
from inrflow_core.feature_networks import _contract
from inrflow_core.geometry import point_clouds
from inrflow_core.metrics._cloud_inputs import DistanceSpec
from inrflow_core.metrics._inputs import (
    Cost,
    CostTimer,
    FeatureSpec,
    InputSpec,
    MeasureOfPairs,
    ReferenceStats,
    items_of,
)
from inrflow_core.sample_files import scene_views
from inrflow_core.sample_files.collection import SampleCollection

TRIALS = 16
"""Number of timed images."""
IMAGE_AXES = 3
FEW = 2
"""Number of timed clouds and clips, and of timed images that clouds are conditioned on: each takes seconds."""


def estimate_cost(
    context: Gatherer,
    reference: SampleCollection | ReferenceStats,
    metrics: Sequence[MetricSpec],
    num_samples: int,
    num_points: int | None = None,
) -> list[Cost]:
    """The tasks of gathering inputs for `num_samples` samples, each with its seconds.

    `num_points` is the number of points of each cloud; None: as in the reference.
    """
    by_key: dict[Hashable, list[InputSpec]] = {}
    for metric in metrics:
        by_key.setdefault(metric.inputs.key(), []).append(metric.inputs)
    costs = []
    for alike in by_key.values():
        costs += alike[-1].estimate(num_samples, num_points, Timer(context, reference, alike))
    return costs


class Timer(CostTimer[SampleCollection]):
    """Times the features and distances of a few reference items."""

    def __init__(
        self, context: Gatherer, reference: SampleCollection | ReferenceStats, alike: Collection[InputSpec]
    ) -> None:
        self.context, self.reference, self.alike = context, reference, alike

    def features(self, spec: FeatureSpec, num_samples: int, *, is_slow: bool = False) -> Cost:
        extractor = self.context.extractor(spec.network)
        part = _contract.find_extractor(spec.network)
        few = FEW if is_slow or _axes_of(part) != IMAGE_AXES else TRIALS
        count, items = num_samples, np.zeros((few, *_shape_of(self.reference, part)), dtype=np.uint8)
        if not isinstance(self.reference, ReferenceStats) and self.reference.domain == part.domain:
            items = self.reference.read(range(min(few, self.reference.count))).values
            is_cached = self.context.feature_cache(self.reference, spec, (spec.output,)).is_done()
            count += 0 if is_cached else self.reference.count
        extractor(items[:1], part.outputs, spec.preprocessing)
        start = time.perf_counter()
        extractor(items, part.outputs, spec.preprocessing)
        seconds = (time.perf_counter() - start) / len(items)
        return f"{spec.protocol} features of {count:,} {domain_class(part.domain).NOUN}", seconds * count

    def distances(self, spec: DistanceSpec, num_samples: int, num_points: int | None) -> Cost:
        reference, settings = items_of(self.reference), self.context.settings
        whole = reference.shape[0]
        points = settings.points or min(num_points or whole, whole)
        clouds = normalized_clouds(reference, points, point_clouds.BOX, "references")
        count = len(clouds)
        total = num_samples * count
        if spec.is_within:
            once = 2 if distance_contract.find(spec.distance).is_symmetric else 1
            total += (num_samples * (num_samples - 1) + count * (count - 1)) // once
        job = distance_matrix.PairwiseJob(None, settings.workers, settings.device)
        cost = pairwise_distances.estimate_cost(clouds, clouds, spec, job, pairs=total)
        return str(cost), cost.seconds

    def views(self, measure: MeasureOfPairs, num_samples: int) -> Cost:
        reference = items_of(self.reference)
        counts = scene_views.view_counts(reference)
        first = np.zeros(FEW, dtype=np.int64)
        images = scene_views.read_views(reference, first, first)
        start = time.perf_counter()
        measure(images, images)
        seconds = (time.perf_counter() - start) / FEW
        total = int(counts.sum()) * num_samples // len(counts)
        return f"comparisons of {total:,} views", seconds * total


def _shape_of(reference: SampleCollection | ReferenceStats, part: _contract.ExtractorPart) -> tuple[int, ...]:
    """The shape of a timed item: that which statistics record, else a small one."""
    if isinstance(reference, ReferenceStats) and reference.shape is not None:
        return reference.shape
    return (64, 64, 3) if _axes_of(part) == IMAGE_AXES else (part.num_frames or 16, 64, 64, 3)


def _axes_of(part: _contract.ExtractorPart) -> int:
    """Axes of one input: 2 of a cloud, 3 of an image, 4 of a clip."""
    files = domain_class(part.domain).FILES
    return IMAGE_AXES if files is None else files.ndim - 1
