"""List the runs: preset, step, loss, best checkpoint, size."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from inrflow_cli import console
from inrflow_cli.options import Json
from inrflow_core.errors import InrflowError
from inrflow_core.runtime.progress import format_bytes


def runs(
    folder: Annotated[
        Path | None, typer.Argument(help="Folder of runs. Default: `$INRFLOW_RUNS`, else `runs`.", show_default=False)
    ] = None,
    json: Json = False,
) -> None:
    """List the runs in a folder, the newest last."""
    from inrflow_core.runs import run as core

    broken: list[dict] = []

    def unreadable(folder: Path, error: InrflowError) -> None:
        broken.append({"run": str(folder), "error": error.message})

    rows = []
    for run in core.list_runs(folder, unreadable):
        try:
            rows.append(_row(run))
        except InrflowError as error:
            unreadable(run.folder, error)
    if rows:
        cells = [[r["run"], r["preset"], r["step"], _loss(r["loss"]), _best(r), format_bytes(r["bytes"])] for r in rows]
        console.table(["run", "preset", "step", "loss", "best", "size"], cells)
    elif not broken:
        console.info(f"no runs in `{folder or core.runs_dir()}`: {core.HOW_TO_TRAIN}")
    for one in broken:
        console.warn(f"`{one['run']}` cannot be read: {one['error']}")
    console.print_json({"runs": rows, "unreadable": broken}, as_json=json)


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
