"""Evaluate input files and saved fields at a higher resolution."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from inrflow_core.domains._contract import HasFrames, InputExample
from inrflow_core.errors import UsageError
from inrflow_core.fields import Camera, Field
from inrflow_core.geometry import cloud_files
from inrflow_core.mesh_files import reading
from inrflow_core.models import Model
from inrflow_core.runtime.progress import (
    SILENT,
    Announce,
    Progress,
    RepeatableProgress,
    Reporter,
    TrackProgress,
    no_announcement,
    no_report,
)
from inrflow_core.runtime.query_budget import CHUNK, QueryBudget
from inrflow_core.sample_files import writer
from inrflow_core.sampling import invert, provenance, sample, write_samples
from inrflow_core.sampling.labels import resolve_labels
from inrflow_core.sampling.request import SampleRequest, Size, Window
from inrflow_core.storage import atomic_write
from inrflow_core.visualization import video_io

ERRORS = {
    "psnr": "{:.1f} dB at the training's positions",
    "chamfer": "Chamfer distance {:.2e} at the training's positions",
    "chamfer_l1": "Chamfer-L1 {:.4f} tenths of its longest side",
    "iou": "IoU {:.3f}",
    "color_psnr": "{:.1f} dB in the colors of its points",
}
"""Errors of reconstructions in words, by their names in the domain."""


@dataclass(frozen=True)
class Upsampling:
    """Where functions are evaluated, and how input files are inverted."""

    size: Size = None
    window: Window = None
    chunk: int = CHUNK
    label: str | None = None
    """The class of the input files; of several, separated by commas, each file takes one in turn."""
    steps: int | None = None
    """Solver steps of the inversion. Default: `invert.INVERSION_STEPS`."""
    noise: str | None = None
    """Interpolation of the noise between training positions. Default: the preset's."""
    save_field: Path | None = None
    """Also save the function of the input file in this .safetensors file."""
    camera: Camera | None = None
    """Of input files that are views of scenes. Default: that of the preset."""


def output_paths(files: list[Path], out: Path, num: int, *, overwrite: bool = False) -> list[Path]:
    """One output for each file: `out` itself, or names in the folder `out` for several files.

    `num` is the number of samples that `out` gets if there are no files.

    Raises:
        UsageError: an output exists, without `overwrite`, or cannot be written, or two files have the same output.
    """
    if out.suffix == writer.SHARD:
        raise UsageError(
            "`upsample` does not write shards",
            hint="`inrflow sample` does, at any `--resolution` or number of `--points`, as in `inrflow sample out.h5`",
        )
    if len(files) < 2:
        writer.check(out, 1 if files else num, overwrite=overwrite)
        return [out]
    if not out.is_dir():
        raise UsageError(
            f"{len(files)} files need a folder as output, and `{out}` is not a folder",
            hint=f"make one with `mkdir -p {out.with_suffix('')}`, and name that",
        )
    targets = [out / f"{file.stem}{_suffix(file)}" for file in files]
    if len(set(targets)) < len(targets):
        raise UsageError("two of the files would have the same output", hint="give them different names")
    for path in targets:
        writer.check(path, 1, overwrite=overwrite)
    return targets


def _suffix(file: Path) -> str:
    """The suffix of the output of an input file in a folder."""
    if file.suffix.lower() in video_io.VIDEO_SUFFIXES:
        return ".mp4"
    return ".ply" if file.suffix.lower() in (*reading.SUFFIXES, *cloud_files.SUFFIXES) else ".png"


def _clip_paths(files: Sequence[Path], outs: Sequence[Path], *, overwrite: bool) -> list[Path]:
    """The outputs of several files of clips: folders of frames and animations become such again.

    Raises:
        UsageError: an output exists, without `overwrite`, or cannot be written.
    """
    paths = list(outs)
    for number, file in enumerate(files):
        if file.is_dir() or file.suffix.lower() in video_io.ANIMATION_SUFFIXES:
            paths[number] = outs[number].with_suffix(".frames" if file.is_dir() else file.suffix.lower())
            writer.check(paths[number], 1, overwrite=overwrite)
    return paths


def check_model(model: Model, *, has_files: bool) -> None:
    """Raise UsageError if a model needs a condition from the user, such as an image or a sequence.

    A method that encodes files by one call of a network needs none for these.
    """
    part = model.preset.condition
    encodes = has_files and getattr(model.preset.method.module, "ENCODES", False)
    if part is None or not part.module.GIVEN_AS or encodes:
        return
    source = "--run RUN" if model.title is None else f"--model {model.title}"
    command = f"`inrflow sample {source} OUT` with {part.module.OPTION_HINT}"
    hint = f"sample at any size by {command}, or save the field with its `--save-field FILE` and upsample that"
    if model.domain.SIZE_OPTION is None:
        hint = f"a protein has the atoms of its sequence and cannot be refined: use {command}"
    raise UsageError(f"`{model.name}` is conditioned on {part.module.NOUN}, which `upsample` does not take", hint=hint)


def upsample_files(
    model: Model,
    weights: Path,
    files: Sequence[Path],
    outs: Sequence[Path],
    settings: Upsampling,
    *,
    overwrite: bool = False,
    reporter: Reporter = SILENT,
) -> dict[str, Any]:
    """Invert each image, video, point cloud or mesh, evaluate its function, and write the result.

    Returns:
        `run`, and `files` with one entry per file: its output, and the reconstruction error at the training's positions
        as `psnr` (dB) or `chamfer`; of shapes `chamfer_l1` and, for watertight meshes, `iou`.

    Raises:
        UsageError, MissingError: a file that cannot be read, or is not of the model's domain; a field of several files;
            of several clips an output that exists, without `overwrite`.
    """
    if settings.save_field is not None:
        if len(files) > 1:
            raise UsageError("`--save-field` saves the function of one file", hint="give one file, or leave it out")
        atomic_write.check_writable(settings.save_field, overwrite=overwrite)
    if len(files) > 1 and isinstance(model.domain, HasFrames):
        outs = _clip_paths(files, outs, overwrite=overwrite)
    for out in outs:
        write_samples.check_frame_rate(model, settings.size, out)
    none: list[int | None] = [None] * len(files)
    labels = none if settings.label is None else resolve_labels(model, range(len(files)), settings.label) or none
    rows, read_at = [], []
    with _progress(reporter, len(files)) as (of_files, of_parts, announce):
        for file, out, label in zip(files, outs, labels, strict=True):
            example = invert.read_input(model, file, settings.camera)
            with of_parts("inverting", "evaluations") as progress:
                field = invert.invert(
                    model, example, label=label, steps=settings.steps, noise=settings.noise, progress=progress
                )
            if settings.save_field is not None:
                sample.save_field(model, field.cache_context(), settings.save_field)
            budget = QueryBudget(settings.chunk, warn=reporter.warn)
            with of_parts("evaluating", "steps") as progress:
                values = sample.evaluate(model, field, settings.size, settings.window, chunk=budget, progress=progress)
            origin = invert.provenance(model, weights, file, field, settings.size, settings.window, label=label)
            if isinstance(values, list):
                samples = [example.mesh_to_source_units(mesh) for mesh in values]
            else:
                samples = example.to_source_units(values)
            beside = write_samples.beside_samples(model, settings.size, field.condition, out)
            with announce(f"writing `{out}`"):
                writer.write(out, samples, model.domain.NAME, origin=origin, overwrite=overwrite, **beside)
            with announce("computing the error of the reconstruction"):
                error = invert.reconstruction_error(model, example, field, settings.chunk)
            rows.append({"file": str(file), "out": str(out)} | error)
            read_at.append(_read_at(example))
            of_files(len(rows), len(files))
    for row, size in zip(rows, read_at, strict=True):
        score = ", ".join(form.format(row[name]) for name, form in ERRORS.items() if name in row)
        reporter.log(f"wrote `{row['out']}`; `{row['file']}`{size} is reconstructed to {score or 'an empty shape'}")
    return {"run": str(weights), "files": rows}


def _read_at(example: InputExample) -> str:
    """At which size the model reads an image, which is the one that is inverted; empty of anything else."""
    values = example.values
    is_image = isinstance(values, np.ndarray) and values.dtype == np.uint8 and values.ndim == 3
    return f", read at {values.shape[0]} x {values.shape[1]} pixels," if is_image else ""


@contextmanager
def _progress(reporter: Reporter, count: int) -> Iterator[tuple[Progress, TrackProgress, Announce]]:
    """What counts `count` files, and what shows and names the parts of the work on one: of several files the files are shown."""
    if count == 1:
        yield no_report, reporter.progress, reporter.announce
        return
    with reporter.progress("upsampling", "files", count) as shown:
        files = RepeatableProgress(shown, (0, count))
        yield files, lambda title, unit, total=None: nullcontext(lambda done, total: files.repeat()), no_announcement


def upsample_saved_field(
    model: Model,
    field: Field,
    source: Path,
    out: Path,
    settings: Upsampling,
    *,
    overwrite: bool = False,
    reporter: Reporter = SILENT,
) -> list[Path]:
    """Evaluate a field that `sample.load_field` loaded from the file `source`, and write the result; returns the files.

    Raises:
        UsageError: no such format, or an output exists, without `overwrite`.
    """
    writer.exporter_for(out, model.domain.NAME)
    write_samples.check_frame_rate(model, settings.size, out)
    with reporter.progress("evaluating", "steps") as progress:
        budget = QueryBudget(settings.chunk, warn=reporter.warn)
        values = sample.evaluate(model, field, settings.size, settings.window, chunk=budget, progress=progress)
    request = SampleRequest(field.seeds.tolist(), None, settings.size, settings.window)
    origin = provenance.provenance(model, source, request, field.options)
    beside = write_samples.beside_samples(model, settings.size, field.condition, out)
    with reporter.announce(f"writing `{out}`", "files") as progress:
        of_samples: dict[str, Any] = {"origin": origin, "overwrite": overwrite, "progress": progress, **beside}
        written = writer.write(out, values, model.domain.NAME, **of_samples)
    reporter.log("wrote " + ", ".join(f"`{path}`" for path in written))
    return written
