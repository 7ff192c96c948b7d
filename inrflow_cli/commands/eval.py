"""Evaluate samples: metrics under named protocols, with confidence intervals."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from inrflow_cli import console, options
from inrflow_cli.model_options import Ema, GuideRun, guide_weights
from inrflow_cli.options import (
    DryRun,
    Json,
    Overwrite,
    parse_checkpoints,
    parse_interval,
    parse_metric_names,
    parse_settings,
    parse_view,
    reject_options,
)
from inrflow_core.errors import Exit, MissingError, UsageError
from inrflow_core.runtime.progress import format_duration

if TYPE_CHECKING:
    from inrflow_core.evaluation.job import CheckedEvaluationJob, EvaluationJob
    from inrflow_core.evaluation.results import Results, StoredResults
    from inrflow_core.evaluation.sweep import Sweep

Runs = Annotated[
    list[Path] | None,
    typer.Option(
        "--run",
        metavar="DIR|FILE",
        help="Run to sample and evaluate; may be repeated. Default: the newest, unless there are `--samples` or `--model`.",
        autocompletion=options.complete_runs,
    ),
]
Models = Annotated[
    list[str] | None,
    typer.Option(
        "--model",
        metavar="NAME",
        help="A small trained model that comes with inrflow, beside the runs; may be repeated.",
        autocompletion=options.complete_models,
    ),
]
Samples = Annotated[
    list[Path] | None,
    typer.Option(
        metavar="PATH",
        help="Samples: an .h5, .npz or .npy file, or a folder of images, point clouds or structures; may be repeated.",
    ),
]
Names = Annotated[
    list[str] | None,
    typer.Option(
        "--name",
        metavar="TEXT",
        help="Label in the table, the page and `--format`, as in a paper: one for each `--samples`, then for each `--run`, then for each `--model`, in order.",
    ),
]
Reference = Annotated[
    Path | None,
    typer.Option(
        metavar="PATH",
        help="Reference data: shards, a folder or file (as for `--samples`), or precomputed statistics. "
        "Default: the shards that the run or the model was trained on.",
    ),
]
Metrics = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME[:PROTOCOL],...",
        help="Metrics, as in `fid:adm,kid` or `mmd:emd-lion,1-nna`; `--list` lists all. "
        "Default: the domain's metrics that need no weights, which `--list` marks.",
    ),
]
Weights = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME=FILE|FOLDER", help="Weights of a feature network, or the folder of all weights; may be repeated."
    ),
]
Checkpoints = Annotated[
    str,
    typer.Option(
        metavar="STEPS", help="Checkpoints of each run to evaluate: newest, best, all, or steps as in 1000,2000."
    ),
]

Out = Annotated[Path | None, typer.Option(metavar="DIR", help="Folder for the results.", show_default=False)]
Split = Annotated[str | None, typer.Option(help="Split of the reference.")]
Classes = Annotated[
    str | None,
    typer.Option(metavar="NAME,...", help="Classes of the reference. Default: those that the run was trained on."),
]
ReferenceNum = Annotated[
    int | None, typer.Option(min=2, help="Number of reference items, evenly spaced. Default: all.")
]
SamplesSplit = Annotated[str | None, typer.Option(help="Split of `--samples` that are shards.")]
MemorizationSet = Annotated[
    Path | None,
    typer.Option(
        "--memorization-set",
        metavar="PATH",
        help="Training data in which to search copies of the samples. Default: the `train` split of the reference.",
    ),
]
Copies = Annotated[
    bool,
    typer.Option("--copies/--no-copies", help="Search the training data for copies of the samples."),
]
ConditionImages = Annotated[
    Path | None,
    typer.Option(
        "--condition-images",
        metavar="DIR",
        help="Images of the reference's point clouds, matched by name. Default: those in its shards.",
    ),
]
NumPerRun = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Samples per run. For conditional models: number of reference conditions, evenly spaced. "
        "Default: as many as the reference has items, at most 50,000.",
    ),
]
View = Annotated[
    str | None,
    typer.Option(metavar="N|by-seed", help="For models conditioned on images: the view of each object, from 0 on."),
]
SamplesPerItem = Annotated[
    int | None,
    typer.Option(min=1, metavar="K", help="Samples for each reference condition. Default: 1."),
]
InterpolationBaselines = Annotated[
    bool,
    typer.Option(
        "--interpolation-baselines",
        help="Also evaluate bilinear and bicubic upsampling of the samples at the training resolution.",
    ),
]
Sweeps = Annotated[
    list[str] | None,
    typer.Option(
        "--sweep",
        metavar="NAME=VALUE,...",
        help="Sample each run with every value: of `guidance`, `guidance-interval` (as [0.1,0.9]), `guide-run`, `sampler`, `steps`, "
        "`sampler.KEY` or `method.KEY`; may be repeated, for all combinations.",
    ),
]
DistanceWorkers = Annotated[
    int | None,
    typer.Option(
        min=1, help="Number of processes for distances; results do not depend on it. Default: number of CPU cores."
    ),
]
Format = Annotated[
    str | None,
    typer.Option(
        "--format",
        metavar="latex|csv|markdown",
        help="Print the scores on stdout in this form, and the table on stderr.",
    ),
]
ListMetrics = Annotated[
    bool, typer.Option("--list", help="List the metrics with their protocols, and the default ones.")
]


def eval(
    out: Out = None,
    run: Runs = None,
    models: Models = None,
    samples: Samples = None,
    names: Names = None,
    reference: Reference = None,
    metrics: Metrics = None,
    split: Split = None,
    classes: Classes = None,
    reference_num: ReferenceNum = None,
    samples_split: SamplesSplit = None,
    memorization_set: MemorizationSet = None,
    copies: Copies = True,
    condition_images: ConditionImages = None,
    weights: Weights = None,
    checkpoints: Checkpoints = "newest",
    num: NumPerRun = None,
    seed: options.Seed = 0,
    label: options.Label = None,
    guidance: options.Guidance = None,
    guidance_interval: options.GuidanceInterval = None,
    guide_run: GuideRun = None,
    sampler: options.Sampler = None,
    steps: options.Steps = None,
    override: options.SamplingSet = None,
    sweep: Sweeps = None,
    resolution: options.Resolution = None,
    points: options.Points = None,
    view: View = None,
    samples_per_item: SamplesPerItem = None,
    baselines: InterpolationBaselines = False,
    noise: options.Noise = None,
    ema: Ema = None,
    batch: options.Batch = None,
    precision: options.Precision = "fp32",
    compile: options.Compile = False,
    workers: DistanceWorkers = None,
    device: options.Device = None,
    threads: options.Threads = None,
    dry_run: DryRun = False,
    form: Format = None,
    show: ListMetrics = False,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Compute metrics of samples against a reference; writes metrics.json, report.html and a table.

    Runs are sampled first. After an interruption, run the same command again to resume.
    """
    from inrflow_cli.views import lists
    from inrflow_core.evaluation import job as evaluation
    from inrflow_core.evaluation import sweep as sweeps
    from inrflow_core.evaluation.sampling_plan import SamplingSettings

    if threads is not None:
        import torch

        torch.set_num_threads(threads)
    if show:
        lists.show_metrics(as_json=json)
        return
    if out is None:
        raise UsageError("no folder for the results", hint="add `--out DIR`")
    _check_format(form, {"--json": json or None, "--dry-run": dry_run or None})
    run = _sources(run, models, samples)
    if not run:
        of_runs = {"checkpoints": None if checkpoints == "newest" else checkpoints, "seed": seed or None}
        of_runs |= {"precision": None if precision == "fp32" else precision, "compile": compile or None}
        of_runs |= {"interpolation-baselines": baselines or None, "num": num, "label": label, "guidance": guidance}
        of_runs |= {"guidance-interval": guidance_interval, "sampler": sampler, "steps": steps, "set": override}
        of_runs |= {"resolution": resolution, "view": view, "samples-per-item": samples_per_item, "noise": noise}
        of_runs |= {"ema": ema, "batch": batch, "guide-run": guide_run, "sweep": sweep}
        of_runs = {f"--{name}": value for name, value in of_runs.items()}
        reject_options(of_runs, "needs a run to sample", "leave it out, or add `--run DIR` or `--model NAME`")
    if not samples:
        reject_options({"--samples-split": samples_split}, "needs `--samples`")
    interval = parse_interval(guidance_interval)
    of_sampler, of_method = parse_settings(override, guidance=guidance, guidance_interval=interval, noise=noise)
    sampling = SamplingSettings(
        parse_checkpoints(checkpoints), num, seed, label, sampler, steps, of_sampler, of_method, guide_weights(guide_run), resolution,
        points, parse_view(view), samples_per_item, ema, batch, device, precision, compile,
    )  # fmt: skip
    job = evaluation.EvaluationJob(
        out=out,
        runs=run,
        samples=samples or [],
        names=names or [],
        reference=reference,
        metrics=parse_metric_names(metrics),
        split=split,
        classes=[] if classes is None else [name.strip() for name in classes.split(",")],
        reference_num=reference_num,
        samples_split=samples_split,
        memorization_set=memorization_set,
        searches_copies=copies,
        condition_images=condition_images,
        weights=weights or [],
        sampling=sampling,
        sweeps=[sweeps.parse(text) for text in sweep or []],
        has_baselines=baselines,
        workers=workers,
        overwrite=overwrite,
        reporter=console.reporter(),
    )
    _run(job, is_dry=dry_run, as_json=json, form=form)


def _check_format(form: str | None, options: dict[str, bool | None]) -> None:
    """Raise UsageError if there is no such format, or with one of the options that leave no table for stdout."""
    from inrflow_cli.views import score_formats

    if form is not None:
        score_formats.check_format(form)
        reject_options(options, "does not apply with `--format`")


def _sources(runs: list[Path] | None, models: list[str] | None, samples: list[Path] | None) -> list[Path]:
    """The runs, and the weights files of shipped models; the newest run where no samples are named either."""
    from inrflow_core.runs import shipped

    return [*(runs or []), *map(shipped.weights_file, models or [])] or ([] if samples else [_newest_run()])


def _newest_run() -> Path:
    """The newest run with a complete checkpoint, whose name is printed.

    Raises:
        UsageError: there is none.
    """
    from inrflow_core.runs.run import latest_run

    try:
        folder = latest_run().folder
    except MissingError as error:
        raise UsageError(
            f"nothing to evaluate: {error.message}", hint="add `--run DIR` or `--samples PATH`, or train a model"
        ) from error
    console.info(f"evaluating the latest run, `{folder}`")
    return folder


def _run(job: EvaluationJob, *, is_dry: bool, as_json: bool, form: str | None) -> None:
    """Evaluate and print the results; or, where it `is_dry`, the time that this would take."""
    from inrflow_core.evaluation import job as evaluation

    with console.announce("reading the samples, the reference and the runs"):
        ready = evaluation.check_job(job)
    _warn_of_guides(job.sweeps)
    if is_dry:
        _estimate(ready, as_json=as_json)
        if ready.missing:
            raise typer.Exit(int(Exit.MISSING))
        return
    if ready.stored is not None:
        _show_stored(ready, ready.stored, as_json=as_json, form=form)
        return
    results = evaluation.run_evaluation(ready)
    if results is None:
        return
    _show(ready, results, as_json=as_json, form=form)
    for name, error in results.failed.items():
        console.warn(f"`{name}` could not be computed: {error.message}")
    if results.failed or results.skipped_metrics:
        raise typer.Exit(int(next(iter([*results.failed.values(), *results.skipped_metrics.values()])).code))


def _show(ready: CheckedEvaluationJob, results: Results | StoredResults, *, as_json: bool, form: str | None) -> None:
    """Print the scores."""
    from inrflow_cli.views import score_formats, scores

    if form is not None:
        console.reserve_stdout()
    scores.show_scores(results)
    if ready.job.sweeps:
        scores.show_best(results)
    if form is not None:
        console.print_stdout(score_formats.table_text(results, form))
    console.print_json({"out": str(ready.job.out), **results.to_json()}, as_json=as_json)


def _show_stored(ready: CheckedEvaluationJob, stored: StoredResults, *, as_json: bool, form: str | None) -> None:
    """Print the scores of an evaluation that was finished before."""
    from inrflow_core.evaluation import drawn_shards
    from inrflow_core.evaluation import job as evaluation

    if not drawn_shards.is_main():
        return
    _show(ready, stored, as_json=as_json, form=form)
    evaluation.warn_of_missing(ready)
    console.info(
        f"`{ready.job.out}` was finished before with the same settings: these are its scores. `--overwrite` measures them anew"
    )
    if stored.skipped_metrics:
        raise typer.Exit(int(Exit.MISSING))


def _warn_of_guides(sweeps: Sequence[Sweep]) -> None:
    """Warn of guides of a sweep whose average still holds initial weights, as of one of `--guide-run`."""
    for sweep in sweeps:
        for value in sweep.values if sweep.setting == "guide-run" else ():
            guide_weights(None if value is None else Path(str(value)))


def _estimate(ready: CheckedEvaluationJob, *, as_json: bool) -> None:
    """Print what would be done and the time that it takes: nothing where the evaluation is finished."""
    from inrflow_core.evaluation import job as evaluation

    is_finished, rows = ready.stored is not None, []
    if is_finished:
        console.result(f"`{ready.job.out}` is finished with these settings: without `--dry-run` its scores are printed")
    else:
        with console.announce("timing the work on a few items"):
            rows = evaluation.estimate_cost(ready)
    total = sum(seconds for _, seconds in rows)
    if rows:
        lines = [(what, format_duration(seconds)) for what, seconds in (*rows, ("all", total))]
        console.table(("work", "about"), lines)
    evaluation.warn_of_missing(ready)
    metrics = [metric.full for metric in ready.metrics]
    answer = {"metrics": metrics, "missing": list(ready.missing), "seconds": total, "is_finished": is_finished}
    console.print_json(answer, as_json=as_json)
