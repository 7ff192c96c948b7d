"""Train one trial with the functions of `inrflow train`, to its budget, and record its curves."""

from __future__ import annotations

import dataclasses
import json
import math
import time
from pathlib import Path
from typing import Any

from inrflow_cli import console
from inrflow_core.errors import Diverged, Exit, InrflowError, UsageError
from inrflow_core.runtime.progress import format_duration
from inrflow_core.storage import atomic_write, file_lock, typed_json
from inrflow_core.training import setup
from inrflow_core.training.metrics_log import LogRecord
from inrflow_core.training.setup import TrainJob
from tools.recipes.trials import Trial, beside, digest, read_result, write_result

PROBED, WARM = 10, 4
"""Steps that a rate is measured on, after those that warm up."""


class BeyondLimit(InrflowError):
    """A run used more CPU seconds than it may."""

    code = Exit.PARTLY


class Clock:
    """CPU seconds of the training steps of a run, without held-out losses, metrics and start-up, as a file beside the run.

    It receives the trainer's records, and prints held-out losses. A resumed run continues at the seconds of the step that it resumes from.
    """

    def __init__(self, path: Path, step: int, limit: float = math.inf) -> None:
        lines = [line for line in typed_json.json_lines(path) if line["step"] <= step]
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write.atomic_write(path) as partial:
            partial.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="ascii")
        self._path, self._limit = path, limit
        self.seconds = float(lines[-1]["cpu_seconds"]) if lines else 0.0
        self._last = time.process_time()

    def __call__(self, record: LogRecord) -> None:
        """Count the time since the last record if this one is of training steps.

        Raises:
            BeyondLimit: the run is above its limit.
        """
        now = time.process_time()
        if "loss" in record:
            self.seconds += now - self._last
            with self._path.open("a", encoding="ascii") as file:
                file.write(json.dumps({"step": record["step"], "cpu_seconds": self.seconds}) + "\n")
            if self.seconds > self._limit:
                raise BeyondLimit(
                    f"stopped after step {record['step']:,}: {self.seconds:,.0f} CPU seconds are above the limit of {self._limit:,.0f}",
                    hint="raise `--limit`: the run resumes from its last checkpoint",
                )
        elif "held_out_loss" in record:
            loss = record["held_out_loss"]
            console.info(f"step {record['step']:,}, {self.seconds:,.0f} CPU seconds: held-out loss {loss:.4f}")
        self._last = time.process_time()


def run(trial: Trial, out: Path, limit: float) -> dict[str, Any]:
    """The result of a trial: that of an earlier call if it finished, else trained now, from its last checkpoint.

    `limit` is in CPU seconds. A run that is above it, or that diverged, has a result with its `problem`; a higher limit resumes
    the former.
    """
    folder = trial.folder(out)
    file = beside(folder, ".run.json")
    earlier = read_result(file)
    if earlier is not None and not (earlier["problem"] and earlier["limit"] is not None and earlier["limit"] < limit):
        return earlier
    steps, flops = plan_steps(trial, out)
    console.info(f"{steps:,} steps of {flops:.3g} FLOPs")
    job = TrainJob(trial.preset(steps), folder, threads=1)
    problem, ended = None, False
    try:
        train(job, beside(folder, ".clock.jsonl"), limit)
    except (BeyondLimit, Diverged) as error:
        problem, ended = error.message, isinstance(error, Diverged)
        console.warn(f"`{folder.name}`: {problem}")
    result = {
        **{"kind": trial.kind, "recipe": trial.recipe, "seed": trial.seed, "key": trial.key},
        **{"group": trial.group, "paper_group": trial.paper_group, "objective": digest(trial.objective())},
        **{"budget": dataclasses.asdict(trial.budget), "steps": steps, "flops_per_step": flops},
        **{"problem": problem, "limit": None if ended or problem is None else limit},
        **curves(folder, flops),
    }
    write_result(file, result)
    return result


def train(job: TrainJob, clock_file: Path, limit: float = math.inf) -> float:
    """Train as `inrflow train` does; returns the CPU seconds of the steps so far.

    Raises:
        BeyondLimit: they are above the limit.
    """
    ready = setup.check_job(job, {})
    setup.check_resources(ready)
    trainer = setup.build_trainer(ready)
    trainer.report = clock = Clock(clock_file, trainer.counters.step, limit)
    trainer.run(ready.last)
    return clock.seconds


def plan_steps(trial: Trial, out: Path) -> tuple[int, float]:
    """Steps of a trial's budget, so that its schedule ends there, and the FLOPs of each.

    Raises:
        UsageError: the budget is less than a step, or the FLOPs of a step are unknown.
    """
    nowhere = out / trial.kind / f".{trial.recipe}-plan"
    plan = setup.check_job(TrainJob(trial.preset(1, has_curves=False), nowhere, threads=1), {}).plan
    if plan.problem is not None:
        raise UsageError(
            f"the FLOPs of a step of `{trial.recipe}` are unknown: {plan.problem}", hint="leave the recipe out"
        )
    budget, each, unit = trial.budget.flops, plan.total_flops, "FLOPs"
    if budget is None:
        assert trial.budget.cpu_seconds is not None
        budget, each, unit = trial.budget.cpu_seconds, measured_rate(trial, out), "CPU seconds"
    if budget < each:
        raise UsageError(
            f"a budget of {budget:.3g} {unit} is less than one step of `{trial.recipe}` of {trial.kind}, {each:.3g}",
            hint="raise `--flops` or `--cpu-seconds`",
        )
    return int(budget / each), plan.total_flops


def measured_rate(trial: Trial, out: Path) -> float:
    """CPU seconds of a step of a recipe, measured once on a few steps; equal for all its seeds."""
    folder = out / trial.kind / f"{trial.recipe}-rate-{trial.group}"
    file, clock = beside(folder, ".json"), beside(folder, ".clock.jsonl")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with file_lock.lock(beside(folder, ".lock")):
        measured = read_result(file)
        if measured is None:
            job = TrainJob(trial.preset(WARM + PROBED, has_curves=False), folder, threads=1, overwrite=True)
            train(job, clock)
            seconds = {line["step"]: line["cpu_seconds"] for line in typed_json.json_lines(clock)}
            measured = {"cpu_seconds": (seconds[WARM + PROBED] - seconds[WARM]) / PROBED}
            write_result(file, measured)
    rate = float(measured["cpu_seconds"])
    console.info(f"a step of `{trial.recipe}` of {trial.kind} takes {format_duration(rate)} of one CPU")
    return rate


def curves(folder: Path, flops: float) -> dict[str, Any]:
    """The curves of a run from its log and its clock: held-out losses and metrics, each against FLOPs and CPU seconds."""
    seconds = {line["step"]: line["cpu_seconds"] for line in typed_json.json_lines(beside(folder, ".clock.jsonl"))}
    losses, metrics = list[dict[str, float]](), dict[str, list[dict[str, float]]]()
    for record in typed_json.json_lines(folder / "log.jsonl"):
        step = record["step"]
        if step not in seconds:
            continue
        point = {"step": step, "flops": step * flops, "cpu_seconds": seconds[step]}
        if record.get("held_out_loss") is not None:
            losses.append({**point, "value": record["held_out_loss"]})
        for name, value in record.get("eval", {}).items():
            if value is not None:
                metrics.setdefault(name, []).append({**point, "value": value})
    last = max(seconds, default=0)
    return {
        **{"last_step": last, "flops": last * flops, "cpu_seconds": seconds.get(last, 0.0)},
        **{"losses": losses, "metrics": metrics},
    }
