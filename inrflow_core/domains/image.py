"""Images: the coordinate is a position in the plane, the value a color.

Pixel i of R is at the center of its square, (2i + 1) / R - 1, rows before columns. A finer grid covers the same
square; another aspect ratio is a wider window of the plane, with the training square in its middle.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from inrflow_core.domains import _pixel_grid
from inrflow_core.domains._contract import (
    IMAGE_GALLERY,
    ArrayFiles,
    DecodedAtOwnPairs,
    InputExample,
    Memorization,
    OutputSpec,
    conditions,
    empty_sets,
    pixel_statistics,
    psnr_of_each,
    scaled,
)
from inrflow_core.domains._scale_crops import ScaleCrops, reduced
from inrflow_core.errors import UsageError
from inrflow_core.fields import Window
from inrflow_core.geometry import cloud_files
from inrflow_core.mesh_files import reading
from inrflow_core.numerics import keyed_random
from inrflow_core.sets import Condition, CoordValueSet, Grid, Queries, SetSpec, TrainBatch
from inrflow_core.shards.batch import Batch
from inrflow_core.visualization import image_grid, image_io, video_io

ImageSize = tuple[int, int] | int | None
"""Rows and columns, or the side of a square; None is the training size."""
MAX_PIXELS = 2**28
"""Pixels of an image that are evaluated in one call."""
MOST_RESOLUTION = 8192
"""The largest side of training images: every pixel has its coordinates in memory."""

CROP, CROP_AT = "crop", "crop_at"
"""Conditions of sets before `train_batch`: the values of the crop that the decoder learns, and where it is."""


@dataclass(frozen=True)
class Config:
    """What the images of a preset are."""

    resolution: int
    """Rows and columns of the training grid."""
    channels: int = 3
    """1 gray, 3 color, 4 color and opacity."""
    value_scale: float = 1.0
    """Values in [-1, 1] are multiplied by this for the network."""
    flip: bool = False
    """Mirror half of the training images, left to right."""
    scales: tuple[float, ...] | None = None
    """Lowest and highest scale of multi-scale training, as in [1.0, 2.0]: the encoder sees an image at `resolution`, the
    decoder learns a crop of it on a finer or coarser grid. The stored images have `resolution` times the highest scale, or more.
    None: both have the training grid, which is that of the stored images."""

    def __post_init__(self) -> None:
        if not 1 <= self.resolution <= MOST_RESOLUTION:
            raise ValueError(f"`resolution` is {self.resolution}: from 1 to {MOST_RESOLUTION:,}")
        if self.channels not in (1, 3, 4):
            raise ValueError(f"`channels` is {self.channels}: 1, 3 or 4")
        if self.value_scale <= 0:
            raise ValueError(f"`value_scale` is {self.value_scale}: above 0")
        if self.scales is not None and not (len(self.scales) == 2 and 0 < self.scales[0] <= self.scales[1] < math.inf):
            raise ValueError(f"`scales` is {list(self.scales)}: the lowest and the highest one, as in [1.0, 2.0]")
        crops = self.crops
        if crops is not None and crops.largest > MOST_RESOLUTION:
            raise ValueError(f"`scales` end at {crops.largest:,} pixels: at most {MOST_RESOLUTION:,}")

    @property
    def crops(self) -> ScaleCrops | None:
        """The crops of multi-scale training, if there are any."""
        return None if self.scales is None else ScaleCrops(self.resolution, *self.scales)


def read_file(path: Path) -> np.ndarray:
    """An image file as uint8 (H W C), gray or RGB."""
    image = image_io.read_image(path, None)
    return np.array(image).reshape(image.height, image.width, -1)


def describe_shape(shape: tuple[int, ...]) -> str:
    """`96 x 128 pixels, RGB`; of other numbers of channels the number."""
    height, width, channels = shape
    return f"{height} x {width} pixels, {_pixel_grid.mode_name(channels)}"


class Domain(DecodedAtOwnPairs):
    """Queries of images, sets from uint8 pixels, and pixels from values."""

    NAME = "image"
    NOUN = "images"
    FORMATS = ("png", "npz")
    MESH_FORMATS = ()
    FILES = ArrayFiles(
        ("images", "arr_0"),  # `arr_0` is that of ADM's sample files
        "uint8",
        4,
        (1, 3, 4),
        "uint8 (N H W C)",
        image_io.SUFFIXES + image_io.FOREIGN_SUFFIXES,
        read_file,
        describe_shape,
        has_one_shape=True,
        max_bytes=image_io.MAX_BYTES,
    )
    SIZE_OPTION = "--resolution"
    HAS_CAMERAS = False
    HAS_WINDOWS = True
    REFERENCE_SPLITS = ("train",)
    DEFAULT_METRICS = ("fid:random", "kid:random", "precision:random", "recall:random")
    METRICS_OF_SEVERAL = ()
    VIEW_DOMAIN = None
    CLOUD_DOMAIN = None
    REQUIRED_CONDITIONS = ()
    MAKES_STRUCTURES = False
    GALLERY = IMAGE_GALLERY
    MEMORIZATION = Memorization("rms", 500, 200_000, 1024, "rms difference in gray levels")

    def __init__(self, config: Config) -> None:
        self.config, self.crops = config, config.crops
        side = config.resolution
        self.shape = SetSpec(2, config.channels, Grid((side, side)), brightest=config.value_scale)

    def queries(self, size: ImageSize = None, window: Window = None, condition: Condition | None = None) -> Queries:
        """The pixel centers of an image of `size` (rows, columns), row by row. Default: the training grid.

        `window` is top, left, bottom and right of a part of the training square, from 0 to 1. The cell size is the distance
        of neighboring pixels; of pixels that are not square the geometric mean of both distances.

        Raises:
            UsageError: a side below 1, more than MAX_PIXELS, or a window that is empty or outside the square.
        """
        side = self.config.resolution
        rows, columns = self._sides(size)
        if min(rows, columns) < 1:
            raise UsageError(f"an image of {rows} x {columns} has no pixels", hint="both sides are at least 1")
        if rows * columns > MAX_PIXELS:
            raise UsageError(
                f"an image of {rows:,} x {columns:,} has {rows * columns:,} pixels; at most {MAX_PIXELS:,} are sampled at once",
                hint="sample parts of it, as in `--window 0,0,0.5,0.5`",
            )
        axes, step = _pixel_grid.pixel_axes(rows, columns, side, window)
        coordinates, noise_keys = _pixel_grid.product(axes)
        return Queries(coordinates, noise_keys, cell_sizes=torch.tensor(step, dtype=torch.float32))

    def to_set(
        self,
        batch: Batch,
        seeds: Int64[Tensor, " B"],
        labels: np.ndarray | None = None,
        *,
        augment: bool = False,
    ) -> CoordValueSet:
        """uint8 pixels (B H W C) as sets in [-1, 1] times `value_scale`; flips, with `augment`, are keyed by the seed.

        Larger images are reduced to the training grid: with the setting `scales`, or without `augment`. With both (in training)
        the condition has `crop`, the values of a crop (B M C), and `crop_at`, its grid and corner (B 3).

        Raises:
            UsageError: with `augment`, images that are smaller than the largest grid of multi-scale training.
        """
        pixels = torch.from_numpy(np.ascontiguousarray(batch.values)).float()
        if augment and self.config.flip:
            flipped = keyed_random.uniform(seeds, purpose="flip")[:, 0] < 0.5
            pixels = torch.where(flipped.cpu().view(-1, 1, 1, 1), pixels.flip(2), pixels)
        condition = conditions(labels, batch)
        if self.crops is not None and augment:
            condition |= self._crop_condition(pixels, seeds.cpu(), self.crops)
        if pixels.shape[1] > self.config.resolution and (self.crops is not None or not augment):
            pixels = torch.stack([reduced(image, self.config.resolution) for image in pixels])
        return CoordValueSet(self.queries(), self._scaled(pixels), seeds, condition)

    def train_batch(self, sets: CoordValueSet) -> TrainBatch:
        """The same sets for the encoder and the decoder; of multi-scale training the crops for the decoder."""
        if CROP not in sets.condition or self.crops is None:
            return super().train_batch(sets)
        condition = {name: value for name, value in sets.condition.items() if name not in (CROP, CROP_AT)}
        context = CoordValueSet(sets.queries, sets.values, sets.seeds, condition)
        queries = self.crops.queries(sets.condition[CROP_AT])
        return TrainBatch(context, CoordValueSet(queries, sets.condition[CROP], sets.seeds, condition))

    def _crop_condition(
        self, pixels: Float[Tensor, "B S S C"], seeds: Int64[Tensor, " B"], crops: ScaleCrops
    ) -> dict[str, Tensor]:
        stored = pixels.shape[1]
        if stored < crops.largest:
            fits = stored / self.config.resolution
            other = f", or set `domain.scales=[{crops.low:g}, {fits:g}]`" if fits >= crops.low else ""
            raise UsageError(
                f"`domain.scales` ends at {crops.high:g}, which takes images of {crops.largest:,} pixels along a side, and the "
                f"stored ones have {stored:,}",
                hint=f"prepare them with `--resolution {crops.largest}`{other}",
            )
        at = crops.draw(seeds)
        cut = torch.stack([crops.cut(image, row) for image, row in zip(pixels, at, strict=True)])
        return {CROP: self._scaled(cut), CROP_AT: at}

    def _scaled(self, pixels: Float[Tensor, "B H W C"]) -> Float[Tensor, "B N C"]:
        return ((pixels / 127.5 - 1) * self.config.value_scale).flatten(1, 2)

    def dummy_batch(self, count: int) -> CoordValueSet:
        """Images of zeros at the training resolution, for planning."""
        condition = {}
        if self.crops is not None:
            at = torch.tensor([[self.crops.largest, 0, 0]]).repeat(count, 1)
            condition = {CROP: torch.zeros(count, self.crops.side**2, self.config.channels), CROP_AT: at}
        return empty_sets(self.queries(), self.shape, count, condition)

    def decode_values(
        self, values: Float[Tensor, "B M C"], size: ImageSize = None, condition: Condition | None = None
    ) -> np.ndarray:
        """Pixels, uint8 (B H W C), from values at `queries(size)`."""
        pixels = values.div(self.config.value_scale).add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8)
        return pixels.unflatten(1, self._sides(size)).cpu().numpy()

    def parse_size(self, text: str) -> tuple[int, int]:
        """Rows and columns from `96` or `64x96`.

        Raises:
            UsageError: the text is neither, or a side is 0.
        """
        return _pixel_grid.parse_sides(text)

    def scale_size(self, factor: float) -> tuple[int, int]:
        """Rows and columns of the training grid times `factor`, rounded; raises UsageError where no pixel is left."""
        side = scaled(self.config.resolution, factor)
        return side, side

    def describe_size(self, size: ImageSize, condition: Condition | None = None) -> str:
        """`96 x 96 pixels`."""
        rows, columns = self._sides(size)
        return f"{rows} x {columns} pixels"

    def output_spec(self, size: ImageSize = None) -> OutputSpec:
        """uint8 (H W C)."""
        return OutputSpec((*self._sides(size), self.config.channels), "uint8")

    @staticmethod
    def accepts(path: Path) -> bool:
        """Every file but clouds, meshes and videos: the content decides whether it is an image."""
        others = (*cloud_files.SUFFIXES, *reading.SUFFIXES, *video_io.VIDEO_SUFFIXES)
        return path.suffix.lower() not in others

    def read_input(self, path: Path, normalization: Mapping[str, Any]) -> InputExample:
        """The central square of an image at the training resolution, reduced as `prepare` did; with the setting `scales`, where
        the image has it, by way of the size that `prepare` stored, which is reduced as in training."""
        reduction = normalization.get("reduction", "adm")
        if reduction not in get_args(image_io.Reduction):
            raise UsageError(
                f"the model learned from images reduced by `{reduction}`, which this inrflow does not know",
                hint="train it again on shards that this inrflow prepared",
            )
        resolution, channels = self.config.resolution, self.config.channels
        modes: dict[int, image_io.Mode] = {1: "L", 3: "RGB", 4: "RGBA"}
        background = normalization.get("background", image_io.BACKGROUND)
        image = image_io.read_image(path, modes[channels], background=background)
        if self.crops is None or not resolution < self.crops.largest <= min(image.size):
            return InputExample(image_io.reduce(image, resolution, reduction))
        stored = torch.from_numpy(image_io.reduce(image, self.crops.largest, reduction)).float()
        return InputExample(reduced(stored, resolution).round().to(torch.uint8).numpy())

    def compare(self, output: np.ndarray, original: np.ndarray) -> dict[str, float]:
        """Peak signal-to-noise ratio in dB, peak 255; of equal images that of one number off by one level."""
        return {"psnr": float(psnr_of_each(output[None], original[None])[0])}

    def render(self, outputs: np.ndarray, captions: Sequence[str] = ()) -> Any:
        """A grid of all images, each pixel a sharp square."""
        return image_grid.sheet(outputs[:, None], captions) if captions else image_grid.image_grid(outputs)

    @staticmethod
    def thumbnails(values: np.ndarray) -> np.ndarray:
        """The images themselves."""
        return values

    @staticmethod
    def statistics(values: np.ndarray) -> Sequence[tuple[str, str, np.ndarray]]:
        """Brightness and contrast."""
        return pixel_statistics(values, "an image", "gray levels")

    def _sides(self, size: ImageSize) -> tuple[int, int]:
        """Rows and columns of a size: one number is a square, None the training grid."""
        side = self.config.resolution if size is None else size
        if isinstance(side, int):
            return side, side
        assert isinstance(side, tuple), "other sizes are those of other domains"
        return side
