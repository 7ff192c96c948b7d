"""Ask a function more finely: one that a seed draws, one behind a given file, or one that was saved."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from inrflow_cli import console
from inrflow_cli.commands.sample import Checkpoint, Ema, Noise
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
    Steps,
    Threads,
    Window,
    parse_window,
)


def upsample(
    paths: Annotated[
        list[Path],
        typer.Argument(metavar="[FILE]... OUT", help="What to ask more finely, and what to write.", show_default=False),
    ],
    run: Run = None,
    scale: Annotated[float | None, typer.Option(help="So many times the rows and columns, or the points.")] = None,
    resolution: Resolution = None,
    window: Window = None,
    points: Points = None,
    num: Num = 1,
    seed: Seed = 0,
    label: Label = None,
    guidance: Guidance = None,
    sampler: Sampler = None,
    steps: Steps = None,
    override: SamplerSettings = None,
    noise: Noise = None,
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
    """Ask functions at a higher resolution.

    With no FILE, the sample that `inrflow sample --seed` draws. A picture or a cloud is encoded first: its noise is
    found by solving the ODE backwards. A .safetensors FILE is a field that `inrflow sample --save-field` kept.
    Several FILEs need a folder as OUT.
    """
    from inrflow_cli import generation, upsampling
    from inrflow_core.sampling import labels, optimize, provenance
    from inrflow_core.sampling.options import sampling_options
    from inrflow_core.sampling.request import SampleRequest

    *files, out = paths
    targets = upsampling.targets(files, out, num, overwrite=overwrite)
    new = {"--num": None if num == 1 else num, "--seed": seed or None, "--guidance": guidance, "--sampler": sampler}
    new |= {"--set": override, "--precision": None if precision == "fp32" else precision}
    if len(files) == 1 and files[0].suffix == ".safetensors":
        told = {"--run": run, "--label": label, "--steps": steps, "--ema": ema, "--checkpoint": checkpoint}
        upsampling.reject_options(
            "a saved field, which is drawn already", new | told | {"--noise": noise, "--compile": compile or None}
        )
        answer = upsampling.upsample_saved_field(
            files[0], out, scale=scale, resolution=resolution, window=window, points=points, chunk=chunk,
            device=device, overwrite=overwrite,
        )  # fmt: skip
        console.print_json(answer, as_json=json)
        return
    is_cloud = points is not None or any(file.suffix.lower() == ".ply" for file in files)
    domain = "points" if is_cloud else "image" if files or resolution or window else None
    step = generation.parse_checkpoint(checkpoint)
    model, source = generation.open_model(
        run, targets[0], ema=ema, step=step, device=device, threads=threads, wanted=(domain, None)
    )
    upsampling.check(model)
    size = upsampling.choose_size(model, scale, resolution, points)
    part = parse_window(window)
    if files:
        upsampling.reject_options("a given file, which Heun's method encodes without guidance", new)
        model = replace(model, method=optimize.compile_network(model.method)) if compile else model
        answer = upsampling.upsample_files(
            model, source, files, targets, label=label, size=size, window=part, chunk=chunk, steps=steps, noise=noise,
            overwrite=overwrite,
        )  # fmt: skip
    else:
        how = sampling_options(
            model, sampler=sampler, steps=steps, sampler_settings=generation.parse_settings(override),
            guidance=guidance, noise=noise, precision=precision,
        )  # fmt: skip
        seeds = range(seed, seed + num)
        request = SampleRequest(seeds, labels.resolve_labels(model, seeds, label), size, part, chunk)
        origin = provenance.provenance(model, source, request, how)
        model, how = optimize.optimize_for_inference(model, how, compile=compile)
        written = generation.write_samples(model, request, how, out, origin, overwrite=overwrite)
        answer = {"out": [str(path) for path in written], "run": str(source), "origin": origin}
        console.info("wrote " + ", ".join(f"`{path}`" for path in written))
    console.print_json(answer, as_json=json)
