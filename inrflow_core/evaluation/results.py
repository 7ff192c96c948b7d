"""The result of an evaluation: metrics.json, which is the same bytes wherever the same command was run."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from inrflow_core import __version__
from inrflow_core.errors import InrflowError, MissingError
from inrflow_core.evaluation.metric_specs import check_counts as check_counts
from inrflow_core.evaluation.metric_specs import check_points as check_points
from inrflow_core.evaluation.reference_stats import ReferenceStats
from inrflow_core.metrics._inputs import Structures
from inrflow_core.sample_files.collection import SampleCollection
from inrflow_core.storage import atomic_write

FORMAT = "inrflow-metrics-1"
METRICS, REPORT = "metrics.json", "report.html"
INTERVALS = "95 %, delete-a-group jackknife of 10 parts"


@dataclass(frozen=True)
class SampleScores:
    """Samples and their scores."""

    subject: EvaluatedSamples
    scores: Sequence[Score]
    proteins: Structures | None = None
    """Where these are proteins: each of them with its samples."""


@dataclass(frozen=True)
class Results:
    """Everything that was judged by one reference."""

    reference: SampleCollection | ReferenceStats
    judged: Sequence[SampleScores]
    missing: Mapping[str, MissingError]
    """Metrics whose weights are absent, by their full names."""
    failed: Mapping[str, InrflowError] = field(default_factory=dict)
    """Metrics that could not be taken of some of the samples, and why."""

    def notes(self) -> list[str]:
        """What a reader must know beside the numbers, each once."""
        found = [
            f"{score.title} {score.protocol}: {score.note}" for one in self.judged for score in one.scores if score.note
        ]
        return list(dict.fromkeys(found))

    def told(self) -> dict[str, Any]:
        """It as plain JSON: no path, no host, no time of day."""
        return {
            "format": FORMAT,
            "inrflow": __version__,
            "reference": _reference(self.reference),
            "intervals": INTERVALS,
            "results": [
                {
                    "name": one.subject.name,
                    "samples": {"count": one.subject.items.count, "digest": one.subject.items.digest},
                    "facts": {**one.subject.items.metadata, **one.subject.facts},
                    "scores": [dataclasses.asdict(score) for score in one.scores],
                }
                for one in self.judged
            ],
            "missing": list(self.missing),
            "failed": list(self.failed),
        }

    def save(self, folder: Path) -> None:
        """Write metrics.json, whole or not at all."""
        with atomic_write.atomic_write(folder / METRICS) as beside:
            beside.write_text(json.dumps(self.told(), indent=1, allow_nan=False) + "\n", encoding="ascii")


def _reference(reference: SampleCollection | ReferenceStats) -> dict[str, Any]:
    if isinstance(reference, ReferenceStats):
        counts = {moments.count for moments in reference.moments.values()}
        told = {"name": reference.source.name, "digest": reference.digest}
        return {**told, "protocol": f"{reference.network}:{reference.form}", "count": next(iter(counts))}
    told = {"name": reference.name, "digest": reference.digest}
    return {**told, "domain": reference.domain, "split": reference.split, "count": reference.count}


@dataclass(frozen=True)
class EvaluatedSamples:
    """What is judged: samples, and what is known of them."""

    name: str
    items: SampleCollection
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Score:
    """A metric's value, and what it rests on."""

    metric: str
    """Its full name: `mmd:emd-exact:inrflow`."""
    title: str
    """Its name in the papers."""
    protocol: str
    value: float
    unit: str
    higher_is_better: bool
    interval: tuple[float, float] | None
    """95 % confidence; None where there are too few items for one."""
    samples: int
    """Those that the value rests on: of very many pictures not all (`feature_cache.MAX_STORED_ROWS`)."""
    reference: int | None
    """The same of the reference; None where it is not looked at, or a file of statistics does not say it."""
    features: str | None
    """The network and the form of the features that it was taken of, as `random:v1`; of two networks both."""
    weights: str | None
    """sha256 of the feature network's weights; of two networks both."""
    note: str | None
    """What a reader must know beside the protocol."""
