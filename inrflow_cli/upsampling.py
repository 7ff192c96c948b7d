"""The three ways of `upsample`: files that are encoded, fields that were saved, and where the answers go."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inrflow_cli import console, generation, options
from inrflow_core.errors import UsageError

if TYPE_CHECKING:
    from inrflow_core.models import Model
    from inrflow_core.sampling.request import Size, Window


def targets(files: list[Path], out: Path, num: int, *, overwrite: bool) -> list[Path]:
    """One output for each file: OUT itself, or names in the folder OUT where there are several files.

    Raises:
        UsageError: an output is there already or cannot be written, or several files meet one output.
    """
    from inrflow_core.sample_files import writer

    if out.suffix == writer.SHARD:
        raise UsageError(
            "`upsample` writes no shards",
            hint="`inrflow sample` does, at any `--resolution` or number of `--points`, as in `inrflow sample out.h5`",
        )
    if len(files) < 2:
        writer.check(out, 1 if files else num, overwrite=overwrite)
        return [out]
    if not out.is_dir():
        raise UsageError(
            f"{len(files)} files need a folder to go to, and `{out}` is none", hint=f"make it with `mkdir -p {out}`"
        )
    found = [out / f"{file.stem}{'.ply' if file.suffix.lower() == '.ply' else '.png'}" for file in files]
    if len(set(found)) < len(found):
        raise UsageError("two of the files would have the same output", hint="give them different names")
    for target in found:
        writer.check(target, 1, overwrite=overwrite)
    return found


def check(model: Model) -> None:
    """Nothing, where the model draws from nothing that a user must give.

    Raises:
        UsageError: it draws from a photo or a sequence.
    """
    part = model.preset.condition
    if part is not None and part.module.GIVEN_AS:
        hint = (
            "draw at any size with `inrflow sample`, or keep the function there with `--save-field FILE` and ask that"
        )
        if model.domain.SIZE_OPTION is None:
            hint = "a protein has the atoms of its sequence and no finer ones: draw it with `inrflow sample`"
        raise UsageError(
            f"`{model.preset.name}` draws from {part.module.NOUN}, which `upsample` does not take", hint=hint
        )


def choose_size(model: Model, scale: float | None, resolution: str | None, points: int | None) -> Size:
    """The size asked for: `--scale` times the training's, else `--resolution` or `--points`.

    Raises:
        UsageError: more than one of them, or a scale that leaves nothing.
    """
    given = [
        name
        for name, value in [("--scale", scale), ("--resolution", resolution), ("--points", points)]
        if value is not None
    ]
    if len(given) > 1:
        raise UsageError(f"{' and '.join(f'`{name}`' for name in given)} both say a size", hint="give one of them")
    if scale is None:
        return generation.choose_size(model.domain, resolution, points)
    return model.domain.scale_size(scale)


def reject_options(what: str, options: Mapping[str, Any]) -> None:
    """Nothing, where none of the options is given: they say how a new sample is drawn, and `what` is none.

    Raises:
        UsageError: one is given.
    """
    for name, value in options.items():
        if value is not None:
            raise UsageError(
                f"`{name}` has no meaning for {what}",
                hint=f"leave `{name}` out, or leave the file out to draw a new sample with `--seed`",
            )


def upsample_files(
    model: Model,
    source: Path,
    files: list[Path],
    outs: list[Path],
    *,
    label: str | None,
    size: Size,
    window: Window,
    chunk: int,
    steps: int | None,
    noise: str | None,
    overwrite: bool,
) -> dict[str, Any]:
    """Encode each file, ask the function behind it, write the answer, and say how faithful it is.

    Of several labels, each file in its turn takes one.
    """
    from inrflow_core.sample_files import writer
    from inrflow_core.sampling import invert, sample
    from inrflow_core.sampling.labels import resolve_labels

    none: list[int | None] = [None] * len(files)
    labels = none if label is None else resolve_labels(model, range(len(files)), label) or none
    rows = []
    with console.progress(len(files), "files", title="upsampling") as shown:
        for file, out, chosen in zip(files, outs, labels, strict=True):
            example = invert.read_input(model, file)
            field = invert.invert(model, example, label=chosen, steps=steps or invert.INVERSION_STEPS, noise=noise)
            values = sample.evaluate(model, field, size, window, chunk=generation.query_budget(chunk))
            origin = invert.provenance(model, source, file, field, size, window, label=chosen)
            writer.write(out, example.restore(values), model.domain.NAME, origin=origin, overwrite=overwrite)
            rows.append(
                {"file": str(file), "out": str(out)} | invert.reconstruction_error(model, example, field, chunk)
            )
            shown.advance()
    for row in rows:
        score = f"{row['psnr']:.1f} dB" if "psnr" in row else f"Chamfer distance {row['chamfer']:.2e}"
        console.info(f"wrote `{row['out']}`; `{row['file']}` comes back with {score} at the training's positions")
    return {"run": str(source), "files": rows}


def upsample_saved_field(
    file: Path,
    out: Path,
    *,
    scale: float | None,
    resolution: str | None,
    window: str | None,
    points: int | None,
    chunk: int,
    device: str | None,
    overwrite: bool,
) -> dict[str, Any]:
    """Ask a field that `sample --save-field` kept; needs no run."""
    from inrflow_core.sample_files import writer
    from inrflow_core.sampling import provenance, request, sample

    model, field = sample.load_field(file, generation.choose_device(device))
    size, part = choose_size(model, scale, resolution, points), options.parse_window(window)
    writer.exporter_for(out, model.domain.NAME)
    with console.progress(None, "steps", title="asking") as shown:
        values = sample.evaluate(
            model, field, size, part, chunk=generation.query_budget(chunk), progress=generation.field_progress(shown)
        )
    origin = provenance.provenance(
        model, file, request.SampleRequest(field.seeds.tolist(), None, size, part), field.options
    )
    written = writer.write(out, values, model.domain.NAME, origin=origin, overwrite=overwrite)
    console.info("wrote " + ", ".join(f"`{path}`" for path in written))
    return {"out": [str(path) for path in written], "field": str(file)}
