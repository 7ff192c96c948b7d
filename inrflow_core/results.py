"""The result of an evaluation: metrics.json, which is the same bytes wherever the same command was run."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from inrflow_core import __version__, outputs
from inrflow_core.errors import InrflowError, MissingError
from inrflow_core.evaluate import Score, Subject
from inrflow_core.evidence import Structures
from inrflow_core.items import Items
from inrflow_core.statistics_files import Statistics

FORMAT = "inrflow-metrics-1"
METRICS, REPORT = "metrics.json", "report.html"
INTERVALS = "95 %, delete-a-group jackknife of 10 parts"


@dataclass(frozen=True)
class Judged:
    """Samples and their scores."""

    subject: Subject
    scores: Sequence[Score]
    proteins: Structures | None = None
    """Where these are proteins: each of them with its samples."""


@dataclass(frozen=True)
class Results:
    """Everything that was judged by one reference."""

    reference: Items | Statistics
    judged: Sequence[Judged]
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
                    "facts": {**one.subject.items.facts, **one.subject.facts},
                    "scores": [dataclasses.asdict(score) for score in one.scores],
                }
                for one in self.judged
            ],
            "missing": list(self.missing),
            "failed": list(self.failed),
        }

    def save(self, folder: Path) -> None:
        """Write metrics.json, whole or not at all."""
        with outputs.written(folder / METRICS) as beside:
            beside.write_text(json.dumps(self.told(), indent=1, allow_nan=False) + "\n", encoding="ascii")


def _reference(reference: Items | Statistics) -> dict[str, Any]:
    if isinstance(reference, Statistics):
        counts = {moments.count for moments in reference.moments.values()}
        told = {"name": reference.source.name, "digest": reference.digest}
        return {**told, "protocol": f"{reference.network}:{reference.form}", "count": next(iter(counts))}
    told = {"name": reference.name, "digest": reference.digest}
    return {**told, "domain": reference.domain, "split": reference.split, "count": reference.count}
