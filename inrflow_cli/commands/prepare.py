"""Turn a data set as its authors distribute it into shards."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from inrflow_cli import console, options
from inrflow_cli.options import DryRun, Json, Overwrite
from inrflow_core.errors import Exit, UsageError, did_you_mean
from inrflow_core.runtime.progress import format_bytes, format_duration

if TYPE_CHECKING:
    from inrflow_core.preparation.job import PrepareJob, Report
    from inrflow_core.preparation.job_array import ArrayTask
    from inrflow_core.preparation.pipeline import Progress

SHOWN = 3
"""Items that one filter leaves out that are named on the screen; the manifest names 20."""
HINT = "give another value in the option or with `--set`; docs/data-sets.md says what is allowed"
"""For settings that cannot be."""
REASONS = 10
"""Reasons for skipping items that are shown, each with its first item; the manifest names all."""

DatasetName = Annotated[
    str | None,
    typer.Argument(help="Name of the data set; `--list` lists all.", autocompletion=options.complete_datasets),
]
Source = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="The raw files. Default: `data/NAME`; INRFLOW_DATA is another parent."),
]
Out = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="Folder of the shards. Default: `shards/NAME` or `shards/NAME-RESOLUTION`."),
]
Resolution = Annotated[
    int | None, typer.Option(help="Height and width of the prepared images, for data sets that are resized.")
]
Classes = Annotated[bool, typer.Option("--classes", help="Use the sub-folders as classes, for data sets of folders.")]
Category = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME", help="A category of ShapeNet; may be repeated. Default: all in the source."),
]
Features = Annotated[
    str | None,
    typer.Option(
        metavar="stored|online",
        help="Store a frozen network's tokens of images or sequences in the shards, or compute them in training.",
    ),
]
Weights = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR", help="The frozen network's config.json and model.safetensors. Default: `weights/NETWORK`."
    ),
]
Limit = Annotated[int | None, typer.Option(min=1, help="At most this number of items of each split, evenly spaced.")]
Workers = Annotated[
    int | None,
    typer.Option(
        min=1, help="Number of worker processes; the output does not depend on it. Default: number of CPU cores."
    ),
]
ArraySize = Annotated[
    int | None,
    typer.Option(
        "--array-size",
        metavar="N",
        help="Size of a job array: N runs of this command share the work, in any order or at once, and write to "
        "the same folder. N counts runs, not the HDF5 files, whose number depends on the data alone.",
    ),
]
ArrayIndex = Annotated[
    int | None,
    typer.Option("--array-index", metavar="I", help="Index of this run in the job array, from 0 to N - 1."),
]
Engine = Annotated[
    Literal["processes", "ray"],
    typer.Option(help="`ray` spreads the work over the machines of a Ray cluster that share a file system."),
]
RayAddress = Annotated[
    str | None,
    typer.Option(
        metavar="HOST:PORT|auto|local",
        help="With `--engine ray`. Default: RAY_ADDRESS, else the cluster of this machine, else one is started.",
    ),
]
DatasetSet = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="A setting of the data set; may be repeated.")
]
Statistics = Annotated[
    list[str] | None,
    typer.Option(
        metavar="METRIC,...",
        help="Also cache the reference features of these metrics, e.g. `fid:adm` (see `eval`).",
    ),
]
Repair = Annotated[bool, typer.Option("--repair", help="Find damaged shards and write them again.")]
ListDatasets = Annotated[bool, typer.Option("--list", help="List the data sets with their input and output formats.")]


def prepare(
    name: DatasetName = None,
    source: Source = None,
    out: Out = None,
    resolution: Resolution = None,
    classes: Classes = False,
    category: Category = None,
    features: Features = None,
    weights: Weights = None,
    limit: Limit = None,
    workers: Workers = None,
    array_size: ArraySize = None,
    array_index: ArrayIndex = None,
    engine: Engine = "processes",
    ray_address: RayAddress = None,
    override: DatasetSet = None,
    statistics: Statistics = None,
    repair: Repair = False,
    dry_run: DryRun = False,
    overwrite: Overwrite = False,
    show: ListDatasets = False,
    json: Json = False,
) -> None:
    """Read the raw files of the data set NAME, and write shards and their manifest.

    Rerun the same command to resume. Unreadable items are skipped and listed in the manifest; the exit code is then 6.
    """
    if show:
        from inrflow_cli.views import lists

        lists.show_datasets(as_json=json)
        return
    if repair and overwrite:
        raise UsageError("`--repair` and `--overwrite` exclude each other", hint="`--repair` keeps undamaged shards")
    task = _array_task(
        array_size, array_index, {"--repair": repair, "--overwrite": overwrite, "--statistics": statistics}
    )
    settings: dict[str, Any] = {} if resolution is None else {"resolution": resolution}
    settings |= {"classes": True} if classes else {}
    settings |= {"categories": category} if category else {}
    settings |= {} if features is None else {"features": features}
    settings |= {} if weights is None else {"weights": str(weights)}
    job = _job(name, source, out, settings | _settings(override or []), limit=limit, repair=repair)
    from inrflow_core.preparation import estimate, pipeline

    metrics = options.parse_metric_names(statistics)
    if metrics:
        from inrflow_core.evaluation import metric_specs

        metric_specs.parse_cacheable(metrics, job.dataset.DOMAIN)  # before hours of work
    _warn_of_placeholder(job)
    engine_arguments = {"piece": task, **_engine(job, engine, ray_address, workers)}
    if dry_run:
        with console.announce(
            f"looking through `{job.source}` and reading a few items"
            if job.dataset.NEEDS_SOURCE
            else f"making a few items of `{job.name}`"
        ):
            report = estimate.estimate(job, workers=workers, piece=task)
        _show_estimate(report, json)
        return
    with _progress(job) as progress:
        mode = "repair" if repair else "overwrite" if overwrite else "resume"
        report = pipeline.prepare(job, mode=mode, progress=progress, **engine_arguments)
    _show_report(report, task)
    if metrics:
        from inrflow_core.evaluation import job as evaluation

        evaluation.cache_reference_stats(Path(report.out), metrics, console.reporter())
    console.print_json(_answer(report), as_json=json)
    if report.skipped:
        raise typer.Exit(int(Exit.PARTLY))


def _array_task(count: int | None, index: int | None, excluded: dict[str, object]) -> ArrayTask | None:
    """The run of a job array; None without `--array-size`."""
    from inrflow_core.preparation.job_array import ArrayTask

    if count is None and index is None:
        return None
    if count is None or index is None:
        option, missing = ("--array-size", "--array-index") if index is None else ("--array-index", "--array-size")
        raise UsageError(f"`{option}` is given without `{missing}`", hint="a job array needs both")
    for option, value in excluded.items():
        if value:
            raise UsageError(
                f"`{option}` and `--array-size` exclude each other",
                hint=f"give `{option}` to one run without `--array-size`, before or after the job array",
            )
    return ArrayTask(index, count)


def _engine(job: PrepareJob, name: str, address: str | None, workers: int | None) -> dict[str, Any]:
    """Arguments of `pipeline.prepare`: worker processes or a Ray pool."""
    if name == "processes":
        if address is not None:
            raise UsageError("`--ray-address` is given without `--engine ray`", hint="add it, or leave the address out")
        return {"workers": workers}
    from inrflow_core.runtime import ray_pool

    source = job.source if job.dataset.NEEDS_SOURCE else None
    return {"engine": ray_pool.ray_map(address, source=source, out=job.out, workers=workers)}


def _job(
    name: str | None,
    source: Path | None,
    out: Path | None,
    settings: dict[str, Any],
    *,
    limit: int | None,
    repair: bool,
) -> PrepareJob:
    """The job of the options; a repair takes the settings of the shards that it repairs."""
    from inrflow_core import registry
    from inrflow_core.config import typed
    from inrflow_core.preparation import job
    from inrflow_core.shards import manifest

    if name is None:
        raise UsageError("no data set is named", hint="`inrflow prepare --list` lists all data sets")
    typed_name, name = name, name.replace("_", "-")
    table = registry.canonical("datasets", name)
    if table not in registry.names("datasets"):
        raise UsageError(
            f"no data set is called `{name}`",
            hint=_hint_for_folder(typed_name) or did_you_mean(name, registry.names("datasets")),
        )
    if repair and out is not None and (out / manifest.NAME).is_file():
        before = typed.present_names(dict(manifest.load(out).settings), table)
        limit = before.pop("limit", None) if limit is None else limit
        settings = before | typed.present_names(settings, table)
    kind = registry.find("datasets", name).Config
    if settings and not dataclasses.fields(kind):
        raise UsageError(f"`{name}` has no settings", hint="leave " + ", ".join(settings) + " out")
    config = typed.settings(kind, typed.present_names(settings, table), name, hint=HINT)
    return job.resolve_job(name, source, out, config, limit)


def _hint_for_folder(name: str) -> str | None:
    """The command that reads a folder which is named in place of a data set; None where it is not a folder with files to read."""
    from inrflow_core.datasets._contract import folder_readers
    from inrflow_core.storage.source_files import list_files

    readers = folder_readers(list_files(Path(name))) if Path(name).is_dir() else []
    if not readers:
        return None
    return f"`{name}` is a folder: " + " or ".join(f"`inrflow prepare {reader} --source {name}`" for reader in readers)


def _warn_of_placeholder(job: PrepareJob) -> None:
    """Warn if the tokens come from a placeholder of the pretrained network."""
    from inrflow_core import registry

    name = getattr(job.config, "embedder", None)
    if (
        name is not None
        and getattr(job.config, "features", "stored") == "stored"
        and registry.find("feature_networks", name).IS_PLACEHOLDER
    ):
        console.warn(
            f"`{name}` is a placeholder for a pretrained network: it has no trained weights, so that a model learns less from its tokens"
        )


def _settings(overrides: list[str]) -> dict[str, Any]:
    """`key=value` texts as settings, the values written as in TOML."""
    from inrflow_core.config import preset

    for text in overrides:
        if "=" not in text:
            raise UsageError(f"`--set {text}` gives no value", hint="write `--set key=value`")
    return preset.override({}, [f"settings.{text}" for text in overrides]).get("settings", {})


@contextlib.contextmanager
def _progress(job: PrepareJob) -> Iterator[Progress]:
    """A progress line, shown as soon as the items are counted."""
    console.info(f"looking through `{job.source}`" if job.dataset.NEEDS_SOURCE else f"making `{job.name}`")
    with contextlib.ExitStack() as stack:
        counting = stack.enter_context(contextlib.ExitStack())
        counting.enter_context(console.announce("counting the items"))
        shown: console.Progress | None = None

        def progress(done: int, total: int) -> None:
            nonlocal shown
            if shown is None:
                counting.close()
                shown = stack.enter_context(console.progress(total, "items", title=f"preparing {job.name}"))
            shown.advance(done - shown.done)

        yield progress


def _show_report(report: Report, task: ArrayTask | None) -> None:
    if task is not None and not report.is_whole:
        _show_array_report(report, task)
        return
    counts = ", ".join(f"{count:,} {split}" for split, count in report.splits.items())
    verb = "wrote" if report.num_written else "nothing to do:"
    existing = (
        ""
        if report.num_written in (0, report.shards)
        else f", {report.shards - report.num_written} of them there already"
    )
    console.info(f"{verb} `{report.out}`: {counts} ({_shards(report)}{existing}, {format_bytes(report.bytes)})")
    _left_out(report)
    _skipped(report, f"`{report.out}/manifest.json` names them")


def _show_array_report(report: Report, task: ArrayTask) -> None:
    """Print what one run of a job array did, and whether the manifest is still to be written."""
    own = f"{report.num_written} of its {_shards(report)}" if report.shards else "no shard: there are fewer than pieces"
    rest = f"{report.num_pending} of others are left; the last run writes the manifest"
    done = "all are there; another run is writing the manifest"
    console.info(
        f"piece {task.index} of {task.count} made {own} in `{report.out}`; {rest if report.num_pending else done}"
    )
    _skipped(report, "the manifest will name them")


def _show_estimate(report: Report, json: bool) -> None:
    counts = ", ".join(f"{count:,} {split}" for split, count in report.splits.items())
    console.result(
        f"would write `{report.out}`: {counts} ({_shards(report)}, {format_bytes(report.bytes)}), in about "
        f"{format_duration(report.seconds or 0)}"
    )
    _left_out(report)
    _skipped(report, "of the few that were tried")
    console.print_json(_answer(report), as_json=json)


def _shards(report: Report) -> str:
    return f"{report.shards} shard{'' if report.shards == 1 else 's'}"


def _left_out(report: Report) -> None:
    """Print what filters left out, by the setting, and the notes."""
    for setting, left in report.left_out.items():
        names = ", ".join(f"`{name}`" for name in left.names[:SHOWN])
        console.info(f"{setting} leaves out {left.count:,}: {names}{', ...' if left.count > SHOWN else ''}")
    for note in report.notes:
        console.warn(note)


def _skipped(report: Report, where: str) -> None:
    """Print the items that were skipped: for each reason their number and the first, then how many they are."""
    from inrflow_core.preparation.notes import skip_reasons

    if not report.skipped:
        return
    reasons = skip_reasons(report.skipped)
    for one in reasons[:REASONS]:
        console.info(f"  {_items(one.count)}, {'the first ' if one.count > 1 else ''}`{one.first}`: {one.reason}")
    if len(reasons) > REASONS:
        console.info(
            f"  {_items(sum(one.count for one in reasons[REASONS:]))} for {len(reasons) - REASONS:,} other reasons"
        )
    console.warn(f"skipped {_items(len(report.skipped))}; {where}")


def _items(count: int) -> str:
    return f"{count:,} item{'' if count == 1 else 's'}"


def _answer(report: Report) -> dict[str, Any]:
    """The report as one JSON object, with the reasons for skipping items counted."""
    from inrflow_core.preparation.notes import skip_reasons
    from inrflow_core.storage import typed_json

    return {**typed_json.to_plain(report), "skip_reasons": [vars(one) for one in skip_reasons(report.skipped)]}
