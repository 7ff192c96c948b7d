"""Grids of pixels at any resolution: what the domains of images and videos share.

Pixel i of R is at the center of its square, (2i + 1) / R - 1. A finer grid covers the same square; another aspect ratio is a
wider window of the plane, with the training square in its middle.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import torch
from jaxtyping import Float32, Float64
from torch import Tensor

from inrflow_core.errors import UsageError
from inrflow_core.fields import Window

MODES = {1: "gray", 3: "RGB", 4: "RGBA"}
"""Names of color modes by their number of channels."""
Axis = tuple[Float64[Tensor, " n"], Float64[Tensor, " n"]]
"""Coordinates along an axis, and their positions on the lattice of the training grid, whose cells are at 0, 1, 2 ..."""


def pixel_axes(rows: int, columns: int, side: int, window: Window = None) -> tuple[list[Axis], float]:
    """The axes of an image of any size over a training grid of `side` pixels, and the distance of neighboring pixels.

    Of pixels that are not square, as in a window, it is the geometric mean of both distances.

    Raises:
        UsageError: the window is empty or outside the square.
    """
    if window is None:
        shorter = min(rows, columns)
        return [_axis(count, shorter, side) for count in (rows, columns)], 2 / shorter
    check_window(window)
    top, left, bottom, right = window
    step = 2 * math.sqrt((bottom - top) / rows * (right - left) / columns)
    return [_part(rows, top, bottom, side), _part(columns, left, right, side)], step


def product(axes: Sequence[Axis]) -> tuple[Float32[Tensor, "N D"], Float64[Tensor, "N D"]]:
    """Coordinates and lattice positions of the grid of some axes, the last one fastest."""
    coordinates, positions = (
        torch.stack(torch.meshgrid(*(axis[part] for axis in axes), indexing="ij"), -1).flatten(0, -2) for part in (0, 1)
    )
    return coordinates.float(), positions


def check_window(window: Window) -> None:
    """Raise UsageError for a window that is empty or outside the square."""
    if window is not None and not (
        len(window) == 4 and 0 <= window[0] < window[2] <= 1 and 0 <= window[1] < window[3] <= 1
    ):
        raise UsageError(
            f"the window {window} is not a part of the image", hint="give top, left, bottom and right, from 0 to 1"
        )


def parse_sides(text: str) -> tuple[int, int]:
    """Rows and columns from `96` or `64x96`.

    Raises:
        UsageError: the text is neither, or a side is 0.
    """
    match = re.fullmatch(r"(\d+)(?:[xX](\d+))?", text.strip())
    rows, columns = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
    if min(rows, columns) < 1:
        raise UsageError(
            f"`--resolution {text}` is not a size",
            hint="write one side as in `96`, or rows x columns as in `64x96`",
        )
    return rows, columns


def mode_name(channels: int) -> str:
    """`RGB`; of other numbers of channels than those of `MODES` the number."""
    return MODES.get(channels, f"{channels} channels")


def _axis(count: int, shorter: int, side: int) -> Axis:
    """`count` pixels of pitch 2 / `shorter`, centered on the training square.

    Computed from integers with one division each, so that a pixel at a training pixel has exactly its coordinates.
    """
    odd = 2 * torch.arange(count, dtype=torch.float64) + 1 - (count - shorter)
    return (odd - shorter) / shorter + 0.0, (odd * side - shorter) / (2 * shorter)


def _part(count: int, low: float, high: float, side: int) -> Axis:
    position = low + (high - low) * (torch.arange(count, dtype=torch.float64) + 0.5) / count
    return 2 * position - 1, position * side - 0.5
