"""The functions of a page: each is recorded once, and then evaluated wherever the page looks.

The recorded fields and the loaded models are bounded by bytes. All methods that need a model are called by the worker's sampling
thread alone; what needs none (`reads_input`) by any thread.
"""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, UInt8

from inrflow_core import models
from inrflow_core.conditioners._contract import conditioner_of_option, conditioner_part
from inrflow_core.config.training import LAST_SEED
from inrflow_core.domains._contract import InputExample
from inrflow_core.errors import Diverged, UsageError
from inrflow_core.fields import Camera, Clip, Field, Orbit, Size, Window
from inrflow_core.geometry.cameras import DEFAULT_FOV, DISTANCE
from inrflow_core.models import Model
from inrflow_core.proteins import superposition
from inrflow_core.proteins.structure import Structure
from inrflow_core.runtime.progress import SILENT, Progress
from inrflow_core.runtime.query_budget import CHUNK
from inrflow_core.sample_files import writer
from inrflow_core.sampling import condition_inputs, invert, provenance, sample, support_cameras, write_samples
from inrflow_core.sampling.labels import resolve_labels
from inrflow_core.sampling.options import options_for_labels
from inrflow_core.sampling.python_inputs import class_number
from inrflow_core.sampling.request import SampleRequest, SizeOptions, choose_size
from inrflow_core.sets import Condition
from inrflow_core.storage import plain_file
from inrflow_core.viewer import dropped_images
from inrflow_core.viewer.byte_cache import ByteCache
from inrflow_core.viewer.dropped_images import DroppedImages, enlarged
from inrflow_core.viewer.selection import Selection
from inrflow_core.viewer.viewed_run import INPUTS, VIEW_NOUNS, VIEWS, ViewedRun, formats_of
from inrflow_core.visualization import image_io

MOST_LEVELS = 14
"""Levels of the deep zoom below the one whose single tile is the whole image: beyond, float32 coordinates of neighboring pixels
of a tile would coincide."""
MOST_POINTS = 128_000
"""Points of a cloud on the page."""
MOST_GRID = 256
"""Points of a mesh's grid along a side."""
MOST_PIXELS = 1 << 26
"""Pixels of all frames of a clip, or of all views of a turntable."""
INPUT_MEMORY = 32 << 20
"""Bytes of input images at training resolutions."""
SUFFIXES = {"mesh": ".glb", "scene": ".png", "clip": ".npz"}
"""Suffixes of files that hold what a view shows: they decide what a size means."""
DEFAULT_MEMORY = 1 << 30
"""Bytes of recorded fields, and as many of loaded models."""
FIRST_VIEW = (0.0, 0.0, DISTANCE, DEFAULT_FOV)
"""The camera of an image that a cloud is sampled under, as in `inrflow sample --image`."""
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
    guide: Path | None = None
    """The weights file of the run that guides it."""
    example: InputExample | None = None
    """What was encoded; None of a new sample."""
    error: Mapping[str, float] = dataclasses.field(default_factory=dict)
    """The error of what was encoded at the training's positions, by the names of `upsample.ERRORS`."""

    def options_as_text(self) -> dict[str, str]:
        """What it was sampled with, for people."""
        guide = None if self.guide is None else plain_file.file_digest(self.guide)[:16]
        return self.options.provenance(guide)


class _Recording:
    """Counts the steps of a recording that is under way; `seconds` is what it took without the callback that each step calls."""

    def __init__(self, selection: Selection, progress: Progress | None) -> None:
        self.selection, self.steps = selection, (0, 0)
        self._progress = progress
        self._started, self._outside = time.perf_counter(), 0.0

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self._started - self._outside

    def __call__(self, done: int, total: int) -> None:
        """Report progress."""
        self.steps = done, total
        left = time.perf_counter()
        if self._progress is not None:
            self._progress(done, total)  # which may answer other requests
        self._outside += time.perf_counter() - left


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
        self.images = DroppedImages(max_side)
        self.first_image: str | None = None
        """The input image of a page whose address names none."""
        self._recording: _Recording | None = None
        self._inputs: ByteCache[UInt8[np.ndarray, "R R C"]] = ByteCache(INPUT_MEMORY, lambda pixels: pixels.nbytes)
        self._reading = threading.Lock()
        self._encoder: tuple[tuple[Path, str], Callable[[Any], Condition]] | None = None
        self._models: ByteCache[tuple[Model, Path]] = ByteCache(memory, lambda loaded: _model_bytes(loaded[0]))

    def add_first_image(self, path: Path) -> None:
        """Make an image file the input of pages whose address names none.

        Raises:
            MissingError: there is no such file.
            UsageError: it cannot be read, or no run takes an image.
        """
        if not any(run.image_use for run in self.runs):
            raise UsageError("`--image`: no run on the page takes an image", hint="leave it out, or name another run")
        content = plain_file.read_plain_file(path, dropped_images.MOST_BYTES, hint=image_io.HINT)
        self.first_image = self.images.add(content, is_permanent=True).name

    def is_recorded(self, *selections: Selection) -> bool:
        """Whether these functions are recorded, so that queries only replay their contexts. Any thread may call it."""
        return all(selection in self.fields for selection in selections)

    def progress_of(self, selection: Selection) -> tuple[int, int] | None:
        """Solver steps done and in all of a recording that is under way (evaluations of an inversion, there and back; of an
        adaptive solver both are the steps done); None of any other. Any thread may call it."""
        recording = self._recording
        return recording.steps if recording is not None and recording.selection == selection else None

    def record(self, selection: Selection, progress: Progress | None = None) -> Recorded:
        """The recorded function of a selection.

        Raises:
            UsageError: there is no such run, or it lacks what is selected.
            MissingError, IntegrityError: its weights.
        """
        recorded = self.fields.get(selection)
        if recorded is not None:
            return recorded
        self._recording = _Recording(selection, progress)
        try:
            model, weights = self._load(selection.run, selection.step, selection.ema)
            record = self._encode if self._encodes(selection) else self._sample
            recorded = record(model, weights, selection, self._recording)
        finally:
            self._recording = None
        self.fields.add(selection, recorded)
        return recorded

    def _sample(self, model: Model, weights: Path, selection: Selection, recording: _Recording) -> Recorded:
        """A new sample, recorded."""
        labels = resolve_labels(model, [selection.seed], selection.label)
        method_settings = {"guidance": selection.guidance, "guidance_interval": selection.interval}
        guide, guide_weights = (None, None) if selection.guide is None else self._load(*selection.guide)
        options = options_for_labels(
            model,
            labels,
            guide=guide,
            sampler=selection.sampler,
            steps=selection.steps,
            method_settings={name: value for name, value in method_settings.items() if value is not None},
        )
        condition, origin = self._condition(model, weights, selection)
        started = recording.seconds
        function = sample.sample_fields(model, [selection.seed], labels, options, condition).cache_context(recording)
        origin = {**support_cameras.provenance(model), **origin}
        seconds = recording.seconds - started
        return Recorded(model, weights, function, options, labels, seconds, condition, origin, guide_weights)

    def _encode(self, model: Model, weights: Path, selection: Selection, recording: _Recording) -> Recorded:
        """The function that reproduces an image, recorded: as `inrflow upsample FILE` finds it."""
        others = [
            name
            for name in ("guidance", "interval", "guide", "sampler", *INPUTS)
            if getattr(selection, name) is not None
        ]
        others += ["seed"] if selection.seed else []
        if others:
            raise UsageError(
                f"`{others[0]}` does not apply to an image that the model encodes",
                hint="leave it out, or remove the image",
            )
        label = None if selection.label is None else class_number(model, selection.label)
        started = recording.seconds
        with self.images.file(str(selection.image)) as path:
            example = invert.read_input(model, path, selection.camera)
        function = invert.invert(model, example, label=label, steps=selection.steps, progress=recording)
        function = function.cache_context(recording)
        seconds = recording.seconds - started
        error = invert.reconstruction_error(model, example, function)
        origin = {"given": str(selection.image)}
        labels = None if label is None else [label]
        return Recorded(model, weights, function, function.options, labels, seconds, {}, origin, None, example, error)

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
        self, selection: Selection, size: tuple[int, int], window: Window, kind: str, progress: Progress | None = None
    ) -> UInt8[np.ndarray, "H W C"]:
        """The same window of the training grid's pixels, enlarged by `bicubic` interpolation, or as they are (`pixels`); of an
        image that is encoded those that the model reads. `truth` is that image at its own resolution."""
        self._check_side(max(size))
        if kind == "truth":
            if selection.image is None:
                raise UsageError("there is no image beside the sample", hint="drop one on the page")
            pixels = self.images.get(selection.image).square
        elif self.reads_input(selection, kind):
            pixels = self._input_pixels(selection)
        else:
            pixels = self.image(selection, None, None, progress)
        return enlarged(pixels, size, window or (0.0, 0.0, 1.0, 1.0), is_sharp=kind != "bicubic")

    def reads_input(self, selection: Selection, kind: str) -> bool:
        """Whether an interpolation `kind` is of the input image alone: it needs no model."""
        return kind == "truth" or self._encodes(selection)

    def _encodes(self, selection: Selection) -> bool:
        return selection.image is not None and self._run(selection.run).image_use == "encode"

    def _input_pixels(self, selection: Selection) -> UInt8[np.ndarray, "R R C"]:
        """The input image as the model reads it."""
        run, image = self._run(selection.run), self.images.get(str(selection.image))
        _check_view(run, "image")
        with self._reading:
            pixels = self._inputs.get((selection.run, image.name))
            if pixels is None:
                with self.images.file(image.name) as path:
                    pixels = run.domain.read_input(path, run.info.get("normalization") or {}).values
                self._inputs.add((selection.run, image.name), pixels)
        return pixels

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

    def structures(self, selection: Selection, num: int, progress: Progress | None = None) -> list[Structure]:
        """Proteins of one sequence, the samples of `num` seeds from the selection's on, superposed on the first.

        Raises:
            UsageError: the run does not sample proteins, or a seed beyond the last one.
        """
        if selection.seed + num - 1 > LAST_SEED:
            raise UsageError(f"{num} samples from the seed {selection.seed} on", hint="give a smaller seed")
        samples: list[Structure] = []
        for seed in range(selection.seed, selection.seed + num):
            recorded = self.record(replace(selection, seed=seed), progress)
            _check_view(recorded.model, "structure")
            samples += sample.evaluate(recorded.model, recorded.field, progress=progress)
        return superposition.superpose_on_first(samples)

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
        with tempfile.TemporaryDirectory(prefix="inrflow-view-") as folder:
            out = Path(folder) / f"sample{suffix}"
            write_samples.check_frame_rate(model, size, out)
            write = self._write_sample if recorded.example is None else self._write_encoded
            write(selection, recorded, out, size, window, progress)
            return out.read_bytes()

    def _write_sample(
        self, selection: Selection, recorded: Recorded, out: Path, size: Size, window: Window, progress: Progress | None
    ) -> None:
        """The file of `inrflow sample`."""
        model = recorded.model
        request = SampleRequest([selection.seed], recorded.labels, size, window, condition=recorded.condition)
        origin = provenance.provenance(model, recorded.weights, request, recorded.options, recorded.guide)
        reporter = SILENT
        if progress is not None:
            reporter = replace(SILENT, progress=lambda title, unit, total=None: contextlib.nullcontext(progress))
        source = write_samples.SampleSource(model, request, recorded.options, reporter=reporter)
        write_samples.write_samples(source, out, {**origin, **recorded.origin}, field=recorded.field)

    def _write_encoded(
        self, selection: Selection, recorded: Recorded, out: Path, size: Size, window: Window, progress: Progress | None
    ) -> None:
        """The file of `inrflow upsample FILE`."""
        model, function = recorded.model, recorded.field
        values = sample.evaluate(model, function, size, window, progress=progress)
        label = None if recorded.labels is None else recorded.labels[0]
        with self.images.file(str(selection.image)) as path:
            origin = invert.provenance(model, recorded.weights, path, function, size, window, label=label)
        beside = write_samples.beside_samples(model, size, function.condition, out)
        writer.write(out, values, model.domain.NAME, origin=origin, **beside)

    def _run(self, index: int) -> ViewedRun:
        if index >= len(self.runs):
            raise UsageError(f"there is no run {index}", hint=f"the page has {len(self.runs)}, numbered from 0")
        return self.runs[index]

    def _load(self, index: int, step: int | None, ema: float | None = None) -> tuple[Model, Path]:
        """The model of a run, and its weights file."""
        run = self._run(index)
        weights = run.weights(step, ema)
        loaded = self._models.get(weights)
        if loaded is None:
            loaded = models.load(weights, self.device, run.name), weights
            self._models.add(weights, loaded)
            # A field holds its models: without this, they would stay in memory uncounted.
            self.fields.drop(lambda one: not {one.weights, one.guide or one.weights} <= self._models.keys())
        return loaded

    def _condition(self, model: Model, weights: Path, selection: Selection) -> tuple[Condition, Mapping[str, str]]:
        """The condition of a text, a sequence or an image, of one row, and its provenance; both empty without."""
        names = (*INPUTS, "image")
        inputs = {name: getattr(selection, name) for name in names if getattr(selection, name) is not None}
        if len(inputs) > 1:
            raise UsageError(
                f"{' and '.join(f'`{name}`' for name in inputs)} exclude each other", hint="give one of them"
            )
        if not inputs:
            if self.runs[selection.run].image_use == "condition":
                raise UsageError(f"`{model.name}` samples under an image", hint="drop one on the page")
            return {}, {}
        name = str(conditioner_of_option(f"--{next(iter(inputs))}"))
        part = conditioner_part(name)
        options: dict[str, Any] = {**dict.fromkeys(("text", "texts", "sequence", "fasta")), **inputs}
        with contextlib.ExitStack() as stack:
            if selection.image is not None:
                options["image"] = stack.enter_context(self.images.file(selection.image))
                camera = selection.camera or Camera()
                options["camera"] = tuple(
                    usual if number is None else number for number, usual in zip(camera, FIRST_VIEW, strict=True)
                )
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


def _check_view(model: Model | ViewedRun, view: str) -> None:
    """Raise UsageError where samples are not shown in this way."""
    own = VIEWS[model.domain.NAME]
    if own != view:
        raise UsageError(f"`{model.name}` samples {model.domain.NOUN}", hint=f"request {VIEW_NOUNS[own]}")


def _model_bytes(model: Model) -> int:
    tensors = model.method.state_dict().values()
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors if isinstance(tensor, torch.Tensor))
