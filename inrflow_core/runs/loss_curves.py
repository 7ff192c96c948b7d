"""Training curves of runs, from their logs."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence

from inrflow_core.errors import MissingError
from inrflow_core.runs.run import Run
from inrflow_core.storage import typed_json

Curve = tuple[list[float], list[float]]
"""Steps, and a value at each."""
LOSS, HELD_OUT = "loss", "held-out loss"
POINTS = 100
"""Points of a loss: each is the mean over an equal part of the log, which is noisy."""


def loss_curves(run: Run) -> dict[str, Curve]:
    """The loss and the held-out loss of a run by name, of a method with several stages of each stage; without those that the log lacks.

    Raises:
        IntegrityError: the log is not a plain file, or has a line that is too long.
    """
    losses: defaultdict[str, list[tuple[float, float]]] = defaultdict(list)
    held_out: defaultdict[str, list[tuple[float, float]]] = defaultdict(list)
    for record in typed_json.json_lines(run.folder / "log.jsonl"):
        stage = f"{record['stage']}: " if "stage" in record else ""
        for key, found in (("loss", losses), ("held_out_loss", held_out)):
            values = record.get("step"), record.get(key)
            if all(isinstance(value, int | float) and math.isfinite(value) for value in values):
                found[stage].append(values)  # pyright: ignore[reportArgumentType]
    return {
        f"{stage}{name}": _curve(points, most)
        for stage in dict.fromkeys([*losses, *held_out])
        for name, points, most in ((LOSS, losses[stage], POINTS), (HELD_OUT, held_out[stage], len(held_out[stage])))
        if points
    }


def curves_of_runs(runs: Sequence[Run]) -> dict[str, Curve]:
    """The curves of runs, of several runs with the run's name in front.

    Raises:
        MissingError: no run has a log with losses.
        IntegrityError: as `loss_curves`.
    """
    curves = {
        f"{run.name}, {name}" if len(runs) > 1 else name: curve
        for run in runs
        for name, curve in loss_curves(run).items()
    }
    if not curves:
        raise MissingError("no run has a log with losses", hint="`inrflow train` writes one: log.jsonl in the run")
    return curves


def _curve(points: Sequence[tuple[float, float]], most: int) -> Curve:
    """At most `most` points: the last step and the mean value of equal parts of the given ones."""
    each = math.ceil(len(points) / most)
    parts = [points[start : start + each] for start in range(0, len(points), each)]
    return [part[-1][0] for part in parts], [math.fsum(value for _, value in part) / len(part) for part in parts]
