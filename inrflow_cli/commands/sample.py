"""Draw new functions from a run and ask them: images, clouds, shards of many samples."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from inrflow_cli import conditions, console
from inrflow_cli.options import (
    Chunk,
    Compile,
    Device,
    Guidance,
    Json,
    Label,
    Num,
    Overwrite,
    Points,
    Precision,
    Resolution,
    Run,
    Sampler,
    SamplerSettings,
    Seed,
    Seeds,
    Steps,
    Threads,
    Window,
    parse_seeds,
    parse_window,
)
from inrflow_core.errors import UsageError

if TYPE_CHECKING:
    from inrflow_core.models import Model
    from inrflow_core.sampling.request import SampleRequest

Ema = Annotated[float | None, typer.Option(help="EMA decay to draw from; 0 is the raw weights. Default: the first.")]
Checkpoint = Annotated[
    str | None, typer.Option(metavar="STEP|best", help="Which checkpoint to draw from, instead of the newest.")
]
Noise = Annotated[
    str | None,
    typer.Option(metavar="linear|cubic|independent", help="How the noise goes on between training positions."),
]


def sample(
    out: Annotated[
        Path,
        typer.Argument(
            help="What to write: .png, .ply, .npz, .pdb, .cif or .h5, or a folder of .h5 shards.", show_default=False
        ),
    ],
    run: Run = None,
    num: Num = 1,
    seed: Seed = 0,
    seeds: Seeds = None,
    label: Label = None,
    guidance: Guidance = None,
    guidance_interval: Annotated[
        str | None, typer.Option(metavar="LOW,HIGH", help="Times between which guidance acts, as in 0.1,0.9.")
    ] = None,
    guide: Annotated[Path | None, typer.Option(help="A second run to guide with (autoguidance).")] = None,
    image: conditions.Photo = None,
    azimuth: conditions.Azimuth = conditions.CAMERA[0],
    elevation: conditions.Elevation = conditions.CAMERA[1],
    distance: conditions.Distance = conditions.CAMERA[2],
    field_of_view: conditions.FieldOfView = conditions.CAMERA[3],
    sequence: conditions.Sequence = None,
    fasta: conditions.Fasta = None,
    form: conditions.Form = conditions.FORM,
    weights: conditions.Weights = None,
    sampler: Sampler = None,
    steps: Steps = None,
    override: SamplerSettings = None,
    resolution: Resolution = None,
    window: Window = None,
    points: Points = None,
    noise: Noise = None,
    chunk: Chunk = 4096,
    batch: Annotated[int | None, typer.Option(min=1, help="Samples drawn together; changes nothing.")] = None,
    ema: Ema = None,
    checkpoint: Checkpoint = None,
    save_field: Annotated[
        Path | None, typer.Option(help="Also keep the functions as .safetensors, for `inrflow upsample`.")
    ] = None,
    half_field: Annotated[bool, typer.Option("--half-field", help="Keep them in fp16: half the size.")] = False,
    precision: Precision = "fp32",
    compile: Compile = False,
    device: Device = None,
    threads: Threads = None,
    workers: Annotated[
        int, typer.Option(min=1, help="Processes that fill a folder of shards together; each takes GPUs in turn.")
    ] = 1,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Draw new samples and write them, in the format that the suffix of OUT names.

    Sample i depends on its seed alone, whatever the batch, the chunk or the number of processes.
    """
    same = dict(locals())
    from inrflow_cli import generation, many
    from inrflow_core.sample_files import writer
    from inrflow_core.sampling import optimize, provenance
    from inrflow_core.sampling.labels import resolve_labels
    from inrflow_core.sampling.options import sampling_options
    from inrflow_core.sampling.request import SampleRequest

    _check_field(save_field, half_field)
    given = conditions.ConditionOptions(image, sequence, fasta, (azimuth, elevation, distance, field_of_view), weights)
    conditions.check(given, label, form)
    wanted = parse_seeds(seeds, seed=seed, num=num)
    target = _named(out, form, fasta, workers)
    if target == out:
        writer.check(out, len(wanted), overwrite=overwrite)
    domain, needs = given.wanted
    domain = "image" if resolution or window else "points" if points is not None else domain
    step = generation.parse_checkpoint(checkpoint)
    model, source = generation.open_model(
        run, target, ema=ema, step=step, device=device, threads=threads, wanted=(domain, needs)
    )
    size = generation.choose_size(model.domain, resolution, points)
    guiding, other = _open_guide(guide, device)
    how = sampling_options(
        model,
        sampler=sampler,
        steps=steps,
        sampler_settings=generation.parse_settings(override),
        guide=other,
        precision=precision,
        guidance=guidance,
        guidance_interval=generation.parse_interval(guidance_interval),
        noise=noise,
    )
    _check_places(model, target, save_field)
    labels = resolve_labels(model, wanted, label)
    request = SampleRequest(wanted, labels, size, parse_window(window), chunk, batch)
    origin = provenance.provenance(model, source, request, how, guiding)
    model, how = optimize.optimize_for_inference(model, how, compile=compile)
    if fasta is not None:
        written = conditions.fold(model, given, request, how, target, origin, overwrite=overwrite)
        console.info(f"`{out}` has {len(written)} files: {len(wanted)} samples of each of {len(written)} sequences")
        console.print_json({"out": [str(path) for path in written], "run": str(source)}, as_json=json)
        return
    condition, told = conditions.condition_from_options(model, given)
    request = replace(request, condition=conditions.repeated(condition, len(wanted)))
    origin |= told
    field = None
    if save_field is not None:
        field = generation.save_fields(model, request, how, save_field, half=half_field, overwrite=overwrite)
    if target != out or out.suffix.lower() == ".h5":
        start = many.start_workers(sample, {**same, "run": source, "ema": None, "checkpoint": None}, workers - 1)
        drawn = many.SampleSource(model, request, how, generation.query_budget(chunk))
        written = many.write(drawn, out, origin, overwrite=overwrite, helpers=start)
    else:
        written = generation.write_samples(model, request, how, out, origin, overwrite=overwrite, field=field)
    console.info(f"wrote {_spelled(written)}: {len(wanted)} of `{model.preset.name}`, {_asked(model, request)}")
    console.print_json({"out": [str(path) for path in written], "run": str(source), "origin": origin}, as_json=json)


def _named(out: Path, form: str, fasta: Path | None, workers: int) -> Path:
    """The name of a file by which a run is chosen: OUT, or one in it where that is a folder."""
    if workers > 1 and (out.suffix or fasta is not None):
        raise UsageError(
            "`--workers` fill a folder of shards", hint="name a folder as OUT, or start the command several times"
        )
    if fasta is not None:
        return conditions.check_folder(out, form)
    return out if out.suffix else out / "samples.h5"


def _open_guide(guide: Path | None, device: str | None) -> tuple[Path | None, Model | None]:
    """The weights file of a second run, and its model."""
    from inrflow_cli import generation
    from inrflow_core.runs import run
    from inrflow_core.sampling.sample import load

    if guide is None:
        return None, None
    file = run.resolve_weights(guide)
    return file, load(file, device=generation.choose_device(device))


def _check_field(save_field: Path | None, half_field: bool) -> None:
    if save_field is None and half_field:
        raise UsageError("`--half-field` says how a field is kept, and none is", hint="add `--save-field FILE`")
    if save_field is not None and save_field.suffix != ".safetensors":
        raise UsageError(f"`--save-field {save_field}`: fields are .safetensors files", hint="name it so")


def _check_places(model: Model, target: Path, save_field: Path | None) -> None:
    """Nothing, where the model's samples can be asked elsewhere, or nobody wants to."""
    if model.domain.MAKES_STRUCTURES and (save_field is not None or target.suffix.lower() == ".h5"):
        raise UsageError(
            "a protein has no other places to be asked at, and its atoms are as many as its sequence says",
            hint="write .pdb or .cif, or `--fasta FILE` into a folder",
        )


def _spelled(paths: list[Path]) -> str:
    return f"`{paths[0]}`" if len(paths) == 1 else f"`{paths[0]}` ... `{paths[-1]}`"


def _asked(model: Model, request: SampleRequest) -> str:
    return f"{model.domain.describe_size(request.size, request.condition or None)} each"
