"""Which checkpoint of a run scored best."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from inrflow_core import registry
from inrflow_core.storage import atomic_write, typed_json

BEST = "best.json"
"""The file in a run's folder that records its best checkpoint."""


@dataclass(frozen=True)
class Best:
    """The checkpoint that scored best while a run was trained."""

    step: int
    metric: str
    """Its full name: `fid:random:...`."""
    value: float
    by: str
    """Samples and reference; values are comparable only if these are equal."""


def read_best(folder: Path) -> Best | None:
    """The best checkpoint of the run in `folder`; None if none was evaluated.

    Raises:
        IntegrityError: best.json cannot be read.
    """
    path = folder / BEST
    if not path.exists():
        return None
    best = typed_json.read_record(path, Best, hint="choose one with `--checkpoint STEP`")
    return replace(best, metric=present_metric(best.metric))


def present_metric(full: str) -> str:
    """The full name of a metric, such as `paired-cd:inrflow`; an earlier name of the metric is replaced by the current one."""
    name, colon, protocol = full.partition(":")
    return registry.canonical("metrics", name) + colon + protocol


def record_best(folder: Path, best: Best | None) -> None:
    """Record which checkpoint of the run in `folder` is the best, or that there is none."""
    path = folder / BEST
    if best is None:
        path.unlink(missing_ok=True)
        return
    with atomic_write.atomic_write(path) as beside:
        beside.write_text(json.dumps(asdict(best), indent=1) + "\n", encoding="utf-8")
