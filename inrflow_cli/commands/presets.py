"""List the presets, describe one, or copy it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from inrflow_cli import console, options
from inrflow_cli.options import Json, Overwrite, reject_options
from inrflow_core.errors import UsageError

if TYPE_CHECKING:
    from inrflow_core.config.preset_table import PresetSummary

GPU = "h200"
"""The GPU whose hours the table estimates."""
Name = Annotated[
    str | None,
    typer.Argument(
        metavar="[NAME]",
        help="Describe this preset, and print the commands that train it. Default: list all.",
        autocompletion=options.complete_presets,
        show_default=False,
    ),
]
Copy = Annotated[
    Path | None,
    typer.Option("--copy", metavar="FILE.toml", help="Write the preset's file there, comments included, to edit it."),
]
WIDE = 130
"""Columns of a terminal from which the table has what a preset is, and the paper's figure."""


def presets(name: Name = None, copy: Copy = None, overwrite: Overwrite = False, json: Json = False) -> None:
    """List the presets with data, size and cost; describe one, or copy it to a file of your own.

    GPU-hours are training FLOPs over 40 % of the H200's peak in bf16: an assumption, not a measurement. A plan (`inrflow train
    --dry-run --plan-for h200`) also counts recomputation and the update of the weights.
    """
    from inrflow_core.config import preset, preset_table

    if copy is None:
        reject_options({"--overwrite": overwrite or None}, "needs `--copy FILE.toml`")
    if name is None:
        reject_options({"--copy": copy}, "needs the name of a preset")
        rows = [_row(preset_table.summary(each)) for each in preset.names()]
        _show(rows)
        console.print_json({"gpu": GPU, "presets": rows}, as_json=json)
        return
    row = _row(preset_table.summary(name))
    if copy is None:
        _describe(row)
        console.print_json({"gpu": GPU, **row}, as_json=json)
        return
    _copy(preset.find_file(name), copy, overwrite=overwrite)
    console.info(f"wrote `{copy}`; train it with `inrflow train --preset {copy}`")
    console.print_json({"out": str(copy), "preset": name}, as_json=json)


def _row(summary: PresetSummary) -> dict[str, Any]:
    """A preset as one JSON object."""
    from inrflow_core.planning import gpu_specs

    sizes = summary.sizes
    rate = gpu_specs.find(GPU).rate("bf16")
    return {
        "name": summary.name,
        "what": summary.what,
        "domain": summary.domain,
        "method": summary.method,
        "dataset": summary.dataset,
        "shards": summary.shards,
        "prepare": summary.prepare,
        "parameters": None if sizes is None else sizes.parameters,
        "stages": [{"steps": steps, "batch": batch} for steps, batch in summary.steps],
        "training_flops": None if sizes is None else sizes.training_flops,
        "gpu_hours": None if sizes is None else sizes.training_flops / rate / 3600,
        "paper": summary.paper,
    }


def _show(rows: list[dict[str, Any]]) -> None:
    """The table of all presets; in a narrow terminal without the columns of text, whose words would break."""
    columns = {
        "preset": lambda row: row["name"],
        "what it is": lambda row: _short(row["what"]),
        "data": lambda row: row["dataset"],
        "parameters": _parameters,
        "FLOPs": _flops,
        f"{GPU.upper()}-hours": _hours,
        "paper": lambda row: row["paper"] or "-",
    }
    if console.results().width < WIDE:
        del columns["what it is"], columns["paper"]
    console.table(tuple(columns), [tuple(cell(row) for cell in columns.values()) for row in rows])
    console.info("`inrflow presets NAME` describes one; `inrflow presets NAME --copy my.toml` copies it")


def _describe(row: dict[str, Any]) -> None:
    """One preset, and the commands from its data to samples."""
    steps = " + ".join(f"{stage['steps']:,} x {stage['batch']}" for stage in row["stages"])
    console.table(
        (row["name"], ""),
        [
            ("what it is", row["what"]),
            ("domain, method", f"{row['domain']}, {row['method']}"),
            ("data", row["shards"]),
            ("parameters", _parameters(row)),
            ("steps x batch", steps),
            ("training FLOPs", _flops(row)),
            (f"{GPU.upper()}-hours (assumed: 40 % of the peak)", _hours(row)),
            ("the paper's figure", row["paper"] or "-"),
        ],
    )
    for line in filter(None, (row["prepare"], f"inrflow train --preset {row['name']} --dry-run")):
        console.result(line)
    console.result(f"inrflow train --preset {row['name']}")


def _copy(source: Path, out: Path, *, overwrite: bool) -> None:
    """Write the text of a preset to a file.

    Raises:
        UsageError: the name is not that of a preset's file, or the file exists already.
    """
    from inrflow_core.storage.atomic_write import atomic_write, check_writable

    if out.suffix != ".toml":
        raise UsageError(f"`{out}` does not end in `.toml`", hint="name the file of a preset, as in `my.toml`")
    check_writable(out, overwrite=overwrite)
    with atomic_write(out) as beside:
        beside.write_bytes(source.read_bytes())


def _short(what: str) -> str:
    """The sentence of a preset without its sources: before the first colon, but for the ablations, and without parentheses."""
    first = what if what.startswith("Ablation") else what.partition(": ")[0]
    return re.sub(r" \([^)]*\)", "", first)


def _parameters(row: dict[str, Any]) -> str:
    count = row["parameters"]
    return "-" if count is None else f"{count / 1e6:,.0f}M" if count >= 1e8 else f"{count / 1e6:.3g}M"


def _flops(row: dict[str, Any]) -> str:
    return "-" if row["training_flops"] is None else f"{row['training_flops']:.2g}"


def _hours(row: dict[str, Any]) -> str:
    hours = row["gpu_hours"]
    return "-" if hours is None else "< 0.1" if hours < 0.1 else f"{hours:,.1f}" if hours < 10 else f"{hours:,.0f}"
