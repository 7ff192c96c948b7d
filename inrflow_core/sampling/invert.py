"""Invert input files: read an image or a point cloud, find the function that reproduces it, and measure the error."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64

from inrflow_core.domains._contract import HasCameras, HasFrames, HasSurfaces, InputExample, batch_of, domain_classes
from inrflow_core.errors import MissingError, UsageError
from inrflow_core.fields import Camera, DensityField, Field, PointwiseField
from inrflow_core.geometry import cloud_files
from inrflow_core.mesh_files import reading
from inrflow_core.models import Model, SamplingOptions
from inrflow_core.runs import run
from inrflow_core.runtime.progress import Progress
from inrflow_core.runtime.query_budget import CHUNK
from inrflow_core.sampling import options, request
from inrflow_core.sampling import provenance as sampling_provenance
from inrflow_core.sampling.labels import check_labels
from inrflow_core.sampling.python_inputs import class_number
from inrflow_core.sampling.request import Size, Window
from inrflow_core.shards.batch import Batch
from inrflow_core.storage import plain_file
from inrflow_core.visualization import image_io, video_io

INVERSION_STEPS = 50
"""Default Heun steps each way, 200 evaluations in all. Digits are reconstructed exactly; with 20 steps at 53 dB or more."""
CLOUD = f"a cloud ({', '.join(cloud_files.SUFFIXES)})"
READ = f"name an image, a video, {CLOUD}, a mesh or a saved field"
"""The remedy where an input file is missing."""
INPUTS = {
    "an image": Path("image.png"),
    CLOUD: Path("cloud.xyz"),
    "a mesh": Path("mesh.obj"),
    "a video": Path("clip.mp4"),
}
"""Kinds of files that are inverted, with an example of each."""
SUFFIXES = {*cloud_files.SUFFIXES, *reading.SUFFIXES, *video_io.SUFFIXES}
"""Of clouds, meshes and videos."""


def read_input(model: Model, path: str | Path, camera: Camera | None = None) -> InputExample:
    """An image, a video or a point cloud from a file, in the form of the model's domain; of a scene one view, seen by `camera`.

    Raises:
        MissingError: no such file.
        IntegrityError: it is a folder, a pipe or a device, or cannot be read.
        UsageError: the file is of another domain than the model; a camera cannot be there, or files have none.
    """
    domain, path = model.domain, Path(path)
    if not path.is_file() and not (path.is_dir() and isinstance(domain, HasFrames)):
        hint = plain_file.did_you_mean_path(path, READ)
        with plain_file.open_plain_file(path, hint=hint):  # says what else it is
            raise MissingError(f"`{path}` does not exist", hint=hint)
    if not domain.accepts(path):
        raise UsageError(
            f"the model samples {domain.NOUN}, and `{path}` is not one of them", hint=_input_hint(domain, path)
        )
    normalization = model.metadata.get("normalization") or {}
    if camera is None:
        return domain.read_input(path, normalization)
    if not domain.HAS_CAMERAS:
        raise UsageError(f"`--camera` does not apply: the model samples {domain.NOUN}", hint="leave it out")
    if not domain.reads_views:
        raise UsageError("`--camera` does not apply: the model encodes surfaces, and no views", hint="leave it out")
    return replace(domain.read_input(path, normalization), condition=domain.camera_condition(camera))


def _input_hint(domain: Any, path: Path) -> str:
    """A model that reads such a file by its suffix, or else a file that the model reads."""
    is_input = path.suffix.lower() in SUFFIXES or image_io.is_image_name(path.name)
    others = [one for one in domain_classes() if one.NAME != domain.NAME and one.accepts(path)]
    if is_input and others:
        own = [f"`--model {name}`" for name in run.shipped_models([one.NAME for one in others])]
        named = f"choose with `--run` a model of {' or '.join(one.NOUN for one in others)}"
        return named + (f", or take {' or '.join(own)}" if own else "")
    kinds = [kind for kind, file in INPUTS.items() if domain.accepts(file)]
    return f"give {' or '.join(kinds)}" if kinds else "draw samples with `inrflow sample`"


def invert(
    model: Model,
    example: InputExample,
    *,
    label: int | str | None = None,
    steps: int | None = None,
    noise: str | None = None,
    progress: Progress | None = None,
) -> Field:
    """The function that reproduces a file at the training positions.

    `label` is the number or the name of a class. Default: none, of models that have learned without classes.
    `noise` is the interpolation of the noise between training positions. Default: the preset's.

    Raises:
        UsageError: the model has no such class, or has not learned without one.
    """
    device = next(model.method.parameters()).device
    labels = class_labels(model, label)
    sets = model.domain.to_set(_batch(example), torch.zeros(1, dtype=torch.int64), labels)
    return model.method.invert(sets.to(device), inversion_options(model, steps=steps, noise=noise), progress)


def class_labels(model: Model, label: int | str | None) -> Int64[np.ndarray, " 1"] | None:
    """The label of an inversion, -1 for none; None for a model without classes.

    Raises:
        UsageError: the model has no such class, or has not learned without one.
    """
    part = model.preset.condition
    has_classes = part is not None and part.module.num_classes(part.config) is not None
    number = -1 if label is None else class_number(model, label)
    if label is not None or has_classes:
        check_labels(model, [number], 1)
    return np.array([number]) if part is not None else None


def inversion_options(model: Model, *, steps: int | None = None, noise: str | None = None) -> SamplingOptions:
    """The sampling options of an inversion: Heun's method without guidance, as far as the model's method has these options.

    Raises:
        UsageError: `steps` or `noise` is given, and the method has no such option.
    """
    guidance = 1.0 if "guidance" in options.option_names(model.preset) else None
    if model.preset.sampler is None:
        return options.sampling_options(model, steps=steps, guidance=guidance, noise=noise)
    steps = INVERSION_STEPS if steps is None else steps
    return options.sampling_options(model, sampler="heun", steps=steps, guidance=guidance, noise=noise)


def provenance(
    model: Model, source: Path, path: Path, field: Field, size: Size, window: Window, *, label: int | None = None
) -> dict[str, str]:
    """Provenance of an output that is computed from the input file `path`; `source` is the weights file."""
    origin = sampling_provenance.provenance(
        model, source, request.SampleRequest([0], None, size, window), field.options
    )
    del origin["seeds"]
    return {**origin, "given": _digest(path)[:16], **({} if label is None else {"labels": str(label)})}


def _digest(path: Path) -> str:
    """sha256 of a file, or of the frames of a folder."""
    if not path.is_dir():
        return plain_file.file_digest(path)
    return hashlib.sha256(" ".join(map(plain_file.file_digest, video_io.frame_files(path))).encode()).hexdigest()


def reconstruction_error(model: Model, example: InputExample, field: Field, chunk: int = CHUNK) -> dict[str, float]:
    """The error of an inverted file's field at the training positions.

    `psnr` in dB for images (peak 255), `chamfer` for clouds: mean squared nearest distances both ways, summed, in
    the normalization of the training data. Of shapes see `Domain.reconstruction_error`, of surfaces `color_error`.
    """
    if isinstance(model.domain, HasSurfaces) and isinstance(field, PointwiseField):
        return model.domain.reconstruction_error(partial(field.values_at, 0), example, chunk=chunk)
    if isinstance(model.domain, HasCameras) and not model.domain.reads_views:
        assert isinstance(field, DensityField)
        return model.domain.color_error(partial(field.density_and_color, 0), example, chunk=chunk)
    sets = model.domain.to_set(_batch(example), torch.zeros(1, dtype=torch.int64))
    values = field.query(sets.queries.to(field.seeds.device), chunk=chunk)
    return model.domain.compare(model.domain.decode_values(values)[0], example.values)


def _batch(example: InputExample) -> Batch:
    """A file as a batch of one."""
    return batch_of(example.values[None], {name: array[None] for name, array in example.condition.items()})
