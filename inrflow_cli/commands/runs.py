"""List the runs: preset, step, loss, best checkpoint, size; draw their losses."""

from __future__ import annotations

import difflib
import os
import shlex
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from inrflow_cli import console
from inrflow_cli.options import Json, Overwrite
from inrflow_core.errors import InrflowError, MissingError, UsageError, did_you_mean
from inrflow_core.runtime.progress import format_bytes

if TYPE_CHECKING:
    from inrflow_core.runs.run import Run


def runs(
    folder: Annotated[
        Path | None, typer.Argument(help="Folder of runs. Default: `$INRFLOW_RUNS`, else `runs`.", show_default=False)
    ] = None,
    names: Annotated[
        list[str] | None,
        typer.Option("--run", metavar="NAME", help="Only this run; may be repeated. Default: all.", show_default=False),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(metavar="FILE.png", help="Draw losses and held-out losses over the steps.", show_default=False),
    ] = None,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """List the runs in a folder, the newest last."""
    from inrflow_core.runs import run as core

    if folder is not None:
        _check_folder(folder)
    if plot is not None:
        _check_plot(plot, overwrite=overwrite)
    broken: list[dict] = []

    def unreadable(folder: Path, error: InrflowError) -> None:
        broken.append({"run": str(folder), "error": error.message})

    rows = []
    found = _selected(core.list_runs(folder, unreadable), names)
    readable = []
    for run in found:
        try:
            rows.append(_row(run))
            readable.append(run)
        except InrflowError as error:
            unreadable(run.folder, error)
    if rows:
        cells = [[r["run"], r["preset"], r["step"], _loss(r["loss"]), _best(r), format_bytes(r["bytes"])] for r in rows]
        console.table(["run", "preset", "step", "loss", "best", "size"], cells)
    elif not broken:
        console.info(f"no runs in `{folder or core.runs_dir()}`: {core.HOW_TO_TRAIN}")
    for one in broken:
        console.warn(f"`{one['run']}` cannot be read: {one['error']}")
    answer = {"runs": rows, "unreadable": broken}
    if plot is not None:
        _draw(plot, readable)
        answer["plot"] = str(plot)
    console.print_json(answer, as_json=json)


def _check_folder(folder: Path) -> None:
    """Raise UsageError for a named folder that does not exist, with the nearest one beside it, or the run of that name."""
    from inrflow_core.runs.run import find_source

    if os.path.isdir(folder):
        return
    if os.path.lexists(folder):
        raise UsageError(f"`{folder}` is not a folder", hint="name a folder of runs")
    parent = folder.parent
    beside = {path.name: path for path in parent.iterdir() if path.is_dir()} if os.path.isdir(parent) else {}
    near = difflib.get_close_matches(folder.name, beside, n=1)
    hint = "name a folder of runs; without one those in `$INRFLOW_RUNS`, else `runs`, are listed"
    if find_source(folder) != folder:
        hint = f"`inrflow runs --run {shlex.quote(str(folder))}` lists the run of that name"
    elif near:
        hint = f"did you mean `{beside[near[0]]}`?"
    raise UsageError(f"the folder `{folder}` does not exist", hint=hint)


def _selected(found: list[Run], names: list[str] | None) -> list[Run]:
    """The runs of these names, all without; raises MissingError for a name that none has."""
    by_name = {run.name: run for run in found}
    for name in names or []:
        if name not in by_name:
            raise MissingError(f"no run is called `{name}`", hint=did_you_mean(name, sorted(by_name)))
    return found if names is None else [by_name[name] for name in dict.fromkeys(names)]


def _check_plot(plot: Path, *, overwrite: bool) -> None:
    """Raise UsageError for a plot that cannot be written."""
    from inrflow_core.storage import atomic_write

    if plot.suffix.lower() != ".png":
        raise UsageError(f"`--plot {plot}`: a plot is a .png file", hint="name it `curves.png`")
    atomic_write.check_writable(plot, overwrite=overwrite)


def _draw(plot: Path, found: list[Run]) -> None:
    """Draw the losses of runs into one image."""
    from inrflow_core.formats import png
    from inrflow_core.runs import loss_curves
    from inrflow_core.visualization import image_grid

    curves = loss_curves.curves_of_runs(found)
    dashed = [name for name in curves if name.endswith(loss_curves.HELD_OUT)]
    png.save(plot, image_grid.curves(curves, dashed=dashed), origin={"runs": " ".join(run.name for run in found)})
    console.info(f"wrote `{plot}`")


def _row(run) -> dict:
    record = run.last_record()
    return {
        "run": str(run.folder),
        "preset": run.preset_name,
        "step": run.steps[-1] if run.steps else 0,
        "loss": record.get("loss"),
        "best": asdict(best) if (best := run.best()) else None,
        "bytes": run.size(),
    }


def _loss(loss: float | None) -> str:
    return "-" if loss is None else f"{loss:.4f}"


def _best(row: dict) -> str:
    best = row["best"]
    return "-" if best is None else f"{best['metric']} {best['value']:.4g} at {best['step']:,}"
