"""The functions of a page: each is recorded once, and then evaluated wherever the page looks.

The recorded fields and the loaded models are bounded by bytes. All methods that compute are called by the worker's
thread alone.
"""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, UInt8
from PIL import Image

from inrflow_core import models
from inrflow_core.conditioners._contract import conditioner_of_option, conditioner_part
from inrflow_core.errors import Diverged, UsageError
from inrflow_core.fields import Clip, Field, Orbit, Size, Window
from inrflow_core.models import Model
from inrflow_core.runtime.progress import SILENT, Progress
from inrflow_core.runtime.query_budget import CHUNK
from inrflow_core.sampling import condition_inputs, provenance, sample, support_cameras, write_samples
from inrflow_core.sampling.labels import resolve_labels
from inrflow_core.sampling.options import options_for_labels
from inrflow_core.sampling.request import SampleRequest, SizeOptions, choose_size
from inrflow_core.sets import Condition
from inrflow_core.viewer.byte_cache import ByteCache
from inrflow_core.viewer.selection import Selection
from inrflow_core.viewer.viewed_run import INPUTS, VIEW_NOUNS, VIEWS, ViewedRun, formats_of

MOST_LEVELS = 14
"""Levels of the deep zoom below the one whose single tile is the whole image: beyond, float32 coordinates of neighboring pixels
of a tile would coincide."""
MOST_POINTS = 128_000
"""Points of a cloud on the page."""
MOST_GRID = 256
"""Points of a mesh's grid along a side."""
MOST_PIXELS = 1 << 26
"""Pixels of all frames of a clip, or of all views of a turntable."""
SUFFIXES = {"mesh": ".glb", "scene": ".png", "clip": ".npz"}
"""Suffixes of files that hold what a view shows: they decide what a size means."""
DEFAULT_MEMORY = 1 << 30
"""Bytes of recorded fields, and as many of loaded models."""
MAX_SIDE = 4096
"""Default of the largest side of an image that is evaluated in one request."""


@dataclass(frozen=True)
class Recorded:
    """A function, recorded: later queries only replay its context."""

    model: Model
    weights: Path
    field: Field
    options: Any
    labels: list[int] | None
    seconds: float
    """What the recording took."""
    condition: Condition
    """That of a text or a sequence; empty without."""
    origin: Mapping[str, str]
    """What the provenance of its files names beside the options."""


class Functions:
    """The functions of some runs, recorded when they are first needed."""

    def __init__(
        self,
        runs: Sequence[ViewedRun],
        *,
        device: str = "cpu",
        memory: int = DEFAULT_MEMORY,
        max_side: int = MAX_SIDE,
    ) -> None:
        self.runs, self.device, self.max_side = list(runs), device, max_side
        self.fields: ByteCache[Recorded] = ByteCache(memory, lambda recorded: recorded.field.size())
        self._encoder: tuple[tuple[Path, str], Callable[[Any], Condition]] | None = None
        self._models: ByteCache[tuple[Model, Path]] = ByteCache(memory, lambda loaded: _model_bytes(loaded[0]))

    def record(self, selection: Selection, progress: Progress | None = None) -> Recorded:
        """The recorded function of a selection.

        Raises:
            UsageError: there is no such run, or it lacks what is selected.
            MissingError, IntegrityError: its weights.
        """
        recorded = self.fields.get(selection)
        if recorded is not None:
            return recorded
        model, weights = self._model(selection)
        labels = resolve_labels(model, [selection.seed], selection.label)
        method_settings = {} if selection.guidance is None else {"guidance": selection.guidance}
        options = options_for_labels(
            model, labels, sampler=selection.sampler, steps=selection.steps, method_settings=method_settings
        )
        condition, origin = self._condition(model, weights, selection)
        started = time.perf_counter()
        field = sample.sample_fields(model, [selection.seed], labels, options, condition).cache_context(progress)
        origin = {**support_cameras.provenance(model), **origin}
        recorded = Recorded(model, weights, field, options, labels, time.perf_counter() - started, condition, origin)
        self.fields.add(selection, recorded)
        return recorded

    def image(
        self, selection: Selection, size: int | None, window: Window, progress: Progress | None = None
    ) -> UInt8[np.ndarray, "H W C"]:
        """`size` x `size` pixels of a window of an image; None is the training grid."""
        recorded = self.record(selection, progress)
        _check_view(recorded.model, "image")
        self._check_side(size or 1)
        sides = None if size is None else (size, size)
        return sample.evaluate(recorded.model, recorded.field, sides, window, progress=progress)[0]

    def interpolated(
        self, selection: Selection, size: int, window: Window, kind: str, progress: Progress | None = None
    ) -> UInt8[np.ndarray, "H W C"]:
        """The same window of the training grid's pixels, enlarged by `bicubic` interpolation, or as they are (`pixels`)."""
        pixels = self.image(selection, None, None, progress)
        self._check_side(size)
        top, left, bottom, right = window or (0.0, 0.0, 1.0, 1.0)
        rows, columns = pixels.shape[:2]
        box = (left * columns, top * rows, right * columns, bottom * rows)
        image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
        method = Image.Resampling.BICUBIC if kind == "bicubic" else Image.Resampling.NEAREST
        return np.asarray(image.resize((size, size), method, box=box)).reshape(size, size, -1)

    def points(
        self, selection: Selection, first: int, num: int, progress: Progress | None = None
    ) -> Float32[np.ndarray, "N C"]:
        """Points `first` ... `first + num - 1` of a cloud, with colors in [-1, 1] where the model has them.

        Raises:
            Diverged: some values are not finite.
        """
        recorded = self.record(selection, progress)
        model, field = recorded.model, recorded.field
        _check_view(model, "cloud")
        if first + num > MOST_POINTS:
            raise UsageError(f"{first + num:,} points", hint=f"give at most {MOST_POINTS:,}")
        queries = model.domain.queries(first + num)[slice(first, first + num)].to(field.seeds.device)
        values = field.query(queries, chunk=CHUNK, progress=progress)
        if not values.isfinite().all():
            raise Diverged("the cloud left the finite numbers", hint="take more steps or less guidance")
        return model.domain.decode_values(values, num)[0]

    def values(self, selection: Selection, view: str, sizes: SizeOptions, progress: Progress | None = None) -> Any:
        """A `mesh`, a `clip` (T H W C), or a `scene` as cameras see it (V H W 3).

        Raises:
            UsageError: a size that the domain does not have, or that is larger than the page takes.
        """
        recorded = self.record(selection, progress)
        _check_view(recorded.model, view)
        size = self._size(recorded.model, sizes, SUFFIXES[view])
        return sample.evaluate(recorded.model, recorded.field, size, progress=progress)[0]

    def file(
        self,
        selection: Selection,
        suffix: str,
        sizes: SizeOptions,
        window: Window = None,
        progress: Progress | None = None,
    ) -> bytes:
        """The content of the file that `inrflow sample` writes of the same function.

        `progress` counts solver steps, as everywhere: what it raises ends the evaluation.

        Raises:
            UsageError: no format of the domain has the suffix, or a size that it does not have.
        """
        recorded = self.record(selection, progress)
        model, formats = recorded.model, formats_of(recorded.model.domain)
        if suffix.removeprefix(".") not in formats:
            raise UsageError(
                f"no format of {model.domain.NOUN} has the suffix `{suffix}`", hint=f"give one of {', '.join(formats)}"
            )
        if window is not None and VIEWS[model.domain.NAME] != "image":
            raise UsageError(f"a window of {model.domain.NOUN}", hint="leave `window` out: it is a part of an image")
        size = self._size(model, sizes, suffix)
        request = SampleRequest([selection.seed], recorded.labels, size, window, condition=recorded.condition)
        origin = provenance.provenance(model, recorded.weights, request, recorded.options)
        reporter = SILENT
        if progress is not None:
            reporter = replace(SILENT, progress=lambda title, unit, total=None: contextlib.nullcontext(progress))
        source = write_samples.SampleSource(model, request, recorded.options, reporter=reporter)
        with tempfile.TemporaryDirectory(prefix="inrflow-view-") as folder:
            out = Path(folder) / f"sample{suffix}"
            write_samples.check_frame_rate(model, size, out)
            (file,) = write_samples.write_samples(source, out, {**origin, **recorded.origin}, field=recorded.field)
            return file.read_bytes()

    def _model(self, selection: Selection) -> tuple[Model, Path]:
        if selection.run >= len(self.runs):
            raise UsageError(f"there is no run {selection.run}", hint=f"the page has {len(self.runs)}, numbered from 0")
        run = self.runs[selection.run]
        weights = run.weights(selection.step, selection.ema)
        loaded = self._models.get(weights)
        if loaded is None:
            loaded = models.load(weights, self.device), weights
            self._models.add(weights, loaded)
            # A field holds its model: without this, models would stay in memory uncounted.
            self.fields.drop(lambda recorded: recorded.weights not in self._models)
        return loaded

    def _condition(self, model: Model, weights: Path, selection: Selection) -> tuple[Condition, Mapping[str, str]]:
        """The condition of a text or a sequence, of one row, and its provenance; both empty without."""
        inputs = {name: getattr(selection, name) for name in INPUTS if getattr(selection, name) is not None}
        if len(inputs) > 1:
            raise UsageError(
                f"{' and '.join(f'`{name}`' for name in inputs)} exclude each other", hint="give one of them"
            )
        if not inputs:
            return {}, {}
        name = str(conditioner_of_option(f"--{next(iter(inputs))}"))
        part = conditioner_part(name)
        options = {**dict.fromkeys(("text", "texts", "sequence", "fasta")), **inputs}
        value = part.input_from_options(options)
        if self._encoder is None or self._encoder[0] != (weights, name):  # loading it may take seconds
            self._encoder = (weights, name), condition_inputs.make_encoder(model, name, None, self.device)
        return self._encoder[1](value), part.provenance(options)

    def _size(self, model: Model, sizes: SizeOptions, suffix: str) -> Size:
        """The size of a file; raises UsageError for one that the page does not take."""
        grid = sizes.resolution
        grids = [] if grid is None or suffix.removeprefix(".") not in model.domain.MESH_FORMATS else [grid]
        if any(not grid.isdecimal() or not 2 <= int(grid) <= MOST_GRID for grid in grids):
            raise UsageError(
                f"a grid of {grid} points along a side", hint=f"give one whole number from 2 to {MOST_GRID}"
            )
        size = choose_size(model.domain, sizes, suffix, model.frame_rate)
        if isinstance(size, tuple | Orbit | Clip):
            self._check_side(max(size if isinstance(size, tuple) else (size.rows, size.columns)))
        count = 0
        if isinstance(size, int) and size > MOST_POINTS:
            raise UsageError(f"{size:,} points", hint=f"give at most {MOST_POINTS:,}")
        if isinstance(size, Orbit | Clip):
            count = (size.frames if isinstance(size, Clip) else size.views) * size.rows * size.columns
        if count > MOST_PIXELS:
            raise UsageError(
                f"{count:,} pixels in all frames", hint=f"at most {MOST_PIXELS:,}: take fewer or smaller ones"
            )
        return size

    def _check_side(self, side: int) -> None:
        if side > self.max_side:
            raise UsageError(
                f"{side:,} pixels along a side: at most {self.max_side:,}",
                hint="look at a window of it, or open the page with a larger `--max-side`",
            )


def tile_window(level: int, row: int, column: int) -> tuple[float, float, float, float]:
    """The window of a tile of the deep zoom: level 0 is the whole square, each further one halves the tiles' sides.

    Raises:
        UsageError: the level has no such tile.
    """
    count = 1 << level
    if row >= count or column >= count:
        raise UsageError(
            f"the level {level} has no tile in row {row} and column {column}", hint=f"both are from 0 to {count - 1}"
        )
    return row / count, column / count, (row + 1) / count, (column + 1) / count


def _check_view(model: Model, view: str) -> None:
    """Raise UsageError where samples are not shown in this way."""
    own = VIEWS[model.domain.NAME]
    if own != view:
        raise UsageError(f"`{model.preset.name}` samples {model.domain.NOUN}", hint=f"request {VIEW_NOUNS[own]}")


def _model_bytes(model: Model) -> int:
    tensors = model.method.state_dict().values()
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors if isinstance(tensor, torch.Tensor))
