"""Sample from a run: load the model, sample its fields, evaluate them.

model = load("runs/digits-demo")
field = sample_fields(model, seeds=[0, 1, 2], labels=[3, 4, 5], options=sampling_options(model, guidance=2.0))
images = evaluate(model, field, size=(96, 96))
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from inrflow_core import fields, models
from inrflow_core.config.preset import Preset
from inrflow_core.config.training import share_of_initial_weights
from inrflow_core.domains._contract import HasSurfaces
from inrflow_core.errors import Diverged, MissingError, UsageError
from inrflow_core.fields import DensityField, Field, PointwiseField, Surface
from inrflow_core.geometry import isosurface
from inrflow_core.geometry.mesh import Mesh
from inrflow_core.models import Model, SamplingOptions
from inrflow_core.proteins import superposition
from inrflow_core.proteins.structure import Structure
from inrflow_core.runs import run, shipped
from inrflow_core.runtime.distributed import process_device
from inrflow_core.runtime.memory import run_unless_oom
from inrflow_core.runtime.progress import Progress, RepeatableProgress
from inrflow_core.runtime.query_budget import CHUNK, QueryBudget
from inrflow_core.sample_files.collection import ArrayCollection, in_memory
from inrflow_core.sampling import support_cameras
from inrflow_core.sampling.labels import check_labels, resolve_labels
from inrflow_core.sampling.optimize import is_compiled
from inrflow_core.sampling.options import options_for_labels
from inrflow_core.sampling.provenance import caption, per_sample_metadata
from inrflow_core.sampling.python_inputs import Labels, check_size, class_numbers
from inrflow_core.sampling.request import (
    SampleRequest,
    Size,
    Window,
    check_seeds,
    default_batch_size,
    select_part,
)
from inrflow_core.sets import CLASS_LABEL, Condition, Queries
from inrflow_core.storage import safetensors_file

NAME_RAW_WEIGHTS = "name `weights.safetensors` of its checkpoint for the weights without EMA"
"""The remedy of `note_on_average` where a command takes another model's first EMA."""
MUCH_INITIAL = 0.1
"""Share of the initial weights in an average from which on a note says so."""


def load(source: str | Path, *, ema: float | None = None, step: run.Step = None, device: str | None = None) -> Model:
    """The model of a run, its folder, a checkpoint folder or a .safetensors file, ready to sample.

    Args:
        ema: decay of the average to load; 0 is the weights without EMA. Default: the first EMA.
        step: of the checkpoint, or `best`. Default: the newest.
        device: `cpu`, `cuda` or `cuda:N`. Default: a GPU if there is one.

    Raises:
        MissingError, IntegrityError: see `run.resolve_weights` and `models.load`.
        UsageError: the device does not exist.
    """
    try:
        weights = run.resolve_weights(Path(source), ema=ema, step=step)
    except MissingError as error:
        if str(source) not in shipped.names():
            raise
        hint = f'`inrflow.load(inrflow.shipped_weights("{source}"))` loads the model that comes with inrflow'
        raise MissingError(error.message, hint=hint) from error
    return models.load(weights, process_device(device))


def note_on_average(
    preset: Preset,
    metadata: Mapping[str, Any],
    remedy: str = "`--ema 0` samples the weights without EMA",
) -> str | None:
    """What a user should know of an average: that it still holds much of the initial weights; None if it does not.

    Args:
        metadata: of the average's weights file.
        remedy: how the user takes the weights without EMA.
    """
    decay, left = metadata.get("decay"), metadata.get("step")
    if not isinstance(decay, float) or not isinstance(left, int):
        return None
    settings = preset.training.config
    for stage in preset.stages:
        settings = preset.training.config.for_stage(stage.name)
        if left <= settings.steps:
            break
        left -= settings.steps
    share = share_of_initial_weights(decay, left, settings.ema_warmup)
    if share <= MUCH_INITIAL:
        return None
    return f"after {left:,} steps the EMA of decay {decay:g} still consists to {share:.0%} of the initial weights; {remedy}"


def note_on_label(model: Model, requested: str | None) -> str | None:
    """Which classes the numbers of `--label` are, where classes have names; None where it has no number, or names alone."""
    names = list(model.metadata.get("classes") or [])
    words = dict.fromkeys(word.strip() for word in (requested or "").split(","))
    numbers = [word for word in words if word not in names and word.isascii() and word.isdigit()]
    known = [f"{word} is the class `{names[int(word)]}`" for word in numbers if int(word) < len(names)]
    return f"label {', '.join(known)}" if known else None


def sample_fields(
    model: Model,
    seeds: Sequence[int],
    labels: Labels | None = None,
    options: SamplingOptions | None = None,
    condition: Condition | None = None,
) -> Field:
    """New functions, one per seed: sample i depends on its seed and label alone.

    Args:
        labels: one class per seed, by number (-1 for none) or name, or a text as of `--label`: `"cat"`, `"cat,dog"`, `"all"`,
            `"uniform"` (see `resolve_labels`); None for a model without classes, and for no other.
        options: see `sampling_options`; None: the preset's.
        condition: one row per seed; see `SampleRequest`.

    Raises:
        UsageError: no seeds, or seeds or labels that cannot be; the model needs an image or a sequence, and none is given.
    """
    check_seeds(seeds)
    labels = class_numbers(model, seeds, _labels(labels, condition))
    device = next(model.method.parameters()).device
    inputs = {name: value.to(device) for name, value in (condition or {}).items()}
    _check_condition(model, inputs)
    if labels is not None:
        inputs[CLASS_LABEL] = torch.tensor(list(labels), dtype=torch.int64, device=device)
    keys = torch.tensor(list(seeds), dtype=torch.int64, device=device)
    return model.method.sample(
        _context(model, keys, inputs).to(device),
        keys,
        inputs,
        options or options_for_labels(model, labels),
    )


def _context(model: Model, seeds: Tensor, inputs: Condition) -> Queries:
    """The training queries; of scenes whose condition has no camera, those of the camera that each seed chooses."""
    if model.domain.HAS_CAMERAS and not set(model.domain.REQUIRED_CONDITIONS) & inputs.keys():
        poses = support_cameras.support_cameras(model, seeds)
        if poses is not None:
            return model.domain.queries(condition=model.domain.condition_of_cameras(poses))
    return model.domain.queries(condition=inputs)


def evaluate(
    model: Model,
    field: Field,
    size: Size = None,
    window: Window = None,
    *,
    chunk: int | QueryBudget = CHUNK,
    progress: Progress | None = None,
) -> Any:
    """The values of functions at a resolution (rows, columns) or a number of points, in the form of the domain.

    Default: the training size.

    Images come as uint8 (B H W C), views of scenes as uint8 (B V H W 3), clouds as float32 (B N C), proteins as structures,
    and of the size `Surface` meshes.

    `window` is top, left, bottom and right of a part of an image, from 0 to 1. `progress` counts solver steps.

    Raises:
        UsageError: an invalid size, a window of a cloud, a mesh of a function without density, or a field of a model of other sets.
        Diverged: some values are not finite.
    """
    size = check_size(model.domain, size)
    if field.spec != model.domain.shape:
        own, other = (fields.describe_sets(spec) for spec in (model.domain.shape, field.spec))
        raise UsageError(
            f"the field is of another model: its functions are of {other}, those of `{model.name}` of {own}",
            hint="evaluate it with the model that it was sampled from; `sample.load_field` returns a saved field with its model",
        )
    if isinstance(size, Surface):
        return _extract_surfaces(model, field, size, QueryBudget.from_chunk(chunk), progress)
    queries = model.domain.queries(size, window, field.condition).to(field.seeds.device)
    values = field.query(queries, chunk=chunk, progress=progress)
    if not values.isfinite().all():
        raise Diverged(
            "the samples left the finite numbers on their way",
            hint="take more `--steps` or less `--guidance`, or an earlier `--checkpoint` if its weights did too",
        )
    return model.domain.decode_values(values, size, field.condition)


def _extract_surfaces(
    model: Model, field: Field, size: Surface, budget: QueryBudget, progress: Progress | None
) -> list[Mesh]:
    """A mesh of each function's density in the domain's box, or of its surface; each part of a grid repeats the progress."""
    report = RepeatableProgress(progress)
    if isinstance(model.domain, HasSurfaces) and isinstance(field, PointwiseField):
        field.cache_context(report)
        functions = [_reporting(partial(field.values_at, index), report) for index in range(len(field.seeds))]
        return [model.domain.surface(function, size, chunk=budget.chunk) for function in functions]
    if not isinstance(field, DensityField):
        raise UsageError(f"`{model.name}` has no density in space, and so no mesh", hint="write views")
    field.cache_context(report)
    return [
        isosurface.extract_surface(
            _reporting(partial(field.density_and_color, index), report),
            model.domain.box,
            level=size.level,
            resolution=size.resolution,
            chunk=budget.chunk,
        )
        for index in range(len(field.seeds))
    ]


def _reporting(function: Callable[[Tensor], Any], report: RepeatableProgress) -> Callable[[Tensor], Any]:
    """A function of points that repeats the progress at each call."""

    def evaluate(points: Tensor) -> Any:
        report.repeat()
        return function(points)

    return evaluate


def iter_samples(
    model: Model,
    request: SampleRequest,
    options: SamplingOptions | None = None,
    progress: Progress | None = None,
    *,
    budget: QueryBudget | None = None,
) -> Iterator[tuple[slice, Any]]:
    """The samples of a request in batches: slices of its seeds, with their values. The request is checked at the call.

    After an out-of-memory error the batch is halved.

    Args:
        progress: counts solver steps of every sample.
        budget: shared by several calls of one run. Default: a new one with the request's chunk.

    Raises:
        OutOfMemory: not even one sample fits.
        UsageError, Diverged: as `sample_fields` and `evaluate`.
    """
    if len(request.seeds):
        check_seeds(request.seeds)
        check_labels(model, _labels(request.labels, request.condition), len(request.seeds))
    return _iter_batches(model, request, options or options_for_labels(model, request.labels), progress, budget)


def _iter_batches(
    model: Model,
    request: SampleRequest,
    options: SamplingOptions,
    progress: Progress | None,
    budget: QueryBudget | None,
) -> Iterator[tuple[slice, Any]]:
    budget = budget or QueryBudget(request.chunk)
    total, start = len(request.seeds), 0
    batch = request.batch or default_batch_size(model, request)
    while start < total:
        most = min(batch, budget.batch or batch)
        part = slice(start, min(start + most, total))
        size = most if is_compiled(model.method) else 1  # compiled for one number of sets
        report = None if progress is None else _total_progress(progress, part, total)
        results: list[Any] = []
        batch_request = select_part(request, part, size)
        if run_unless_oom(
            lambda own=batch_request, report=report, to=results: to.append(
                _sample_batch(model, own, options, budget, report)
            )
        ):
            yield part, results[0][: part.stop - part.start]
            start = part.stop
        else:
            budget.halve_batch(len(batch_request.seeds))


def sample_in_memory(
    model: Model,
    requests: Iterable[SampleRequest],
    source: Path,
    normalization: Mapping[str, Any],
    provenance: str = "",
) -> ArrayCollection:
    """Draw the samples of some requests in memory, as a collection; not for structures.

    Args:
        source: the path of the samples in messages.
        normalization: of the data that the model was trained on; point clouds are in these units.
        provenance: what the samples were drawn from, for the collection's digest.

    Raises:
        Diverged: some values are not finite.
    """
    values: list[np.ndarray] = []
    seeds: list[int] = []
    for request in requests:
        values += [part for _, part in iter_samples(model, request)]
        seeds += request.seeds
    return in_memory(
        np.concatenate(values),
        model.domain.NAME,
        source=source,
        seeds=np.array(seeds, dtype=np.int64),
        normalization=normalization,
        provenance=provenance,
    )


def _sample_batch(
    model: Model,
    request: SampleRequest,
    options: SamplingOptions | None,
    budget: QueryBudget,
    progress: Progress | None,
) -> Any:
    field = sample_fields(model, request.seeds, request.labels, options, request.condition)
    return evaluate(model, field, request.size, request.window, chunk=budget, progress=progress)


def preview(model: Model, num: int = 16, condition: Condition | None = None, progress: Progress | None = None) -> Any:
    """An image (PIL) of the samples of seeds 0 ... num - 1 with their classes, for looking at a model while it trains."""
    seeds = range(num)
    request = SampleRequest(seeds, resolve_labels(model, seeds), condition=condition or {})
    captions = [caption(item) for item in per_sample_metadata(model, request)]
    values = [values for _, values in iter_samples(model, request, progress=progress)]
    return model.domain.render(concatenate(values), captions)


def concatenate(parts: Sequence[np.ndarray | list[Structure] | list[Mesh]]) -> Any:
    """Join the parts of a request; structures of one sequence are superposed on the first of them."""
    if isinstance(parts[0], np.ndarray):
        return np.concatenate([part for part in parts if isinstance(part, np.ndarray)])
    items = [item for part in parts for item in part]
    structures = [item for item in items if isinstance(item, Structure)]
    return superposition.superpose_on_first(structures) if structures else items


def _labels(labels: Labels | None, condition: Condition | None) -> Labels | None:
    """The labels, or those in the condition."""
    return condition[CLASS_LABEL].tolist() if labels is None and condition and CLASS_LABEL in condition else labels


def _check_condition(model: Model, condition: Condition) -> None:
    """Raise UsageError unless the condition that the model needs is given."""
    part = model.preset.condition
    conditioner = None if part is None else part.module
    if conditioner is not None and conditioner.GIVEN_AS and not any(name in condition for name in conditioner.GIVEN_AS):
        raise UsageError(
            f"the model `{model.name}` is conditioned on {conditioner.NOUN}, and none is given",
            hint=f"add {conditioner.OPTION_HINT}",
        )


def _total_progress(progress: Progress, part: slice, total: int) -> Progress:
    """Count the steps of a batch as steps of all samples."""
    return lambda done, steps: progress(part.start * steps + (part.stop - part.start) * done, total * steps)


def save_field(model: Model, field: Field, path: str | Path, *, half: bool = False) -> None:
    """Save a field as one safetensors file that needs no run: it has the preset, the decoder and the normalization of the data.

    A field that has not been evaluated is computed first.

    Raises:
        UsageError: the file has another suffix than `.safetensors`.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise UsageError(f"`{path}`: fields are .safetensors files", hint="give it that suffix")
    field.cache_context()
    metadata = {"normalization": model.metadata["normalization"]} if "normalization" in model.metadata else {}
    field.save(path, model.preset, half=half, metadata=metadata)


def load_field(path: str | Path, device: str | None = None) -> tuple[Model, Field]:
    """A saved field and its model, of which only the decoder has weights.

    Args:
        device: as of `load`.

    Raises:
        MissingError, IntegrityError: the file does not exist, or is not a complete field.
        UsageError: the device does not exist.
    """
    path = Path(path)
    preset, metadata = models.read_metadata(path, fields.FORMAT)
    safetensors_file.check_digest(path)
    domain = preset.domain.module.Domain(preset.domain.config)
    field = preset.method.module.load_field(path, preset, domain.shape, metadata, process_device(device))
    return Model(preset, domain, field.model, metadata), field
