"""Invert input files: read an image or a point cloud, find the function that reproduces it, and measure the error."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from inrflow_core.domains._contract import batch_of, domain_classes
from inrflow_core.errors import MissingError, UsageError
from inrflow_core.fields import Field
from inrflow_core.formats import ply
from inrflow_core.models import Model, SamplingOptions
from inrflow_core.runtime.progress import Progress
from inrflow_core.runtime.query_budget import CHUNK
from inrflow_core.sampling import options, request
from inrflow_core.sampling import provenance as sampling_provenance
from inrflow_core.sampling.request import Size, Window
from inrflow_core.storage import checksum
from inrflow_core.visualization.image_io import Mode, read_image

INVERSION_STEPS = 50
"""Default Heun steps each way, 200 evaluations in all. Digits are reconstructed exactly; with 20 steps at 53 dB or more."""


@dataclass(frozen=True)
class InputExample:
    """A file as the domain's raw values: uint8 (H W C), or float32 (N C) in the normalization of the training data.

    A cloud is `values * scale + offset` in the file's own units; images have scale 1 and offset 0.
    """

    values: np.ndarray
    offset: np.ndarray | float = 0.0
    scale: float = 1.0

    def to_source_units(self, values: np.ndarray) -> np.ndarray:
        """Values of the domain in the file's own units."""
        if values.dtype == np.uint8:
            return values
        restored = values.copy()
        restored[..., :3] = values[..., :3] * self.scale + self.offset
        return restored


def read_input(model: Model, path: Path) -> InputExample:
    """An image or a point cloud from a file, in the form of the model's domain.

    An image is cropped to its central square and resized to the training grid. A cloud is scaled to its own bounding
    box, as in training, and evenly subsampled if it has more points than a training set.

    Raises:
        MissingError: no such file.
        IntegrityError: the file cannot be read.
        UsageError: the file is of another domain than the model.
    """
    if not path.is_file():
        raise MissingError(f"`{path}` does not exist", hint="name an image, a .ply cloud or a saved field")
    domain = model.domain
    if not domain.accepts(path):
        others = [one.NOUN for one in domain_classes() if one.NAME != domain.NAME and one.FILES is not None]
        raise UsageError(
            f"the model samples {domain.NOUN}, and `{path}` is not one of them",
            hint=f"choose with `--run` a model of {' or '.join(others)}",
        )
    return _cloud(model, path) if domain.SIZE_OPTION == "--points" else _image(model, path)


def invert(
    model: Model,
    example: InputExample,
    *,
    label: int | None = None,
    steps: int | None = None,
    noise: str | None = None,
    progress: Progress | None = None,
) -> Field:
    """The function that reproduces a file at the training positions.

    `noise` is the interpolation of the noise between training positions. Default: the preset's.
    """
    device = next(model.method.parameters()).device
    labels = None if label is None else np.array([label])
    if labels is None and model.preset.condition is not None:
        labels = np.array([-1])
    sets = model.domain.to_set(batch_of(example.values[None]), torch.zeros(1, dtype=torch.int64), labels)
    return model.method.invert(sets.to(device), inversion_options(model, steps=steps, noise=noise), progress)


def inversion_options(model: Model, *, steps: int | None = None, noise: str | None = None) -> SamplingOptions:
    """The sampling options of an inversion: Heun's method without guidance, as far as the model's method has these options.

    Raises:
        UsageError: `steps` or `noise` is given, and the method has no such option.
    """
    guidance = 1.0 if "guidance" in options.option_names(model.preset) else None
    if model.preset.sampler is None:
        return options.sampling_options(model, steps=steps, guidance=guidance, noise=noise)
    steps = steps or INVERSION_STEPS
    return options.sampling_options(model, sampler="heun", steps=steps, guidance=guidance, noise=noise)


def provenance(
    model: Model, source: Path, path: Path, field: Field, size: Size, window: Window, *, label: int | None = None
) -> dict[str, str]:
    """Provenance of an output that is computed from the input file `path`; `source` is the weights file."""
    origin = sampling_provenance.provenance(
        model, source, request.SampleRequest([0], None, size, window), field.options
    )
    del origin["seeds"]
    return {**origin, "given": checksum.file_digest(path)[:16], **({} if label is None else {"labels": str(label)})}


def reconstruction_error(model: Model, example: InputExample, field: Field, chunk: int = CHUNK) -> dict[str, float]:
    """The error of an inverted file's field at the training positions.

    `psnr` in dB for images (peak 255), `chamfer` for clouds: mean squared nearest distances both ways, summed, in
    the normalization of the training data.
    """
    sets = model.domain.to_set(batch_of(example.values[None]), torch.zeros(1, dtype=torch.int64))
    values = field.query(sets.queries.to(field.seeds.device), chunk=chunk)
    return model.domain.compare(model.domain.decode_values(values)[0], example.values)


def _image(model: Model, path: Path) -> InputExample:
    from PIL import Image

    resolution, channels = model.domain.config.resolution, model.domain.config.channels
    modes: dict[int, Mode] = {1: "L", 3: "RGB", 4: "RGBA"}
    image = read_image(path, modes[channels])
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    box = (left, top, left + side, top + side)
    if image.size != (resolution, resolution):
        image = image.resize((resolution, resolution), Image.Resampling.BICUBIC, box=box)
    return InputExample(np.array(image).reshape(resolution, resolution, channels))


def _cloud(model: Model, path: Path) -> InputExample:
    points = ply.read(path)
    channels = model.domain.shape.value_size
    if points.shape[1] < channels:
        raise UsageError(
            f"`{path}` has no colors, and the model samples colored clouds", hint="give a .ply with colors"
        )
    points = points[:, :channels]
    low, high = points[:, :3].min(0), points[:, :3].max(0)
    offset, scale = (low + high) / 2, float((high - low).max() / 2)
    if scale == 0:
        raise UsageError(f"all points of `{path}` coincide", hint="give a cloud with some extent")
    count = model.domain.shape.num_queries
    if len(points) > count:
        points = points[np.linspace(0, len(points) - 1, count).round().astype(int)]
    values = points.astype(np.float32).copy()
    values[:, :3] = (values[:, :3] - offset) / scale
    return InputExample(values, offset, scale)
