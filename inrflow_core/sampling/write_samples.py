"""Write the samples of a request, or their functions, to files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from inrflow_core.domains._contract import HasFrames
from inrflow_core.errors import UsageError
from inrflow_core.fields import Clip, Field, Size, Surface, Window
from inrflow_core.formats import png
from inrflow_core.models import Model
from inrflow_core.runtime.progress import SILENT, Progress, Reporter, format_bytes
from inrflow_core.runtime.query_budget import QueryBudget
from inrflow_core.sample_files import writer
from inrflow_core.sampling import provenance, reference_inputs, sample
from inrflow_core.sampling.python_inputs import check_size
from inrflow_core.sampling.reference_inputs import ReferenceSamplingPlan
from inrflow_core.sampling.request import SampleRequest, default_batch_size
from inrflow_core.sets import CLASS_LABEL, Condition
from inrflow_core.storage import atomic_write


@dataclass(frozen=True)
class SampleSource:
    """A model and a request, of which any part of the samples can be drawn separately."""

    model: Model
    request: SampleRequest
    options: Any
    """As `options.sampling_options` returns them."""
    plan: ReferenceSamplingPlan | None = None
    """Computes each sample's condition when it is drawn; without it the request has all conditions."""
    reporter: Reporter = SILENT

    @cached_property
    def budget(self) -> QueryBudget:
        """The query budget that all parts share."""
        return QueryBudget(self.request.chunk, warn=self.reporter.warn)

    @property
    def batch(self) -> int:
        """Samples drawn together."""
        return self.request.batch or default_batch_size(self.model, self.request)

    def at(self, indices: Sequence[int]) -> Iterator[tuple[slice, np.ndarray]]:
        """Draw the samples at some indices of the request: slices of `indices`, with their values."""
        request = self.request
        if self.plan is None:
            condition = {name: value[list(indices)] for name, value in request.condition.items()}
        else:
            condition = reference_inputs.condition(self.model, self.plan, indices)
        part = replace(
            request,
            seeds=[request.seeds[index] for index in indices],
            labels=None if request.labels is None else [request.labels[index] for index in indices],
            condition=condition,
            batch=self.batch,
        )
        return self.draw(part)

    def draw(self, request: SampleRequest, progress: Progress | None = None) -> Iterator[tuple[slice, np.ndarray]]:
        """Draw the samples of another request by the same options, within the same query budget."""
        return sample.iter_samples(self.model, request, self.options, progress, budget=self.budget)


def save_fields(source: SampleSource, path: Path, *, half: bool = False, overwrite: bool = False) -> Field:
    """Draw the functions of a request and save all of them in one .safetensors file; log its size before.

    Returns:
        The fields, with their contexts cached, to be evaluated at any resolution.

    Raises:
        UsageError: the file exists, without `overwrite`.
    """
    atomic_write.check_writable(path, overwrite=overwrite)
    request = source.request
    field = sample.sample_fields(source.model, request.seeds, request.labels, source.options, request.condition)
    with source.reporter.progress("sampling the field", "steps") as progress:
        field.cache_context(progress)
    source.reporter.log(f"the field takes {format_bytes(field.size() // (2 if half else 1))} on disk")
    sample.save_field(source.model, field, path, half=half)
    return field


def write_samples(
    source: SampleSource,
    out: Path,
    origin: Mapping[str, str],
    *,
    overwrite: bool = False,
    field: Field | None = None,
    sheet: Path | None = None,
) -> list[Path]:
    """Draw the samples of a request and write them in the format of the suffix of `out`; returns the files.

    `origin` is what `provenance.provenance` returns. With a `field` of the same request, it is evaluated instead. `sheet` is a .png
    file of all samples with captions, which is written beside.

    Raises:
        UsageError: no such format, or a file exists, without `overwrite`.
        Diverged, OutOfMemory: sampling failed.
    """
    model, request = source.model, source.request
    with source.reporter.progress("sampling", "steps") as progress:
        if field is None:
            parts = source.draw(request, progress)
        else:
            values = sample.evaluate(model, field, request.size, request.window, chunk=source.budget, progress=progress)
            parts = [(slice(0, len(values)), values)]
        part_values = [values for _, values in parts]
    joined = sample.concatenate(part_values)
    with source.reporter.announce(f"writing `{out}`", "files") as progress:
        written = _write_values(model, request, joined, out, origin, overwrite=overwrite, progress=progress)
        if sheet is not None:
            captions = [provenance.caption(item) for item in provenance.per_sample_metadata(model, request)]
            png.save(sheet, model.domain.render(joined, captions), origin=origin)
    return written


def write_field(
    model: Model,
    field: Field,
    out: str | Path,
    size: Size = None,
    window: Window = None,
    *,
    overwrite: bool = False,
    **format_options: Any,
) -> list[Path]:
    """Evaluate functions as `sample.evaluate` does, and write them in the format of the suffix of `out`; returns the files.

    Structures of one sequence are superposed on the first. The provenance has all but the digest of the weights.

    Args:
        size: as of `sample.evaluate`.
        window: as of `sample.evaluate`.
        format_options: the format's own, such as `columns` of a .png.

    Raises:
        UsageError: as `sample.evaluate`; no such format or option, or a file exists, without `overwrite`.
        Diverged, OutOfMemory: sampling or writing failed.
    """
    out, size = Path(out), check_size(model.domain, size)
    writer.check(out, len(field.seeds), overwrite=overwrite)
    condition = {name: value.cpu() for name, value in field.condition.items() if name != CLASS_LABEL}
    labels = field.condition[CLASS_LABEL].tolist() if CLASS_LABEL in field.condition else None
    request = SampleRequest(field.seeds.tolist(), labels, size, window, condition=condition)
    origin = provenance.provenance(model, None, request, field.options)
    values = sample.concatenate([sample.evaluate(model, field, size, window)])
    return _write_values(model, request, values, out, origin, overwrite=overwrite, **format_options)


def _write_values(
    model: Model, request: SampleRequest, values: Any, out: Path, origin: Mapping[str, str], **settings: Any
) -> list[Path]:
    """Write the values of a request's samples; `settings` are further arguments of `writer.write`."""
    items: list[dict[str, str]] = []
    if len(writer.files(out, len(request.seeds))) > 1:  # each file names its own sample alone
        items = provenance.per_sample_metadata(model, request)
        origin = {key: text for key, text in origin.items() if key not in ("seeds", "labels")}
    settings |= beside_samples(model, request.size, request.condition, out)
    return writer.write(out, values, model.domain.NAME, origin=origin, items=items, **settings)


def check_frame_rate(model: Model, size: Size, out: Path) -> None:
    """Check the requested frame rate of clips before they are drawn.

    Raises:
        UsageError: a file of the suffix of `out` cannot have it.
    """
    if not isinstance(size, Clip) or size.fps is None:
        return
    module = writer.exporter_for(out, model.domain.NAME)
    if "fps" in writer.options(module) and not 1 <= size.fps <= module.MOST_FPS:
        raise UsageError(
            f"`--fps {size.fps:g}`: a `{out.suffix}` file has from 1 to {module.MOST_FPS} frames per second",
            hint="give such a number, or write an `.mp4` or `.npz` file",
        )


def beside_samples(model: Model, size: Size, condition: Condition, out: Path) -> dict[str, Any]:
    """What `writer.write` gets beside samples of a size: arrays for an .npz, and the frame rate of clips."""
    if isinstance(model.domain, HasFrames):
        return _beside_clips(model, size, out)
    if not model.domain.HAS_CAMERAS or isinstance(size, Surface):
        return {}
    return {"arrays": {"cameras": model.domain.cameras(size, condition)}}


def _beside_clips(model: Model, size: Size, out: Path) -> dict[str, Any]:
    """The frame rate; where it follows from the number of frames, at most the highest that the format has."""
    rate = model.domain.playback_rate(size, model.frame_rate)
    if rate is None:
        return {}
    module = writer.exporter_for(out, model.domain.NAME)
    if "fps" not in writer.options(module):
        return {"arrays": {"fps": np.array(rate)}}
    return {"fps": min(max(rate, 1.0), module.MOST_FPS)}
