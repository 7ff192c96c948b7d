"""Sample from a run: images, point clouds, structures, shards of many samples."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from inrflow_cli import condition_options, console
from inrflow_cli.model_options import (
    Checkpoint,
    Ema,
    GuideRun,
    ShippedModel,
    domain_of,
    guide_weights,
    note_label,
    open_model,
    source_of,
    warn_of_depths,
)
from inrflow_cli.options import (
    Azimuth,
    Batch,
    Chunk,
    Compile,
    Device,
    Distance,
    Elevation,
    FieldOfView,
    Fps,
    Frames,
    Guidance,
    GuidanceInterval,
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
    Seeds,
    Steps,
    Threads,
    Views,
    Window,
    check_field_path,
    parse_checkpoint,
    parse_interval,
    parse_seeds,
    parse_window,
    sampling_arguments,
)
from inrflow_core import registry
from inrflow_core.errors import UsageError

if TYPE_CHECKING:
    from inrflow_core.models import Model
    from inrflow_core.sampling.request import SizeOptions
    from inrflow_core.sampling.sample_to_files import WrittenSamples

Out = Annotated[
    Path,
    typer.Argument(
        help=f"Output: a file ({', '.join(f'.{name}' for name in registry.names('formats'))} or .h5), or a folder of .h5 "
        "shards; of videos the folder `frames` has PNG files, as .frames.",
        show_default=False,
    ),
]
FieldFp16 = Annotated[bool, typer.Option("--field-fp16", help="Save the fields in fp16: half the size.")]
Sheet = Annotated[
    Path | None,
    typer.Option(
        help="Also write one .png of all samples, with class and seed above each, small images magnified.",
        show_default=False,
    ),
]
ShardWorkers = Annotated[
    int, typer.Option(min=1, help="Processes that fill a folder of shards together; they take GPUs in turn.")
]


def sample(
    out: Out,
    run: Run = None,
    shipped_model: ShippedModel = None,
    num: Num = 1,
    seed: Seed = 0,
    seeds: Seeds = None,
    label: Label = None,
    guidance: Guidance = None,
    guidance_interval: GuidanceInterval = None,
    guide_run: GuideRun = None,
    image: condition_options.Image = None,
    azimuth: Azimuth = None,
    elevation: Elevation = None,
    distance: Distance = None,
    field_of_view: FieldOfView = None,
    sequence: condition_options.Sequence = None,
    fasta: condition_options.Fasta = None,
    text: condition_options.Text = None,
    texts: condition_options.Texts = None,
    form: condition_options.Format = condition_options.FORMAT,
    weights: condition_options.Weights = None,
    sampler: Sampler = None,
    steps: Steps = None,
    override: SamplingSet = None,
    resolution: Resolution = None,
    window: Window = None,
    points: Points = None,
    views: Views = None,
    frames: Frames = None,
    fps: Fps = None,
    level: Level = None,
    noise: Noise = None,
    chunk: Chunk = 4096,
    batch: Batch = None,
    ema: Ema = None,
    checkpoint: Checkpoint = None,
    save_field: SaveField = None,
    field_fp16: FieldFp16 = False,
    sheet: Sheet = None,
    precision: Precision = "fp32",
    compile: Compile = False,
    device: Device = None,
    threads: Threads = None,
    workers: ShardWorkers = 1,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Sample, and write the samples in the format of the suffix of OUT.

    Each seed defines one sample, independent of the batch size, the chunk size and the number of processes.
    """
    from inrflow_core.fields import Camera
    from inrflow_core.sample_files import writer
    from inrflow_core.sampling.labels import resolve_labels
    from inrflow_core.sampling.request import SampleRequest, SizeOptions, choose_size, domains_of_options
    from inrflow_core.sampling.sample_to_files import OutputSettings, sample_to_files
    from inrflow_core.sampling.sharded import SampleJob

    run = source_of(run, shipped_model)
    _check_field(save_field, is_fp16=field_fp16)
    camera = Camera(azimuth, elevation, distance, field_of_view)
    image_camera = condition_options.image_camera(camera)
    conditions = condition_options.ConditionOptions(image, sequence, fasta, image_camera, weights, text, texts)
    of_views = camera if image is None else Camera()
    sizes = SizeOptions(resolution, points, views=views, camera=of_views, level=level, frames=frames, fps=fps)
    condition_options.check(conditions, label, form)
    selected = parse_seeds(seeds, seed=seed, num=num)
    target = _target(out, form, fasta, workers)
    _check_cameras(sizes, target)
    if target == out:
        writer.check_suffix(out, lambda: domain_of(run), has_shards=True)
        is_shard = out.suffix.lower() == writer.SHARD  # a finished one is compared with the request
        writer.check(out, len(selected), overwrite=overwrite or is_shard)
    model, source = open_model(
        run, target, ema=ema, step=parse_checkpoint(checkpoint), device=device, threads=threads,
        domains=domains_of_options(sizes, parse_window(window)), condition=conditions.conditioner,
    )  # fmt: skip
    if fasta is None and target != out and writer.format_suffix(out, model.domain.NAME):  # not of shards
        _check_workers(workers)
        target = out
        writer.check(out, len(selected), overwrite=overwrite)
    _check_sheet(sheet, out, target, len(selected), overwrite=overwrite)
    size = choose_size(model.domain, sizes, target.suffix, model.frame_rate)
    warn_of_depths(model, size)
    interval = parse_interval(guidance_interval)
    settings = sampling_arguments(
        sampler, steps, override, precision, guidance=guidance, guidance_interval=interval, noise=noise
    )
    _check_protein(model, target, save_field)
    request = SampleRequest(selected, resolve_labels(model, selected, label), size, parse_window(window), chunk, batch)
    note_label(model, label)
    output_path = out if fasta is None else target
    job = SampleJob(source, output_path, request, {}, settings, guide_weights(guide_run), device, threads, compile)
    written = sample_to_files(
        job,
        model=model,
        condition=lambda model: condition_options.condition_from_options(model, conditions),
        output=OutputSettings(save_field, field_fp16, fasta, weights, workers, sheet, overwrite),
        reporter=console.reporter(),
    )
    _print_written(model, out, written, is_folded=fasta is not None)
    answer = {"out": [str(path) for path in written.files], "run": str(source)}
    if sheet is not None:
        console.info(f"wrote `{sheet}`")
        answer["sheet"] = str(sheet)
    console.print_json(answer if fasta is not None else {**answer, "origin": written.origin}, as_json=json)


def _target(out: Path, form: str, fasta: Path | None, workers: int) -> Path:
    """The file name by which a run is chosen: OUT, or one in it where that is a folder."""
    if out.suffix or fasta is not None:
        _check_workers(workers)
    if fasta is not None:
        return condition_options.check_folder(out, form)
    return out if out.suffix else out / "samples.h5"


def _check_workers(workers: int) -> None:
    """Raise UsageError for several processes, where OUT is not a folder of shards."""
    if workers > 1:
        raise UsageError(
            "`--workers` needs a folder of shards as OUT", hint="name a folder, or start the command several times"
        )


def _check_cameras(sizes: SizeOptions, target: Path) -> None:
    """Raise UsageError for cameras of views where the file cannot hold views."""
    from inrflow_core.sample_files import writer

    if not sizes.cameras or writer.holds_views(target):
        return
    if sizes.views is not None:
        raise UsageError(f"`--views` is of views, which a `{target.suffix}` file does not hold", hint="leave it out")
    raise UsageError(
        f"`{sizes.cameras[0]}` is of the camera of `--image`, which is not given, or of views, which a "
        f"`{target.suffix}` file does not hold",
        hint="add `--image FILE`, or leave it out",
    )


def _check_field(save_field: Path | None, *, is_fp16: bool) -> None:
    if save_field is None and is_fp16:
        raise UsageError("`--field-fp16` needs `--save-field`", hint="add `--save-field FILE`")
    check_field_path(save_field)


def _check_sheet(sheet: Path | None, out: Path, target: Path, num: int, *, overwrite: bool) -> None:
    """Raise UsageError for a sheet that cannot be written, or of samples that are not drawn together."""
    from inrflow_core.sample_files import writer

    if sheet is None:
        return
    is_output = target == out and sheet.resolve() in {path.resolve() for path in writer.files(out, num)}
    if sheet.suffix.lower() != ".png" or is_output:
        raise UsageError(f"`--sheet {sheet}`: a sheet is a .png file beside OUT", hint="name another file: sheet.png")
    if target != out or target.suffix.lower() == writer.SHARD:
        raise UsageError(
            "`--sheet` is of samples that are drawn together, and OUT is of shards or of folded sequences",
            hint="leave it out, and draw shards or one file of a sequence afterwards: `inrflow export FROM sheet.png`",
        )
    writer.check(sheet, 1, overwrite=overwrite)


def _check_protein(model: Model, target: Path, save_field: Path | None) -> None:
    """Raise UsageError for outputs that a protein does not have."""
    if model.domain.MAKES_STRUCTURES and (save_field is not None or target.suffix.lower() == ".h5"):
        raise UsageError(
            "protein samples have a fixed set of atoms: they cannot be saved as a field or as .h5",
            hint="write .pdb or .cif, or `--fasta FILE` into a folder",
        )


def _print_written(model: Model, out: Path, written: WrittenSamples, *, is_folded: bool) -> None:
    """Report the files, and how many samples of which size they have."""
    files, request = written.files, written.request
    num = len(request.seeds)
    if is_folded:
        console.info(f"`{out}` has {len(files)} files: {num} samples of each of {len(files)} sequences")
        return
    names = f"`{files[0]}`" if len(files) == 1 else f"`{files[0]}` ... `{files[-1]}`"
    size = model.domain.describe_size(request.size, request.condition or None)
    samples = "1 sample" if num == 1 else f"{num:,} samples"
    console.info(f"wrote {names}: {samples} of `{model.name}`, {size}{' each' if num > 1 else ''}")
