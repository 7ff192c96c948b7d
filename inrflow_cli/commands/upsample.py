"""Evaluate at a higher resolution: new samples, input files or saved fields."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from inrflow_cli import console
from inrflow_cli.model_options import (
    Checkpoint,
    Ema,
    ShippedModel,
    domain_of,
    note_label,
    open_model,
    source_of,
    warn_of_depths,
)
from inrflow_cli.options import (
    Azimuth,
    Chunk,
    Compile,
    Device,
    Distance,
    Elevation,
    FieldOfView,
    Fps,
    Frames,
    Guidance,
    Json,
    Label,
    Level,
    Noise,
    Num,
    Overwrite,
    Points,
    Precision,
    Resolution,
    Run,
    Sampler,
    SamplingSet,
    SaveField,
    Seed,
    Steps,
    Threads,
    Views,
    Window,
    check_field_path,
    parse_camera,
    parse_checkpoint,
    parse_window,
    reject_options,
    sampling_arguments,
)

if TYPE_CHECKING:
    from inrflow_core.fields import Field
    from inrflow_core.models import Model
    from inrflow_core.sampling.request import SizeOptions
    from inrflow_core.sampling.sharded import SampleJob
    from inrflow_core.sampling.upsample import Upsampling

HINT_CAMERA = "name a photo, or leave it out: `--azimuth`, `--elevation`, `--distance` and `--fov` are of the views"
HINT = "leave it out, or leave the file out to draw new samples with `--seed`"

Paths = Annotated[
    list[Path],
    typer.Argument(metavar="[FILE]... OUT", help="Input files, if any, and the output.", show_default=False),
]
FileCamera = Annotated[
    str | None,
    typer.Option(
        "--camera",
        metavar="NUMBERS",
        help="The camera of FILE, a photo of a scene: azimuth, elevation, distance and field of view, as in 30,20,1.3. "
        "Default: that of the preset.",
    ),
]
Scale = Annotated[
    float | None,
    typer.Option(help="Scale factor for height and width (of a video's frames too), or for the number of points."),
]


def upsample(
    paths: Paths,
    run: Run = None,
    shipped_model: ShippedModel = None,
    scale: Scale = None,
    resolution: Resolution = None,
    window: Window = None,
    points: Points = None,
    file_camera: FileCamera = None,
    views: Views = None,
    frames: Frames = None,
    fps: Fps = None,
    azimuth: Azimuth = None,
    elevation: Elevation = None,
    distance: Distance = None,
    field_of_view: FieldOfView = None,
    level: Level = None,
    num: Num = 1,
    seed: Seed = 0,
    label: Label = None,
    guidance: Guidance = None,
    sampler: Sampler = None,
    steps: Steps = None,
    override: SamplingSet = None,
    noise: Noise = None,
    save_field: SaveField = None,
    chunk: Chunk = 4096,
    ema: Ema = None,
    checkpoint: Checkpoint = None,
    precision: Precision = "fp32",
    compile: Compile = False,
    device: Device = None,
    threads: Threads = None,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Evaluate samples or input files at a higher resolution.

    Without FILE: the samples that `inrflow sample --seed` draws. An image or a point cloud FILE is inverted first: its noise
    is found by solving the ODE backwards. A .safetensors FILE is a field of `--save-field`. Several FILEs need a folder as OUT.
    """
    from inrflow_core.fields import Camera
    from inrflow_core.sample_files import writer
    from inrflow_core.sampling import optimize, upsample
    from inrflow_core.sampling.request import (
        SampleRequest,
        SizeOptions,
        choose_size,
        domains_of_files,
        domains_of_options,
    )
    from inrflow_core.sampling.sharded import SampleJob

    *files, out = paths
    if len(files) < 2:
        writer.check_suffix(out, lambda: domain_of(source_of(run, shipped_model)))
    targets = upsample.output_paths(files, out, num, overwrite=overwrite)
    check_field_path(save_field)
    new = {"--num": None if num == 1 else num, "--seed": seed or None, "--guidance": guidance, "--sampler": sampler}
    new |= {"--set": override, "--precision": None if precision == "fp32" else precision}
    camera = parse_camera(file_camera)
    upsampling = upsample.Upsampling(None, parse_window(window), chunk, label, steps, noise, save_field, camera)
    view = Camera(azimuth, elevation, distance, field_of_view)
    sizes = SizeOptions(resolution, points, scale, views, view, level, frames, fps)
    if len(files) == 1 and files[0].suffix == ".safetensors":
        run_only = {"--run": run, "--label": label, "--steps": steps, "--ema": ema, "--checkpoint": checkpoint}
        run_only |= {"--model": shipped_model, "--noise": noise, "--compile": compile or None}
        run_only |= {"--save-field": save_field, "--camera": file_camera}
        reject_options(new | run_only, "does not apply to a saved field", HINT)
        loaded = _load_field(files[0], device, threads)
        console.print_json(
            _upsample_field(*loaded, files[0], out, upsampling, sizes, overwrite=overwrite), as_json=json
        )
        return
    domains = domains_of_files(files) if files else domains_of_options(sizes, upsampling.window)
    model, weights = open_model(
        source_of(run, shipped_model), targets[0], ema=ema, step=parse_checkpoint(checkpoint), device=device, threads=threads,
        domains=domains,
    )  # fmt: skip
    upsample.check_model(model, has_files=bool(files))
    upsampling = replace(upsampling, size=choose_size(model.domain, sizes, targets[0].suffix, model.frame_rate))
    warn_of_depths(model, upsampling.size)
    note_label(model, label)
    if files:
        reject_options(new, "does not apply to an input file, which Heun's method inverts without guidance", HINT)
        model = replace(model, method=optimize.compile_network(model.method)) if compile else model
        answer = upsample.upsample_files(
            model, weights, files, targets, upsampling, overwrite=overwrite, reporter=console.reporter()
        )
    else:
        reject_options({"--camera": file_camera}, "is the camera of an input file", HINT_CAMERA)
        settings = sampling_arguments(sampler, steps, override, precision, guidance=guidance, noise=noise)
        request = SampleRequest(range(seed, seed + num), None, upsampling.size, upsampling.window, chunk)
        job = SampleJob(weights, out, request, {}, settings, device=device, compile=compile)
        answer = _sample(model, job, label, save_field, overwrite=overwrite)
    console.print_json(answer, as_json=json)


def _load_field(file: Path, device: str | None, threads: int | None) -> tuple[Model, Field]:
    import torch

    from inrflow_core.runtime import distributed
    from inrflow_core.sampling import sample

    if threads is not None:
        torch.set_num_threads(threads)
    return sample.load_field(file, distributed.process_device(device))


def _upsample_field(
    model: Model, field: Field, file: Path, out: Path, upsampling: Upsampling, sizes: SizeOptions, *, overwrite: bool
) -> dict[str, Any]:
    """Evaluate the saved field of a file, and write the result."""
    from inrflow_core.sampling.request import choose_size
    from inrflow_core.sampling.upsample import upsample_saved_field

    upsampling = replace(upsampling, size=choose_size(model.domain, sizes, out.suffix, model.frame_rate))
    warn_of_depths(model, upsampling.size)
    written = upsample_saved_field(
        model, field, file, out, upsampling, overwrite=overwrite, reporter=console.reporter()
    )
    return {"out": [str(path) for path in written], "field": str(file)}


def _sample(
    model: Model, job: SampleJob, label: str | None, save_field: Path | None, *, overwrite: bool
) -> dict[str, Any]:
    """Draw new samples and write them."""
    from inrflow_core.sampling.labels import resolve_labels
    from inrflow_core.sampling.sample_to_files import OutputSettings, sample_to_files

    request = replace(job.request, labels=resolve_labels(model, job.request.seeds, label))
    job = replace(job, request=request)
    output = OutputSettings(save_field, overwrite=overwrite)
    written = sample_to_files(job, model=model, output=output, reporter=console.reporter())
    console.info("wrote " + ", ".join(f"`{path}`" for path in written.files))
    return {"out": [str(path) for path in written.files], "run": str(job.weights), "origin": written.origin}
