"""Write samples, shards and weights in other formats."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from inrflow_cli import console
from inrflow_cli.model_options import ShippedModel
from inrflow_cli.options import Json, Overwrite, parse_checkpoint
from inrflow_core import registry
from inrflow_core.errors import UsageError, did_you_mean

if TYPE_CHECKING:
    from inrflow_core.runs.run import Step

FLAGS = {
    "is_text": "--ascii",
    "has_normals": "--normals",
    "has_colors": "--colors",
    "surface": "--surface",
    "columns": "--columns",
    "size": "--size",
    "fps": "--fps",
}
"""Settings of formats, and their options."""

SAMPLE_SUFFIXES = ", ".join(f".{name}" for name in registry.names("formats"))
"""Suffixes of files of samples: a format's file in inrflow_core/formats is named after its suffix."""

Paths = Annotated[
    list[Path],
    typer.Argument(
        metavar="[FROM] OUT",
        help="FROM: shards, or a file of samples (.h5, .npz, .ply, .pdb, .cif); a run, a checkpoint or a .safetensors file; or a saved "
        f"field. None with `--model`. OUT: of samples {SAMPLE_SUFFIXES}; of a run or a model .safetensors or .onnx; of a field "
        ".safetensors.",
        show_default=False,
    ),
]
Items = Annotated[str | None, typer.Option(metavar="0-9|3,5|all", help="Items to export. Default: the first 16.")]
Split = Annotated[str | None, typer.Option(help="Split of the shards. Default: train, or the only one.")]
Raw = Annotated[
    bool, typer.Option("--raw", help="Write point clouds in the units of their source, not scaled to [-1, 1].")
]
Ascii = Annotated[bool, typer.Option("--ascii", help="Write .ply as text.")]
Normals = Annotated[bool, typer.Option("--normals", help="Write .ply with estimated normals.")]
Colors = Annotated[
    bool | None, typer.Option("--colors/--no-colors", help="Write .ply with colors. Default: if the clouds have them.")
]
Surface = Annotated[
    str | None,
    typer.Option(metavar="poisson|pivoting", help="Surface reconstruction for .obj, .glb and .stl. Default: poisson."),
]
Columns = Annotated[int | None, typer.Option(min=1, help="Columns of a .png of several samples.")]
Size = Annotated[int | None, typer.Option(min=16, help="Pixels of each cloud in a .png.")]
Fps = Annotated[
    int | None,
    typer.Option(
        min=1,
        max=240,
        help="Frames per second: of .gif and .webp at most 50, of .mp4 240. Default: that of the clips, or 12.",
    ),
]
RunEma = Annotated[float | None, typer.Option(help="EMA decay of a run; 0 is the raw weights. Default: the first.")]
RunCheckpoint = Annotated[
    str | None, typer.Option(metavar="STEP|best", help="Checkpoint of a run. Default: the latest.")
]


def export(
    paths: Paths,
    shipped_model: ShippedModel = None,
    items: Items = None,
    split: Split = None,
    raw: Raw = False,
    ascii: Ascii = False,
    normals: Normals = False,
    colors: Colors = None,
    surface: Surface = None,
    columns: Columns = None,
    size: Size = None,
    fps: Fps = None,
    ema: RunEma = None,
    checkpoint: RunCheckpoint = None,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Write samples or prepared shards as files for other programs, or a run as one file.

    Clouds become .obj, .glb and .stl by surface reconstruction. Several clouds, or proteins of several sequences, become
    numbered files.
    """
    from inrflow_core.runs import shipped
    from inrflow_core.sample_files import item_selection, writer

    source, out = _source_and_out(paths, shipped_model)
    format_options = {
        "is_text": ascii or None,
        "has_normals": normals or None,
        "has_colors": colors,
        "surface": surface,
        "columns": columns,
        "size": size,
        "fps": fps,
    }
    format_options = {name: value for name, value in format_options.items() if value is not None}
    if out.suffix in (".safetensors", ".onnx"):
        _refuse(out, {"--split": split, "--raw": raw or None} | {FLAGS[name]: 1 for name in format_options})
        answer = _functions(source, out, items, {"--ema": ema, "--checkpoint": checkpoint}, overwrite=overwrite)
        if answer is None:
            _refuse(out, {"--items": items})
            write = _weights if out.suffix == ".safetensors" else _graphs
            answer = write(source, out, ema=ema, step=parse_checkpoint(checkpoint), overwrite=overwrite)
    elif (source / "preset.toml").is_file():
        raise UsageError(
            f"a run becomes a .safetensors or an .onnx file, not `{out}`",
            hint=f"name such a file; its samples: `inrflow sample {shipped.option_of(source)} OUT`",
        )
    else:
        writer.check_suffix(out, lambda: item_selection.domain_of(source))
        _refuse(out, {"--ema": ema, "--checkpoint": checkpoint})
        answer = _samples(source, out, format_options, items=items, split=split, is_raw=raw, overwrite=overwrite)
    console.print_json(answer, as_json=json)


def _source_and_out(paths: list[Path], model: str | None) -> tuple[Path, Path]:
    """FROM, or the weights file of a model that comes with inrflow, and OUT.

    Raises:
        UsageError: a path is missing or superfluous, no model has this name, or OUT is not of its weights.
    """
    from inrflow_core.runs import shipped

    *sources, out = paths
    if model is None and len(sources) != 1:
        raise UsageError(
            f"`export` writes FROM as OUT, and {len(paths)} path{'s are' if sources else ' is'} named",
            hint="name what to export, then the file to write: `inrflow export samples.h5 out.npz`; or add `--model NAME`",
        )
    if model is None:
        return sources[0], out
    if sources:
        raise UsageError("FROM and `--model` exclude each other", hint=f"write `inrflow export --model {model} OUT`")
    if out.suffix not in (".safetensors", ".onnx"):
        raise UsageError(
            f"a model becomes a .safetensors or an .onnx file, not `{out}`",
            hint=f"name such a file; its samples: `inrflow sample --model {model} OUT`",
        )
    return shipped.weights_file(model), out


def _samples(
    source: Path,
    out: Path,
    format_options: dict[str, Any],
    *,
    items: str | None,
    split: str | None,
    is_raw: bool,
    overwrite: bool,
) -> dict[str, Any]:
    from inrflow_core.sample_files import item_selection, writer

    if out.suffix == writer.SHARD:
        raise UsageError("`export` writes no shards", hint="`inrflow prepare` and `inrflow sample out.h5` do")
    module = writer.exporter_for(out)
    allowed = writer.options(module)
    _refuse(out, {FLAGS[name]: value for name, value in format_options.items() if name not in allowed})
    _check_surface(format_options.get("surface"))
    with console.announce(f"reading `{source}`"):
        selection = item_selection.read(source, split=split, items=items, is_raw=is_raw)
    if selection.frame_rate is not None and "fps" in allowed:
        format_options = {"fps": min(max(selection.frame_rate, 1.0), module.MOST_FPS), **format_options}
    settings: dict[str, Any] = {"origin": selection.origin, "items": selection.items, "arrays": selection.arrays}
    settings |= {"overwrite": overwrite, **format_options}
    with console.announce(f"writing {len(selection.values):,} as `{out}`", "files") as progress:
        written = writer.write(out, selection.values, selection.domain, progress=progress, **settings)
    rest = (
        "" if items is not None or len(selection.values) == selection.total else f", the first of {selection.total:,}"
    )
    names = f"`{written[0]}`" if len(written) == 1 else f"`{written[0]}` ... `{written[-1]}`"
    console.info(f"wrote {names}: {len(selection.values):,} of `{source}`{rest}")
    if is_raw and getattr(selection.values, "dtype", None) == "float64":
        console.warn("clouds far from the origin: shards keep centers in single precision, so places are rounded by it")
    if any(getattr(sample, "other_chains", 0) for sample in selection.values):
        console.warn(f"`{source}` has several chains: the first is written")
    return {"out": [str(path) for path in written], "items": len(selection.values), "of": selection.total}


def _functions(
    source: Path, out: Path, items: str | None, of_runs: dict[str, Any], *, overwrite: bool
) -> dict[str, Any] | None:
    """Write functions of a saved field; None if the source is another file."""
    from inrflow_core.sampling import function_files

    if not function_files.is_field_file(source):
        return None
    if out.suffix != ".safetensors":
        raise UsageError(
            f"a saved field becomes no `{out.suffix}` file", hint="write `.safetensors`, or export its run"
        )
    _refuse(out, of_runs, "of a saved field")
    written = function_files.export_functions(source, out, items=items, overwrite=overwrite)
    console.info("wrote " + ", ".join(f"`{path}`" for path in written))
    return {"out": [str(path) for path in written], "field": str(source)}


def _weights(source: Path, out: Path, *, ema: float | None, step: Step, overwrite: bool) -> dict[str, Any]:
    from inrflow_core.runs import export, shipped
    from inrflow_core.storage import atomic_write

    atomic_write.check_writable(out, overwrite=overwrite)
    with console.announce(f"copying the weights of `{shipped.title_of(source)}`"):
        metadata = export.copy_weights(source, out, ema=ema, step=step)
    console.info(f"wrote `{out}`: `{metadata['preset']}` at step {metadata.get('step', 'unknown')}")
    return {"out": [str(out)], **metadata}


def _graphs(source: Path, out: Path, *, ema: float | None, step: Step, overwrite: bool) -> dict[str, Any]:
    from inrflow_core.runs import export, run
    from inrflow_core.sampling import provenance, sample
    from inrflow_core.storage import atomic_write

    atomic_write.check_writable(out, overwrite=True)  # whether its files exist is known with the model
    weights = run.resolve_weights(source, ema=ema, step=step)
    model = sample.load(weights, device="cpu")
    for path in export.output_paths(model, out):
        atomic_write.check_writable(path, overwrite=overwrite)
    origin = provenance.provenance_of_file(weights, model, None)
    console.info(f"tracing `{model.preset.name}`: half a minute for a small model, some for a large one")
    with console.announce(f"tracing `{model.preset.name}`"):
        differences = export.export_onnx(model, out, origin=origin)
    for path, difference in differences.items():
        console.info(f"wrote `{path}`: its values are torch's to {difference:.1e} of their rms")
    return {"out": list(map(str, differences)), "difference": max(differences.values()), "origin": origin}


def _refuse(out: Path, options: dict[str, Any], of: str = "") -> None:
    from inrflow_core.sample_files import writer

    for option, value in options.items():
        if value is not None:
            what = f"a `{writer.format_suffix(out)}` file {of}".rstrip()
            raise UsageError(f"`{option}` does not apply to {what}", hint=f"leave `{option}` out")


def _check_surface(surface: str | None) -> None:
    methods = ("poisson", "pivoting")
    if surface is not None and surface not in methods:
        raise UsageError(
            f"`--surface {surface}` is not a method of surface reconstruction", hint=did_you_mean(surface, methods)
        )
