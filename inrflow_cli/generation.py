"""What `sample` and `upsample` share: choosing the run, the device and the size, and writing what was drawn."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inrflow_cli import console
from inrflow_core.errors import UsageError
from inrflow_core.runtime import units

if TYPE_CHECKING:
    from inrflow_core.fields import Field, Progress
    from inrflow_core.models import Model
    from inrflow_core.runs.run import Step
    from inrflow_core.runtime.query_budget import QueryBudget
    from inrflow_core.sampling.request import SampleRequest, Size


def open_model(
    run: Path | None,
    out: Path,
    *,
    ema: float | None,
    step: Step,
    device: str | None,
    threads: int | None,
    wanted: tuple[str | None, str | None] = (None, None),
) -> tuple[Model, Path]:
    """The model to draw from and its weights file: of `run`, else of the newest run that can write `out`; says which.

    `wanted` narrows the choice where the command's other arguments tell it: a domain, and the condition drawn under.

    Raises:
        MissingError: there is no such run; the error says how to get one.
        UsageError: nobody writes such an `out`, or not for the domain of `run`; the device is not there.
    """
    import torch

    from inrflow_core import models, registry
    from inrflow_core.runs.run import latest_run, resolve_weights
    from inrflow_core.runtime import malloc
    from inrflow_core.sample_files import writer

    malloc.retain_freed_pages()
    if threads is not None:
        torch.set_num_threads(threads)
    domains = writer.domains_for(out)
    domain, condition = wanted
    source = run if run is not None else latest_run((domain,) if domain in domains else domains, condition).folder
    weights = resolve_weights(source, ema=ema, step=step)
    if run is None:
        console.info(f"drawing from the newest run, `{source}`")
    model = models.load(weights, choose_device(device))
    part = model.preset.condition
    if condition is not None and (part is None or part.name != condition):
        does = f"does not draw from {registry.find('conditioners', condition).NOUN}"
        raise UsageError(f"`{source}` {does}", hint="choose with `--run` one that does")
    if model.domain.NAME not in domains:
        raise UsageError(
            f"`{source}` draws {model.domain.NAME}, which no `{out.suffix}` file holds",
            hint="write one of " + ", ".join(f"`{suffix}`" for suffix in writer.suffixes(model.domain.NAME)),
        )
    return model, weights


def parse_checkpoint(text: str | None, option: str = "--checkpoint") -> Step:
    """A step, or `best`; None, and `newest`, stay the newest.

    Raises:
        UsageError: the text is none of them.
    """
    if text is None or text == "newest":
        return None
    if text == "best":
        return "best"
    if not (text.isascii() and text.isdigit()):
        raise UsageError(
            f"`{option} {text}` names no checkpoint", hint="give a step such as `1000`, `best`, or `newest`"
        )
    return int(text)


def choose_device(name: str | None) -> str:
    """The device asked for, else a GPU where there is one; launched processes take one GPU each.

    Raises:
        UsageError: the device is not there.
    """
    from inrflow_core.runtime import distributed

    return str(distributed.find(os.environ, name).device)


def choose_size(domain: Any, resolution: str | None, points: int | None) -> Size:
    """Rows and columns or a number of points, as a model's domain has it; None for the training's.

    Raises:
        UsageError: a size of the wrong kind, or no points at all.
    """
    given = {"--resolution": resolution, "--points": None if points is None else str(points)}
    for option, text in given.items():
        if text is not None and option != domain.SIZE_OPTION:
            other = f"use `{domain.SIZE_OPTION}`" if domain.SIZE_OPTION else "leave it out"
            raise UsageError(f"`{option}` does not apply: the model draws {domain.NOUN}", hint=other)
    text = given[domain.SIZE_OPTION] if domain.SIZE_OPTION else None
    return None if text is None else domain.parse_size(text)


def parse_settings(texts: list[str] | None) -> dict[str, Any]:
    """Settings of the sampler from `sampler.key=value` texts.

    Raises:
        UsageError: a text is no such setting, or of another table.
    """
    from inrflow_core.config import preset

    tables = preset.override({}, texts or [])
    for table in tables:
        if table != "sampler":
            raise UsageError(
                f"`--set {table}...`: what a model is was settled when it was trained",
                hint="samples are drawn with other settings of `sampler` alone, as in `--set sampler.temperature=0.1`",
            )
    return tables.get("sampler", {})


def parse_interval(text: str | None) -> tuple[float, float] | None:
    """Two times from `0.1,0.9`; None stays None. Their order and range are checked with the settings.

    Raises:
        UsageError: not two numbers.
    """
    if text is None:
        return None
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError as error:
        raise UsageError(f"`{text}` is no interval of times", hint="write two, as in `0.1,0.9`") from error
    return low, high


def save_fields(model: Model, request: SampleRequest, how: Any, path: Path, *, half: bool, overwrite: bool) -> Field:
    """Draw the functions of a request and keep them, all in one file; its size is said before. They can be asked then."""
    from inrflow_core.sampling import sample
    from inrflow_core.storage import atomic_write

    atomic_write.check_writable(path, overwrite=overwrite)
    field = sample.sample_fields(model, request.seeds, request.labels, how, request.condition)
    with console.progress(None, "steps", title="drawing the field") as shown:
        field.cache_context(lambda done, total: shown.advance(done - shown.done))
    console.info(f"the field takes {units.format_bytes(field.size() // (2 if half else 1))} on disk")
    sample.save_field(model, field, path, half=half)
    return field


def write_samples(
    model: Model,
    request: SampleRequest,
    how: Any,
    out: Path,
    origin: Mapping[str, str],
    *,
    overwrite: bool,
    field: Field | None = None,
) -> list[Path]:
    """Draw the samples of a request, or ask them of a `field` that holds them, and write files; returns these."""
    from inrflow_core.sample_files import writer
    from inrflow_core.sampling import provenance, sample

    with console.progress(None, "steps", title="sampling") as shown:
        own = query_budget(request.chunk)
        if field is None:
            found = sample.iter_samples(model, request, how, field_progress(shown), room=own)
        else:
            values = sample.evaluate(
                model, field, request.size, request.window, chunk=own, progress=field_progress(shown)
            )
            found = [(slice(0, len(values)), values)]
        drawn = [values for _, values in found]
    items: list[dict[str, str]] = []
    if len(writer.files(out, len(request.seeds))) > 1:  # each file tells of its own sample alone
        items = provenance.per_sample_metadata(model, request)
        origin = {key: text for key, text in origin.items() if key not in ("seeds", "labels")}
    values = sample.concatenate(drawn)
    return writer.write(out, values, model.domain.NAME, origin=origin, items=items, overwrite=overwrite)


def query_budget(chunk: int) -> QueryBudget:
    """What the queries of a command share; says where the memory does not suffice for its chunks."""
    from inrflow_core.runtime.query_budget import QueryBudget

    return QueryBudget(chunk, tell=console.warn)


def field_progress(shown: console.Progress) -> Progress:
    """What carries a field's progress, units done and their total, to the line that is shown."""

    def tell(done: int, total: int) -> None:
        shown.total = total
        shown.advance(done - shown.done)

    return tell
