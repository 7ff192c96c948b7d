"""Videos: the coordinate is a time and a position in the frame, the value a color.

Frame k of T is at (2k + 1) / T - 1; rows and columns are those of images. A clip that is sampled with N frames has its frame i
where training frame i T / N would be, so that twice the frames hold every training frame.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
from inrflow_core.errors import UsageError
from inrflow_core.fields import Clip, Window
from inrflow_core.sets import Condition, CoordValueSet, Grid, Queries, SetSpec
from inrflow_core.shards.batch import Batch
from inrflow_core.shards.schema import frame_rate
from inrflow_core.visualization import image_grid, image_io, video_io

VideoSize = Clip | tuple[int, int] | int | None
"""A clip; rows and columns, or the side of a square, of the training frames; None is the training size."""
MOST_FRAMES, MOST_RESOLUTION = 1024, 1024
"""The most frames, and the largest side, of training clips: every pixel has its coordinates in memory."""
MAX_PIXELS = 2**26
"""Pixels of all frames of a clip that are evaluated in one call."""
MOST_FPS = 240.0
SHOWN = 8
"""Frames of a clip in previews and reports."""


@dataclass(frozen=True)
class Config:
    """What the clips of a preset are."""

    resolution: int
    """Rows and columns of a training frame."""
    frames: int = 16
    """Frames of a training clip."""
    channels: int = 3
    """1 gray, 3 color."""

    def __post_init__(self) -> None:
        if not 1 <= self.resolution <= MOST_RESOLUTION:
            raise ValueError(f"`resolution` is {self.resolution}: from 1 to {MOST_RESOLUTION:,}")
        if not 1 <= self.frames <= MOST_FRAMES:
            raise ValueError(f"`frames` is {self.frames}: from 1 to {MOST_FRAMES:,}")
        pixels = self.frames * self.resolution**2
        if pixels > MAX_PIXELS:
            raise ValueError(f"`frames` times `resolution` squared is {pixels:,}: at most {MAX_PIXELS:,} pixels")
        if self.channels not in (1, 3):
            raise ValueError(f"`channels` is {self.channels}: 1 or 3")


def describe_shape(shape: tuple[int, ...]) -> str:
    """`16 frames of 32 x 32 pixels, RGB`."""
    frames, height, width, channels = shape
    return f"{frames:,} frame{'s' * (frames != 1)} of {height} x {width} pixels, {_pixel_grid.mode_name(channels)}"


class Domain(DecodedAtOwnPairs):
    """Queries of clips, sets from uint8 frames, and frames from values."""

    NAME = "video"
    NOUN = "videos"
    FORMATS = ("png", "npz", "gif", "webp", "mp4", "frames")
    MESH_FORMATS = ()
    FILES = ArrayFiles(
        ("videos",), "uint8", 5, (1, 3), "uint8 (N T H W C)", describe=describe_shape, has_one_shape=True
    )
    SIZE_OPTION = "--resolution"
    HAS_CAMERAS = False
    HAS_WINDOWS = True
    REFERENCE_SPLITS = ("train",)
    DEFAULT_METRICS = ("fvd:random", "fid:random", "kid:random")
    METRICS_OF_SEVERAL = ()
    VIEW_DOMAIN = "image"
    CLOUD_DOMAIN = None
    REQUIRED_CONDITIONS = ()
    MAKES_STRUCTURES = False
    GALLERY = IMAGE_GALLERY
    MEMORIZATION = Memorization("rms", 200, 20_000, 256, "rms difference in gray levels of eight frames")

    def __init__(self, config: Config) -> None:
        self.config = config
        self.shape = SetSpec(3, config.channels, Grid((config.frames, config.resolution, config.resolution)))

    def queries(self, size: VideoSize = None, window: Window = None, condition: Condition | None = None) -> Queries:
        """The pixel centers of all frames of a clip, frame by frame and row by row. Default: the training grid.

        `window` is top, left, bottom and right of a part of every frame, from 0 to 1. The cell size is that of images, of a pixel.

        Raises:
            UsageError: no frame, a side below 1, more than MAX_PIXELS, or a window that is empty or outside the frame.
        """
        frames, rows, columns = self._sides(size)
        if min(frames, rows, columns) < 1:
            raise UsageError(
                f"a clip of {frames} frames of {rows} x {columns} has no pixels",
                hint="give at least one frame, and sides of at least 1",
            )
        if frames * rows * columns > MAX_PIXELS:
            raise UsageError(
                f"{frames:,} frames of {rows:,} x {columns:,} have {frames * rows * columns:,} pixels; at most "
                f"{MAX_PIXELS:,} are sampled at once",
                hint="give fewer `--frames`, or sample parts of them, as in `--window 0,0,0.5,0.5`",
            )
        axes, step = _pixel_grid.pixel_axes(rows, columns, self.config.resolution, window)
        coordinates, noise_keys = _pixel_grid.product([self._times(frames), *axes])
        return Queries(coordinates, noise_keys, cell_sizes=torch.tensor(step, dtype=torch.float32))

    def num_queries(self, size: VideoSize = None, window: Window = None, condition: Condition | None = None) -> int:
        """The number of `queries(size, window, condition)`: the pixels of all frames."""
        return math.prod(self._sides(size))

    def to_set(
        self,
        batch: Batch,
        seeds: Int64[Tensor, " B"],
        labels: np.ndarray | None = None,
        *,
        augment: bool = False,
    ) -> CoordValueSet:
        """uint8 frames (B T H W C) as sets in [-1, 1]; nothing is augmented."""
        pixels = torch.from_numpy(np.ascontiguousarray(batch.values)).float()
        values = pixels.div(127.5).sub(1).flatten(1, 3)
        return CoordValueSet(self.queries(), values, seeds, conditions(labels, batch))

    def dummy_batch(self, count: int) -> CoordValueSet:
        """Clips of zeros at the training size, for planning."""
        return empty_sets(self.queries(), self.shape, count)

    def decode_values(
        self, values: Float[Tensor, "B M C"], size: VideoSize = None, condition: Condition | None = None
    ) -> np.ndarray:
        """Frames, uint8 (B T H W C), from values at `queries(size)`."""
        pixels = values.add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8)
        return pixels.unflatten(1, self._sides(size)).cpu().numpy()

    def parse_size(self, text: str) -> tuple[int, int]:
        """Rows and columns from `96` or `64x96`.

        Raises:
            UsageError: the text is neither, or a side is 0.
        """
        return _pixel_grid.parse_sides(text)

    def scale_size(self, factor: float) -> tuple[int, int]:
        """Rows and columns of the training frames times `factor`, rounded; raises UsageError where no pixel is left."""
        side = scaled(self.config.resolution, factor)
        return side, side

    def clip_size(
        self, size: tuple[int, int] | None, frames: int | None, fps: float | None, rate: float | None
    ) -> VideoSize:
        """The size of a clip with that number of frames, or with those that its duration has at `fps`.

        Args:
            size: rows and columns; None for those of the training frames.
            frames: how finely the duration of a clip is sampled.
            fps: frames per second of playback; without `frames` also how finely the duration is sampled.
            rate: frames per second of the training clips; None if it is not known.

        Raises:
            UsageError: a number is out of range, or `fps` alone where the duration is not known.
        """
        if fps is not None and not 0 < fps <= MOST_FPS:
            raise UsageError(f"{fps:g} frames per second", hint=f"give more than 0, at most {MOST_FPS:g}")
        if frames is None and fps is None:
            return size
        if frames is None:
            assert fps is not None
            if rate is None:
                raise UsageError(
                    "`--fps` alone needs the duration of a clip, and this model does not record the rate of its training clips",
                    hint="add `--frames N`",
                )
            frames = max(1, round(self.config.frames / rate * fps))
        rows, columns = self._sides(size)[1:]
        return Clip(frames, rows, columns, fps)

    def playback_rate(self, size: VideoSize, rate: float | None) -> float | None:
        """Frames per second at which a clip of a size is played: its own; else `rate` times as many as it has more frames
        than a training clip, so that it lasts as long; None if neither is known."""
        if isinstance(size, Clip) and size.fps is not None:
            return size.fps
        return None if rate is None else min(MOST_FPS, rate * self._sides(size)[0] / self.config.frames)

    def describe_size(self, size: VideoSize, condition: Condition | None = None) -> str:
        """`16 frames of 32 x 32 pixels`."""
        frames, rows, columns = self._sides(size)
        return f"{frames:,} frame{'s' * (frames != 1)} of {rows} x {columns} pixels"

    def output_spec(self, size: VideoSize = None) -> OutputSpec:
        """uint8 (T H W C)."""
        return OutputSpec((*self._sides(size), self.config.channels), "uint8")

    @staticmethod
    def accepts(path: Path) -> bool:
        """Video files, GIF and WebP animations, and folders of frames."""
        return path.is_dir() or path.suffix.lower() in video_io.SUFFIXES

    def read_input(self, path: Path, normalization: Mapping[str, Any]) -> InputExample:
        """The first frames of a video at the rate of the training clips, or of a folder, reduced as `prepare` did, uint8 (T R R C)."""
        mode = "L" if self.config.channels == 1 else "RGB"
        frames = video_io.read_clip(path, self.config.frames, frame_rate(normalization))
        side = self.config.resolution
        return InputExample(np.stack([image_io.center_crop(frame.convert(mode), side) for frame in frames]))

    def compare(self, output: np.ndarray, original: np.ndarray) -> dict[str, float]:
        """Peak signal-to-noise ratio in dB over all pixels of a clip, peak 255."""
        return {"psnr": float(psnr_of_each(output[None], original[None])[0])}

    def render(self, outputs: np.ndarray, captions: Sequence[str] = ()) -> Any:
        """A strip of at most eight evenly spaced frames of each clip."""
        frames = outputs[:, _shown(outputs.shape[1])]
        return image_grid.sheet(frames, captions) if captions else image_grid.scene_grid(frames)

    @staticmethod
    def thumbnails(values: np.ndarray) -> np.ndarray:
        """At most eight evenly spaced frames of each clip side by side, uint8 (B H F*W C)."""
        frames = values[:, _shown(values.shape[1])].transpose(0, 2, 1, 3, 4)
        return frames.reshape(*frames.shape[:2], -1, frames.shape[-1])

    @staticmethod
    def statistics(values: np.ndarray) -> Sequence[tuple[str, str, np.ndarray]]:
        """Brightness and contrast, and the mean absolute difference of successive frames."""
        change = [np.abs(np.diff(one.astype(np.int16), axis=0)).mean() if len(one) > 1 else 0.0 for one in values]
        motion = ("Change from frame to frame", "gray levels", np.array(change))
        return [*pixel_statistics(values, "a clip", "gray levels"), motion]

    def _times(self, frames: int) -> _pixel_grid.Axis:
        """Coordinates of `frames` frames at equal steps from the first training frame on, and their positions among these.

        Computed from integers with one division each, so that a frame at a training frame has exactly its coordinate.
        """
        length = self.config.frames
        start = torch.arange(frames, dtype=torch.float64) * length
        return (2 * start + frames - frames * length) / (frames * length) + 0.0, start / frames

    def _sides(self, size: VideoSize) -> tuple[int, int, int]:
        """Frames, rows and columns of a size."""
        if isinstance(size, Clip):
            return size.frames, size.rows, size.columns
        side = self.config.resolution if size is None else size
        rows, columns = (side, side) if isinstance(side, int) else side
        return self.config.frames, rows, columns


def _shown(frames: int) -> Int64[np.ndarray, " F"]:
    """The numbers of at most `SHOWN` evenly spaced frames."""
    return np.linspace(0, frames - 1, min(frames, SHOWN)).round().astype(np.int64)
