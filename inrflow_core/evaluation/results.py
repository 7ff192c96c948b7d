"""The result of an evaluation: metrics.json, with the same bytes after the same command on any machine."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from inrflow_core import __version__
from inrflow_core.errors import InrflowError, MissingError
from inrflow_core.evaluation.metric_specs import MetricSpec
from inrflow_core.metrics._inputs import MatchedBy, ReferenceStats
from inrflow_core.metrics._protein_inputs import Structures
from inrflow_core.sample_files.collection import SampleCollection
from inrflow_core.storage import atomic_write, plain_file

FORMAT = "inrflow-metrics-1"
METRICS, REPORT = "metrics.json", "report.html"
INTERVALS = (
    "95 %: delete-a-group jackknife of 10 groups, up to 1.4 times too wide for Frechet distances of nearly equal "
    "distributions; half samples of 12 groups for 1-NNA, COV, precision and recall (measured coverage 92 to 96 %)"
)


def is_own(path: Path) -> bool:
    """Whether a file begins as metrics.json and report.html of this program do: both name it there."""
    with plain_file.open_plain_file(path) as file:
        start = file.read(1000)
    return any(mark in start for mark in (b'"format": "inrflow-metrics', b"<title>Evaluation of "))


@dataclass(frozen=True)
class SampleScores:
    """Samples and their scores."""

    sample_set: EvaluatedSamples
    scores: Sequence[Score]
    proteins: Structures | None = None
    """For samples of proteins: each protein with its samples."""
    scenes: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """For views of scenes: by metric and scene, the mean over the scene's views."""
    items: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """By metric of single items and the item's name, its value."""


@dataclass(frozen=True)
class Results:
    """Scores of all samples against one reference."""

    reference: SampleCollection | ReferenceStats
    scored: Sequence[SampleScores]
    skipped_metrics: Mapping[str, MissingError]
    """Metrics whose weights are absent, by their full names."""
    failed: Mapping[str, InrflowError] = field(default_factory=dict)
    """Metrics that could not be computed for some of the samples, with the error."""

    def to_json(self) -> dict[str, Any]:
        """The results as plain JSON: no path, no host, no time of day."""
        return {
            "format": FORMAT,
            "inrflow": __version__,
            "reference": reference_facts(self.reference),
            "intervals": INTERVALS,
            "results": [
                {
                    "name": one.sample_set.name,
                    "samples": {"count": one.sample_set.items.count, "digest": one.sample_set.items.digest},
                    "facts": {**one.sample_set.items.metadata, **one.sample_set.facts},
                    "scores": [dataclasses.asdict(score) for score in one.scores],
                    **({"scenes": one.scenes} if one.scenes else {}),
                    **({"items": one.items} if one.items else {}),
                }
                for one in self.scored
            ],
            "missing": list(self.skipped_metrics),
            "failed": list(self.failed),
        }

    def save(self, folder: Path) -> None:
        """Write metrics.json, whole or not at all."""
        with atomic_write.atomic_write(folder / METRICS) as beside:
            beside.write_text(json.dumps(self.to_json(), indent=1, allow_nan=False) + "\n", encoding="ascii")


@dataclass(frozen=True)
class StoredSamples:
    """What metrics.json says of samples that were evaluated."""

    name: str
    facts: Mapping[str, Any]
    speed: float | None = None
    """As of `EvaluatedSamples`."""


@dataclass(frozen=True)
class StoredScores:
    """Samples that were evaluated, and their scores in metrics.json."""

    sample_set: StoredSamples
    scores: Sequence[Score]


@dataclass(frozen=True)
class StoredResults:
    """The results that metrics.json holds."""

    table: Mapping[str, Any]
    """Everything in it."""
    scored: Sequence[StoredScores]
    skipped_metrics: Mapping[str, MissingError]
    """As of `Results`."""
    failed: Mapping[str, InrflowError] = field(default_factory=dict)
    """Empty: where a metric failed, the evaluation is not finished."""

    def to_json(self) -> dict[str, Any]:
        """As of `Results`."""
        return dict(self.table)


def remarks(scored: Sequence[SampleScores] | Sequence[StoredScores]) -> list[str]:
    """Remarks on the values, each once."""
    texts = [f"{score.title} {score.protocol}: {score.note}" for one in scored for score in one.scores if score.note]
    counts = {one.sample_set.name: max((score.samples for score in one.scores), default=0) for one in scored}
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"{count:,} of {name}" for name, count in counts.items())
        texts.append(f"different numbers of samples, which change most metrics: {listed}")
    return list(dict.fromkeys(texts))


def reference_facts(reference: SampleCollection | ReferenceStats) -> dict[str, Any]:
    """The reference as metrics.json names it: its name, digest and number of items."""
    if isinstance(reference, ReferenceStats):
        counts = {moments.count for moments in reference.moments.values()}
        named = {"name": reference.source.name, "digest": reference.digest}
        return {**named, "protocol": f"{reference.network}:{reference.preprocessing}", "count": next(iter(counts))}
    named = {"name": reference.name, "digest": reference.digest}
    return {**named, "domain": reference.domain, "split": reference.split, "count": reference.count}


@dataclass(frozen=True)
class EvaluatedSamples:
    """Samples under evaluation, and their metadata."""

    name: str
    items: SampleCollection
    facts: Mapping[str, Any] = field(default_factory=dict)
    matched_by: MatchedBy | None = None
    """Only metrics whose samples find their references so are computed; None computes all but those of reconstructions and meshes."""
    originals: SampleCollection | None = None
    """What reconstructions are compared with, in place of the reference."""
    speed: float | None = None
    """Samples per second of a run in one process; None where nothing was sampled, or by several."""

    def has(self, metric: MetricSpec) -> bool:
        """Whether a metric is computed of these samples."""
        if self.matched_by is None:
            return metric.inputs.matched_by not in ("reconstruction", "mesh")
        return metric.inputs.matched_by == self.matched_by


@dataclass(frozen=True)
class Score:
    """A metric's value, with its protocol, interval and counts."""

    metric: str
    """Its full name: `mmd:emd-exact:inrflow`."""
    title: str
    """Its name in the papers."""
    protocol: str
    value: float
    unit: str
    higher_is_better: bool
    interval: tuple[float, float] | None
    """95 % confidence; None for too few items."""
    samples: int
    """Samples used for the value: at most `feature_cache.MAX_STORED_ROWS` images for some metrics."""
    reference: int | None
    """Reference items used for the value; None if none are, or if a file of statistics does not record their number."""
    features: str | None
    """Network and preprocessing of its features, as `random:v1`; both if there are two networks."""
    weights: str | None
    """sha256 of the feature network's weights; both if there are two networks."""
    note: str | None
    """A remark on the value."""
