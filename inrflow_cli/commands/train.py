"""Train a preset: start a run, or resume it."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from inrflow_cli import console, options
from inrflow_cli.options import DryRun, Json, Overwrite
from inrflow_core.errors import Exit, Interrupted
from inrflow_core.runtime.progress import format_bytes, format_duration

if TYPE_CHECKING:
    from inrflow_core.training.metrics_log import LogRecord
    from inrflow_core.training.setup import CheckedTrainJob, TrainJob
    from inrflow_core.training.time_estimate import StepProgress
    from inrflow_core.training.trainer import Trainer

Data = Annotated[Path | None, typer.Option(help="Folder of shards, instead of the preset's.", show_default=False)]
Out = Annotated[Path | None, typer.Option(help="The run's folder. Default: `runs/PRESET`.", show_default=False)]
InitFrom = Annotated[
    Path | None,
    typer.Option(help="Start from the weights of this run or .safetensors file.", show_default=False),
]
Precision = Annotated[
    str | None,
    typer.Option(metavar="auto|fp32|bf16", help="Precision of training; `auto` is bf16 if the hardware supports it."),
]
StopAtStep = Annotated[
    int | None, typer.Option("--stop-at-step", min=1, help="Stop after this step; rerun to continue.")
]
NoVerify = Annotated[bool, typer.Option("--no-verify", help="Skip the checksum verification of the shards.")]
Yes = Annotated[bool, typer.Option("--yes", help="Train although it takes more than three days on this CPU.")]
PlanFor = Annotated[
    str | None,
    typer.Option(
        "--plan-for",
        metavar="GPU",
        help="Only estimate memory and time, for this GPU model (h200, h100, a100, ...) or memory=64,bf16=400.",
    ),
]
Processes = Annotated[
    int | None, typer.Option(min=1, help="Only estimate, for this number of processes with one GPU each.")
]


def train(
    preset: options.PresetName,
    data: Data = None,
    out: Out = None,
    override: options.Set = None,
    init_from: InitFrom = None,
    device: options.Device = None,
    precision: Precision = None,
    threads: options.Threads = None,
    stop_at_step: StopAtStep = None,
    no_verify: NoVerify = False,
    yes: Yes = False,
    dry_run: DryRun = False,
    plan_for: PlanFor = None,
    processes: Processes = None,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Train a preset. Run the same command again to resume.

    Runs on one CPU or GPU, or on several GPUs under `torchrun --nproc-per-node N --no-python inrflow train ...`,
    `deepspeed --no_local_rank --module inrflow_cli.app train ...` or `srun inrflow train ...`. Ctrl-C finishes the step,
    saves, and exits with code 130.
    """
    from inrflow_core.runs import run
    from inrflow_core.training import preset_for_data, setup

    overrides = list(override or ()) + ([f"training.precision={precision}"] if precision else [])
    resolved = preset_for_data.load(preset, overrides, data, log=console.info)
    job = setup.TrainJob(
        resolved,
        out if out is not None else run.runs_dir() / resolved.name,
        data=data,
        device=device,
        threads=threads,
        init_from=init_from,
        until=stop_at_step,
        overwrite=overwrite,
        check_data=not no_verify,
        say=console.info,
        announce=console.announce,
    )
    if dry_run or plan_for is not None or processes is not None:
        from inrflow_cli.views import plan
        from inrflow_core.planning.memory_trace import without_collections

        named = {"--data": data, "--out": out, "--init-from": init_from, "--precision": precision, "--threads": threads}
        named |= {"--device": None if plan_for else device}
        command = ["inrflow", "train", "--preset", str(preset)]
        command += [word for name, value in named.items() if value is not None for word in (name, str(value))]
        command += [word for setting in override or () for word in ("--set", setting)]
        with console.announce("estimating: a step is traced, and a matrix product timed"), without_collections():
            plan.predict(job, plan_for, processes, command=command, as_json=json)
    else:
        _train(job, is_accepted=yes, as_json=json)


def _train(job: TrainJob, *, is_accepted: bool, as_json: bool) -> None:
    from inrflow_core.runtime import process_group
    from inrflow_core.training import setup

    with console.announce("checking the shards, memory and disk"):
        ready = setup.check_job(job, dict(os.environ))
        setup.check_resources(ready)
    if ready.world.is_main:
        _estimate_time(ready, is_accepted=is_accepted)
    step = ready.existing_run.step if ready.existing_run else None
    with setup.explain_out_of_memory(ready, step), console.announce("building the network and its optimizers"):
        trainer = setup.build_trainer(ready)
    try:
        with setup.explain_out_of_memory(ready, trainer), _shown(trainer, ready):
            trainer.run(ready.last)
    except Interrupted as error:
        if not ready.world.is_launched:
            raise
        if ready.world.is_main:
            console.error(error, as_json=as_json)
        process_group.exit_process(ready.world, Exit.INTERRUPTED)
    if ready.world.is_main:
        counters = trainer.counters
        console.info(f"step {counters.step:,} of {trainer.total_steps:,} is saved in `{trainer.out}`")
        name = shlex.quote(str(trainer.out))
        console.info(f"look at it with `inrflow view {name}`, score it with `inrflow eval --run {name} --out results`")
        console.print_json({"out": str(trainer.out), **vars(counters)}, as_json=as_json)
    process_group.exit_process(ready.world, Exit.DONE)


def _estimate_time(ready: CheckedTrainJob, *, is_accepted: bool) -> None:
    """Print how long the remaining steps take by the plan; on a CPU, days of it need `--yes`."""
    from inrflow_core.planning import checks
    from inrflow_core.training import time_estimate

    counts = time_estimate.remaining_steps(ready.stages, ready.done, ready.last)
    rate = cache(lambda precision: checks.measure_rate(ready.world.device, precision))
    seconds = time_estimate.seconds_by_plan(ready.stages, counts, rate, ready.precision, ready.world.size)
    if not sum(counts) or seconds is None:
        return
    time_estimate.check_time(seconds, sum(counts), ready.world, is_accepted=is_accepted)
    console.info(
        f"estimate by the plan: {sum(counts):,} steps take at least {format_duration(seconds)}, at the "
        f"{rate(ready.precision) / 1e9:,.0f} GFLOP/s of a matrix product; the first step says more"
    )


@contextmanager
def _shown(trainer: Trainer, ready: CheckedTrainJob) -> Iterator[None]:
    """Progress on stderr while the leading process trains."""
    if not ready.world.is_main:
        yield
        return
    from inrflow_core.training import time_estimate

    first = trainer.counters.step
    title = "training" if first == 0 else f"training from step {first:,}"

    def seconds_left(step: int, seconds_per_step: float) -> float:
        counts = time_estimate.remaining_steps(ready.stages, step, ready.last)
        return time_estimate.seconds_by_steps(ready.stages, counts, trainer.counters.stage, seconds_per_step)

    with console.progress(ready.last - first, "steps", title=title) as progress:

        def advance(step: int, seconds_per_step: float, note: str) -> None:
            left = seconds_left(step, seconds_per_step)
            progress.advance(step - first - progress.done, note=note, rate=1 / seconds_per_step, seconds_left=left)

        def report(record: LogRecord) -> None:
            if "loss" not in record:  # rare, and of more interest than a line of progress, which the next one replaces
                console.info(f"step {record['step']:,}: {_line(record)}")
                return
            advance(record["step"], trainer.settings.batch / record["samples_per_second"], _line(record))

        def report_between(state: StepProgress) -> None:
            if state.step == first + 1 and state.step < ready.last:
                left = format_duration(seconds_left(state.step, state.seconds_per_step))
                took = format_duration(state.seconds_per_step)
                console.info(
                    f"step {state.step:,}: loss {state.loss:.4f}; it took {took}, at this rate {left} are left"
                )
            advance(state.step, state.seconds_per_step, f"loss {state.loss:.4f}")

        trainer.report, trainer.progress = report, report_between
        yield


def _line(record: LogRecord) -> str:
    """A log record as one line."""
    if "held_out_loss" in record:
        return f"held-out loss {record['held_out_loss']:.4f} ({record['held_out_of']})"
    if "eval" in record:
        return _scores(record)
    words = [
        f"loss {record['loss']:.4f}",
        f"gradient {record['gradient_norm']:.3g}",
        f"{record['samples_per_second']:.3g} samples/s",
        f"{record['samples_seen']:,} seen",
        f"{record['flops']:.3g} FLOP",
        f"{record['data_wait']:.1%} waiting for data",
        format_bytes(record["memory"]),
    ]
    if "stage" in record:
        words.append(f"stage `{record['stage']}`")
    if record["skipped"]:
        words.append(f"{record['skipped']} steps skipped")
    return ", ".join(words)


def _scores(record: LogRecord) -> str:
    """Scores of an evaluation as one line."""
    words = [f"{name} {'-' if value is None else f'{value:.4g}'}" for name, value in record["eval"].items()]
    if record["best_step"] is not None:
        words.append("the best so far" if record["best_step"] == record["step"] else f"best at {record['best_step']:,}")
    if "note" in record:
        words.append(record["note"])
    return ", ".join(words)
