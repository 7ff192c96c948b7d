"""What the evaluation of metrics gathers once and shares: settings, keys of inputs, normalized clouds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Float64

from inrflow_core.evaluation.metric_specs import MetricSpec as Chosen  # part of this file's face, as the next
from inrflow_core.evaluation.metric_specs import check_counts as check_counts
from inrflow_core.evaluation.metric_specs import check_points as check_points
from inrflow_core.geometry import point_clouds
from inrflow_core.metrics._inputs import (
    CloudSpec,
    DistanceSpec,
    FeatureSpec,
    InputSpec,
    MatchedFeatureSpec,
    StructureSpec,
)
from inrflow_core.runtime.progress import Log, TrackProgress, no_progress
from inrflow_core.sample_files.collection import SampleCollection

STATISTICS = "statistics"
"""The folder beside shards in which the features of their pictures are kept."""


@dataclass(frozen=True)
class EvaluationSettings:
    """Where and how to work."""

    folder: Path
    """Kept here: features and distances, so that nothing is made twice."""
    weights: Mapping[str, Path] = field(default_factory=dict)
    """Weights files of feature networks by name."""
    weights_folder: Path | None = None
    """Where the others are looked for; None: `INRFLOW_WEIGHTS`, else `weights`."""
    pictures: SampleCollection | None = None
    """What clouds of the reference look like, by name or place; None for those that the reference holds."""
    points: int | None = None
    """Points of each cloud that count; None: as many as the smaller of samples and reference has."""
    device: str = "cpu"
    workers: int = 1
    watch: TrackProgress = no_progress
    """Given a title and a unit, shows the progress of a piece of work."""
    say: Log | None = None
    """Hears before distances are taken how long that will take."""


def item_noun(domain: str) -> str:
    return "pictures" if domain == "image" else "clouds"


def feature_outputs(metrics: Sequence[Chosen]) -> tuple[str, ...]:
    return tuple(sorted({metric.need.output for metric in metrics if isinstance(metric.need, FeatureSpec)}))


def input_key(need: InputSpec) -> tuple[str, ...]:
    """What needs that are gathered together have in common."""
    if isinstance(need, FeatureSpec):
        return "features", need.network, need.form
    if isinstance(need, DistanceSpec):
        return "distances", need.distance, need.normalisation
    if isinstance(need, MatchedFeatureSpec):
        return ("matches", *input_key(need.clouds), *input_key(need.pictures))
    if isinstance(need, StructureSpec):
        return "structures", need.pairing
    return ("clouds", need.normalisation) if isinstance(need, CloudSpec) else ("pairs",)


BLOCK = 64
"""Clouds that are read together."""


def normalized_clouds(items: SampleCollection, points: int, protocol: str, what: str) -> Float64[np.ndarray, "N P 3"]:
    """All clouds of some items, thinned to so many points each, as a protocol compares them (`point_clouds.normalise`).

    Raises:
        UsageError: a cloud has fewer points, or the protocol needs units that are not known.
        IntegrityError: a cloud is damaged.
    """
    found: list[np.ndarray] = []
    names: list[str] = []
    conditions: dict[str, list[np.ndarray]] = {}
    for start in range(0, items.count, BLOCK):
        places = range(start, min(start + BLOCK, items.count))
        batch = items.read(places)
        found += point_clouds.subsample(list(batch.values), points, places, what=what)
        names += batch.names
        for name, rows in batch.condition.items():
            conditions.setdefault(name, []).append(rows)
    units = point_clouds.SOURCE
    if items.normalisation:
        units = point_clouds.units(
            items.normalisation, {name: np.concatenate(rows) for name, rows in conditions.items()}
        )
    return point_clouds.normalise(point_clouds.stack_checked(found, what=what, names=names), protocol, units, what=what)
