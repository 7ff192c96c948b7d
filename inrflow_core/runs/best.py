"""Which checkpoint of a run scored best."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from inrflow_core import registry
from inrflow_core.storage import atomic_write, typed_json

BEST = "best.json"
"""Of a run: which checkpoint scored best while it was trained."""


@dataclass(frozen=True)
class Best:
    """The checkpoint that scored best while a run was trained."""

    step: int
    metric: str
    """Its full name: `fid:random:...`."""
    value: float
    by: str
    """On which samples, against which reference: values by other words cannot be compared."""


def read_best(folder: Path) -> Best | None:
    """The best checkpoint of the run in `folder`; None where none was scored.

    Raises:
        IntegrityError: the record of it cannot be read.
    """
    path = folder / BEST
    if not path.exists():
        return None
    best = typed_json.read_record(path, Best, hint="choose one with `--checkpoint STEP`")
    return replace(best, metric=present_metric(best.metric))


def present_metric(full: str) -> str:
    """The full name of a metric, `paired-cd:inrflow`, where `full` may hold the metric's earlier name."""
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
