"""How long a run takes: by its plan before the first step, and by its own steps afterwards."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from inrflow_core.errors import UsageError
from inrflow_core.planning import checks
from inrflow_core.runtime.distributed import World
from inrflow_core.runtime.progress import format_duration
from inrflow_core.training.stages import StageJob

LONG_ON_CPU = 3 * 86_400.0
"""Seconds from which a training on a CPU needs the user's consent."""
REPORT_EVERY = 20.0
"""Seconds after which progress is reported between two lines of the log."""


@dataclass(frozen=True)
class StepProgress:
    """Progress between two lines of the log."""

    step: int
    loss: float
    """Mean of this process since the last line of the log."""
    seconds_per_step: float
    """Mean since then, without evaluations, previews and checkpoints."""


def remaining_steps(jobs: Sequence[StageJob], first: int, last: int) -> list[int]:
    """The steps of each stage that a call trains that resumes after step `first` of the run and ends after step `last`."""
    counts, start = [], 0
    for job in jobs:
        end = start + job.settings.steps
        counts.append(max(0, min(end, last) - max(start, first)))
        start = end
    return counts


def seconds_by_plan(
    jobs: Sequence[StageJob], counts: Sequence[int], rate: Callable[[str], float], precision: str, processes: int
) -> float | None:
    """Seconds of `counts` steps of each stage at `rate` FLOPs per second in a precision; None if a stage's FLOPs are unknown.

    It is a lower bound: real steps also wait for memory and data.
    """
    total = 0.0
    for job, count in zip(jobs, counts, strict=True):
        if count and job.plan.problem is not None:
            return None
        total += count * checks.step_seconds(job.plan, rate, precision, processes) if count else 0.0
    return total


def seconds_by_steps(jobs: Sequence[StageJob], counts: Sequence[int], current: int, seconds_per_step: float) -> float:
    """Seconds of `counts` steps of each stage from the time of a step of stage `current`, by the FLOPs of the others' plans."""
    costs = [sum(job.plan.executed.values()) for job in jobs]
    ratios = [cost / costs[current] if cost and costs[current] else 1.0 for cost in costs]
    return seconds_per_step * sum(count * ratio for count, ratio in zip(counts, ratios, strict=True))


def check_time(seconds: float | None, num_steps: int, world: World, *, is_accepted: bool) -> None:
    """Raise UsageError if a CPU needs more than `LONG_ON_CPU` seconds for the remaining steps, unless the user accepts it.

    Raises:
        UsageError: it needs longer; the hint says what helps.
    """
    if is_accepted or seconds is None or seconds <= LONG_ON_CPU or world.device.type != "cpu":
        return
    raise UsageError(
        f"on this CPU {num_steps:,} steps take at least {format_duration(seconds)}, by the plan and a measured matrix product",
        hint="`--yes` trains all the same; else take a smaller preset (`inrflow presets`) or fewer steps "
        "(`--set training.steps=...`), or train on GPUs: `--dry-run --plan-for h200 --processes 8` plans for them",
    )
