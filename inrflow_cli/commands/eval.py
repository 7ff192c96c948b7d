"""Judge samples: every number by a named protocol, with its uncertainty, in a table, a JSON file and a page."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from inrflow_cli import console, options
from inrflow_cli.options import DryRun, Json, Overwrite
from inrflow_core.errors import Exit, UsageError

if TYPE_CHECKING:
    from inrflow_cli.evaluation import CheckedEvaluationJob

Runs = Annotated[
    list[Path] | None,
    typer.Option(
        "--run",
        metavar="DIR|FILE",
        help="A run to sample and judge; may be repeated.",
        autocompletion=options.complete_runs,
    ),
]
Samples = Annotated[
    list[Path] | None,
    typer.Option(
        metavar="PLACE",
        help="Samples: an .h5, .npz or .npy file, or a folder of pictures, clouds or structures; may be repeated.",
    ),
]
Reference = Annotated[
    Path | None,
    typer.Option(
        metavar="PLACE",
        help="What to judge by: shards, a folder or file as for `--samples`, or statistics of such. "
        "Default: the shards that the run was trained on.",
    ),
]
Metrics = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME[:PROTOCOL],...",
        help="What to compute, as in `fid:adm,kid` or `mmd:emd-lion,1-nna`; `--list` names all. "
        "Default: `fid`, `kid`, `precision`, `recall` by `random`; `mmd`, `cov`, `1-nna`, `jsd`; "
        "`lddt`, `tm-score`, `rmsd`, `bond-lengths`, `clashes`.",
    ),
]
Weights = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME=FILE|FOLDER", help="Weights of a feature network, or the folder of them all; may be repeated."
    ),
]
Checkpoints = Annotated[
    str, typer.Option(metavar="newest|best|all|STEP,STEP", help="Which checkpoints of each run to judge.")
]


def eval(
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="The folder for results.", show_default=False)] = None,
    run: Runs = None,
    samples: Samples = None,
    reference: Reference = None,
    metrics: Metrics = None,
    split: Annotated[str | None, typer.Option(help="Split of the reference.")] = None,
    classes: Annotated[
        str | None,
        typer.Option(metavar="NAME,...", help="Classes of the reference. Default: those that the run was trained on."),
    ] = None,
    reference_num: Annotated[
        int | None, typer.Option(min=2, help="At most so many items of the reference, evenly spread. Default: all.")
    ] = None,
    samples_split: Annotated[str | None, typer.Option(help="Split of samples that are shards.")] = None,
    training: Annotated[
        Path | None, typer.Option(metavar="PLACE", help="Where to look for copies. Default: the reference's `train`.")
    ] = None,
    pictures: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="What the clouds of the reference look like, by name. Default: its own pictures."
        ),
    ] = None,
    weights: Weights = None,
    checkpoints: Checkpoints = "newest",
    num: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Samples of each run; of models that draw from pictures or sequences, so many of these, evenly spread. "
            "Default: as many as the reference has items, 50,000 at most.",
        ),
    ] = None,
    seed: options.Seed = 0,
    label: options.Label = None,
    guidance: options.Guidance = None,
    guidance_interval: Annotated[
        str | None, typer.Option(metavar="LOW,HIGH", help="Times between which guidance acts, as in 0.1,0.9.")
    ] = None,
    sampler: options.Sampler = None,
    steps: options.Steps = None,
    override: options.SamplerSettings = None,
    resolution: options.Resolution = None,
    points: options.Points = None,
    view: Annotated[
        str | None,
        typer.Option(
            metavar="N|by-seed", help="Of models that draw from pictures: which view of each object, from 0 on."
        ),
    ] = None,
    samples_per_item: Annotated[
        int | None,
        typer.Option(min=1, metavar="K", help="Samples from each picture or sequence of the reference. Default: 1."),
    ] = None,
    enlarged: Annotated[
        bool,
        typer.Option("--enlarged", help="Judge bilinear and bicubic enlargements of the same samples beside them."),
    ] = False,
    noise: Annotated[
        str | None, typer.Option(metavar="linear|cubic|independent", help="Noise between training positions.")
    ] = None,
    ema: Annotated[float | None, typer.Option(help="EMA decay to draw from; 0 is the raw weights.")] = None,
    batch: Annotated[int | None, typer.Option(min=1, help="Samples drawn together; changes nothing.")] = None,
    precision: options.Precision = "fp32",
    compile: options.Compile = False,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes for distances; change nothing. Default: the cores.")
    ] = None,
    device: options.Device = None,
    threads: options.Threads = None,
    dry_run: DryRun = False,
    show: Annotated[bool, typer.Option("--list", help="Say every metric and its protocols.")] = False,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Compare samples with a reference: metrics.json, report.html and a table.

    Runs are sampled first. A stopped evaluation goes on by the same command.
    """
    from inrflow_cli import drawn, evaluation
    from inrflow_cli.views import scores

    if threads is not None:
        import torch

        torch.set_num_threads(threads)
    if show:
        scores.show_metrics(as_json=json)
        return
    if out is None:
        raise UsageError("no folder for the results is named", hint="add `--out DIR`")
    if not run and not samples:
        raise UsageError("nothing to judge is named", hint="add `--run DIR` or `--samples PLACE`")
    sampling = drawn.SamplingSettings(
        checkpoints=checkpoints,
        num=num,
        seed=seed,
        label=label,
        guidance=guidance,
        guidance_interval=guidance_interval,
        sampler=sampler,
        steps=steps,
        settings=override,
        resolution=resolution,
        points=points,
        view=view,
        samples_per_item=samples_per_item,
        noise=noise,
        ema=ema,
        batch=batch,
        device=device,
        precision=None if precision == "fp32" else precision,
        compile=compile or None,
    )
    job = evaluation.EvaluationJob(
        out=out,
        runs=run or [],
        samples=samples or [],
        reference=reference,
        metrics=evaluation.split_metric_names(metrics),
        split=split,
        classes=[] if classes is None else [name.strip() for name in classes.split(",")],
        reference_num=reference_num,
        samples_split=samples_split,
        training=training,
        pictures=pictures,
        weights=weights or [],
        sampling=sampling,
        is_enlarged=enlarged,
        workers=workers,
        overwrite=overwrite,
    )
    _carry_out(evaluation.check(job), is_dry=dry_run, as_json=json)


def _carry_out(ready: CheckedEvaluationJob, *, is_dry: bool, as_json: bool) -> None:
    """Judge, and tell; or, where it `is_dry`, say what that would take."""
    from inrflow_cli import evaluation
    from inrflow_cli.views import scores

    if is_dry:
        evaluation.predict(ready, as_json=as_json)
        if ready.missing:
            raise typer.Exit(int(Exit.MISSING))
        return
    found = evaluation.run_evaluation(ready)
    if found is None:
        return
    scores.tell(found)
    console.print_json({"out": str(ready.job.out), **found.to_json()}, as_json=as_json)
    for name, error in found.failed.items():
        console.warn(f"`{name}` could not be taken: {error.message}")
    if found.failed or found.skipped_metrics:
        raise typer.Exit(int(next(iter([*found.failed.values(), *found.skipped_metrics.values()])).code))
