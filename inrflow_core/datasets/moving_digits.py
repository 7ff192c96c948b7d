"""Handwritten digits that move and bounce inside a frame: clips that are made from scikit-learn's digits, nothing to download.

The motion is a function of time: a digit has a constant speed and is reflected at the sides, and each frame is drawn at its
own time with the digit between pixels. The same clips with twice the `frames` hold every frame of the former.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float64

from inrflow_core.datasets import _clips, _image_decoding
from inrflow_core.datasets._contract import DatasetIndex, Example, Item
from inrflow_core.numerics import keyed_random

DOMAIN = "video"
DESCRIPTION = (
    "the digits inside scikit-learn, no source needed -> clips of 16 frames of 32 x 32 in which one moves and bounces, 10 "
    "classes, train and val"
)
NEEDS_SOURCE = False
IS_READ_BY_SCAN = False
HELD_OUT_EVERY = 6
"""As of the data set `digits`."""
WHITE = 16
"""The largest gray level of the source."""
SHARE = 0.45
"""Side of a digit, as a share of the frame's."""
DISTANCES = 0.4, 1.2
"""How far a digit moves in a clip, in sides of the frame."""


@dataclass(frozen=True)
class Config:
    """The clips and their motion."""

    resolution: int = 32
    """Rows and columns of a frame."""
    frames: int = 16
    """Frames of a clip: how finely its duration is sampled."""
    duration: float = 2.0
    """Seconds of a clip."""
    clips: int = 2
    """Clips of each digit, whose motions differ."""
    channels: int = 3
    """3: each clip's digit has a color; 1: all are white."""
    seed: int = 0
    """Of the motions and the colors."""

    def __post_init__(self) -> None:
        _image_decoding.check_resolution(self.resolution)
        _clips.check_frames(self.frames)
        if self.channels not in (1, 3):
            raise ValueError(f"`channels` is {self.channels}: 1 or 3")
        if not 0 < self.duration < np.inf:
            raise ValueError(f"`duration` is {self.duration}: above 0")
        if self.clips < 1:
            raise ValueError(f"`clips` is {self.clips}: at least 1")
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"`seed` is {self.seed}: from 0 to 2^63 - 1")


class Motion(NamedTuple):
    """A digit and how it moves."""

    image: Float64[np.ndarray, "8 8"]
    """Gray levels in [0, 1]."""
    start: Float64[np.ndarray, " 2"]
    """Row and column of its corner at the start, from 0 to 1 of the room that it has."""
    speed: Float64[np.ndarray, " 2"]
    """Sides of the frame in one clip."""
    color: Float64[np.ndarray, " 3"]
    """Red, green and blue of the digit, in [0, 1]."""


def scan(source: Path, config: Config) -> DatasetIndex:
    """The motions of all clips; `source` is ignored."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    digits = images.reshape(-1, 8, 8) / WHITE
    seeds = torch.tensor(
        [keyed_random.derive_seed(config.seed, number) for number in range(len(digits) * config.clips)]
    )
    numbers = keyed_random.uniform(seeds, purpose="moving digits", count=5).numpy()
    items: dict[str, list[Item]] = {"train": [], "val": []}
    for number, row in enumerate(numbers):
        digit, clip = divmod(number, config.clips)
        is_held_out = (digit + 1) % HELD_OUT_EVERY == 0
        item = Item(f"{digit:04d}-{clip}", int(labels[digit]), _motion(digits[digit], row))
        items["val" if is_held_out else "train"].append(item)
    shape = config.frames, config.resolution, config.resolution, config.channels
    return _clips.plan(
        items, shape, config.frames / config.duration, tuple("0123456789"), [("digits.csv.gz", digits.size)]
    )


def read(item: Item, config: Config) -> Example:
    """One clip: a white or colored digit on black, uint8 (T R R C)."""
    motion: Motion = item.location
    frames = np.stack([_frame(motion, number / config.frames, config.resolution) for number in range(config.frames)])
    colors = motion.color if config.channels == 3 else np.ones(1)
    return Example((frames[..., None] * colors * 255).round().astype(np.uint8), item.label, item.name)


def _motion(image: Float64[np.ndarray, "8 8"], numbers: Float64[np.ndarray, " 5"]) -> Motion:
    """The motion that five numbers in (0, 1) decide: where it starts, its direction, its speed, and the color's hue."""
    angle, hue = 2 * np.pi * numbers[2], 2 * np.pi * numbers[4]
    length = DISTANCES[0] + (DISTANCES[1] - DISTANCES[0]) * numbers[3]
    color = 0.65 + 0.35 * np.cos(hue - 2 * np.pi / 3 * np.arange(3))
    return Motion(image, numbers[:2], length * np.array([np.sin(angle), np.cos(angle)]), color)


def _frame(motion: Motion, time: float, side: int) -> Float64[np.ndarray, "R R"]:
    """The frame at a time in clips: the digit, linearly interpolated, at its place between pixels."""
    room = side * (1 - SHARE)
    corner = room * _reflected(motion.start + motion.speed * time / (1 - SHARE))
    scale = 8 / (side * SHARE)
    row_weights, column_weights = (_weights((np.arange(side) + 0.5 - first) * scale - 0.5) for first in corner)
    return row_weights @ motion.image @ column_weights.T


def _reflected(position: Float64[np.ndarray, " 2"]) -> Float64[np.ndarray, " 2"]:
    """A position that is reflected at 0 and 1."""
    return 1 - np.abs(position % 2 - 1)


def _weights(positions: Float64[np.ndarray, " R"]) -> Float64[np.ndarray, "R 8"]:
    """The share of each of the digit's eight lines at positions between them; beyond them it is black."""
    return np.maximum(0, 1 - np.abs(positions[:, None] - np.arange(8)))
