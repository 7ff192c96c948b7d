"""Options that choose a model: its run, checkpoint, device and threads."""

from __future__ import annotations

import math
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from inrflow_cli import console
from inrflow_cli.options import complete_models
from inrflow_core.errors import InrflowError, MissingError, UsageError

if TYPE_CHECKING:
    from inrflow_core.fields import Size
    from inrflow_core.models import Model
    from inrflow_core.runs.run import Step

Ema = Annotated[
    float | None, typer.Option(help="EMA decay of the weights to use; 0 is the raw weights. Default: the first EMA.")
]
DEPTH_SLACK = 1e-6
"""Share of the extent by which scenes may be outside the depths of a read-out, by rounding."""
ShippedModel = Annotated[
    str | None,
    typer.Option(
        "--model",
        metavar="NAME",
        help="A small trained model that comes with inrflow, in place of a run; docs/models.md lists them.",
        autocompletion=complete_models,
    ),
]
GuideRun = Annotated[Path | None, typer.Option("--guide-run", help="A weaker run to guide with (autoguidance).")]
Checkpoint = Annotated[str | None, typer.Option(metavar="STEP|best", help="Checkpoint to use. Default: the latest.")]


def source_of(run: Path | None, model: str | None) -> Path | None:
    """The run to sample, or the weights file of a model that comes with inrflow; None for the latest run.

    Raises:
        UsageError: there are both, or no model has this name.
    """
    from inrflow_core.runs import shipped

    if model is None:
        return run
    if run is not None:
        raise UsageError("`--run` and `--model` exclude each other", hint="give one of them")
    return shipped.weights_file(model)


def domain_of(source: Path | None) -> str | None:
    """The domain of a run or a weights file, read without its weights; None where it is not known before the model is loaded."""
    from inrflow_core import models
    from inrflow_core.runs.run import find_source, open_run

    if source is None:
        return None
    source = find_source(source)
    try:
        preset = models.read_metadata(source)[0] if source.is_file() else open_run(source).preset
    except InrflowError:
        return None
    return preset.domain.name


def open_model(
    run: Path | None,
    out: Path,
    *,
    ema: float | None,
    step: Step,
    device: str | None,
    threads: int | None,
    domains: Collection[str] | None = None,
    condition: str | None = None,
) -> tuple[Model, Path]:
    """Load the model of `run`, else of the latest run whose samples `out` can hold; returns it with its weights file.

    `domains` and `condition` (a conditioner) are what the command's other arguments imply; None leaves them open.

    Raises:
        MissingError: the run does not exist; the error says how to get one.
        UsageError: no format has the suffix of `out`, or not for the domain of `run`; the device does not exist.
    """
    import torch

    from inrflow_core import models
    from inrflow_core.conditioners._contract import conditioner_part
    from inrflow_core.runs.run import resolve_weights
    from inrflow_core.runs.shipped import title_of
    from inrflow_core.runtime import distributed, memory
    from inrflow_core.sample_files import writer
    from inrflow_core.sampling import sample

    memory.retain_freed_pages()
    if threads is not None:
        torch.set_num_threads(threads)
    writable = writer.domains_for(out)
    fitting = tuple(name for name in writable if domains is None or name in domains)
    source = run if run is not None else _latest(fitting, writable, condition)
    weights = resolve_weights(source, ema=ema, step=step)
    if run is None:
        console.info(f"the model is the latest run, `{source}`")
    title = title_of(source)
    with console.announce(f"loading `{title}`"):
        model = models.load(weights, distributed.process_device(device), title if title != str(source) else None)
    note = sample.note_on_average(model.preset, model.metadata)
    if note is not None:
        console.warn(note)
    part = model.preset.condition
    if condition is not None and (part is None or part.name != condition):
        raise UsageError(
            f"`{title}` is not conditioned on {conditioner_part(condition).NOUN}",
            hint=_condition_hint(condition),
        )
    if model.domain.NAME not in writable:
        raise UsageError(
            f"`{title}` samples {model.domain.NOUN}, which a `{writer.format_suffix(out)}` file cannot hold",
            hint="write one of " + ", ".join(f"`{suffix}`" for suffix in writer.suffixes(model.domain.NAME)),
        )
    return model, weights


def _condition_hint(condition: str) -> str:
    """The models that come with inrflow under a condition, or another run."""
    from inrflow_core.conditioners._contract import conditioner_part
    from inrflow_core.domains._contract import domain_classes
    from inrflow_core.runs.run import shipped_models

    fitting = shipped_models([domain.NAME for domain in domain_classes()], condition)
    own = " or ".join(f"`--model {name}`" for name in fitting)
    others = f"name with `--run` one that is conditioned on {conditioner_part(condition).NOUN}"
    return f"take {own}, or {others}" if own else others


def _latest(fitting: tuple[str, ...], writable: tuple[str, ...], condition: str | None) -> Path:
    """The latest run of the fitting domains; where there is none, of those that the file can hold: its error says more."""
    from inrflow_core.runs.run import latest_run, shipped_models

    try:
        return latest_run(fitting or writable, condition).folder
    except MissingError:
        pass
    try:
        return latest_run(writable, condition).folder
    except MissingError as error:
        models = ", ".join(f"`--model {name}`" for name in shipped_models(fitting or writable, condition))
        own = f", or sample one that comes with inrflow: {models}" if models else ""
        raise MissingError(error.message, hint=f"{error.hint}{own}") from error


def guide_weights(guide: Path | None) -> Path | None:
    """The weights file of the run to guide with; None without one. Warns where its average still holds initial weights."""
    from inrflow_core import models
    from inrflow_core.runs import run
    from inrflow_core.sampling.sample import NAME_RAW_WEIGHTS, note_on_average

    if guide is None:
        return None
    weights = run.resolve_weights(guide)
    note = note_on_average(*models.read_metadata(weights), NAME_RAW_WEIGHTS)
    if note is not None:
        console.warn(f"the guide: {note}")
    return weights


def note_label(model: Model, label: str | None) -> None:
    """Say which classes the numbers of `--label` are, where classes have names."""
    from inrflow_core.sampling.sample import note_on_label

    note = note_on_label(model, label)
    if note is not None:
        console.warn(note)


def warn_of_depths(model: Model, size: Size) -> None:
    """Warn where cameras of a named distance see scenes before `near` or beyond `far` of the read-out, which is white."""
    from inrflow_core.fields import Orbit

    part = model.preset.networks.get("readout")
    distance = size.camera.distance if isinstance(size, Orbit) else None
    if part is None or distance is None or not hasattr(part.config, "near"):
        return
    near, far, extent = part.config.near or 0.0, part.config.far or math.inf, model.domain.config.extent
    if max(near - distance, distance - far) + extent > DEPTH_SLACK * extent:
        console.warn(
            f"`--distance {distance:g}`: the model renders depths from {near:g} to {far:g}, and scenes are within {extent:g} of "
            "the origin: what is outside these depths is white"
        )
