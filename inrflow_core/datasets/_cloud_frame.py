"""Normalization `global` of point clouds: one offset and scale for all, so that sizes and positions stay comparable."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from inrflow_core.datasets._contract import Example, Item
from inrflow_core.errors import MissingError, UnreadableItemError
from inrflow_core.mesh_files import pieces

Frame = tuple[tuple[float, float, float], float]
"""The offset and scale of all clouds."""


def find(items: Sequence[Item], points_of: Callable[[Item], np.ndarray], *, is_by_axis: bool = False) -> Frame:
    """The mean of all points, and the standard deviation of all their numbers.

    The deviation is about the mean of all numbers, as in PointFlow's `datasets.py`, or with `is_by_axis` about that of each
    axis, which clouds far from the origin need. Items that `points_of` cannot read, and those with numbers that are not
    finite, do not count.

    Raises:
        MissingError: no item can be read, or all points coincide.
    """

    def moments(item: Item) -> tuple[int, np.ndarray, float] | None:
        try:
            points = points_of(item).astype(np.float64)
            pieces.check_finite(points)
        except UnreadableItemError:
            return None
        return len(points), points.sum(0), float(np.square(points).sum())

    with ThreadPoolExecutor(4) as pool:
        parts = [part for part in pool.map(moments, items) if part is not None]
    count = sum(part[0] for part in parts)
    if not count:
        raise MissingError("there is no readable cloud in the split `train`", hint="use `--set normalization=shape`")
    mean = sum(part[1] for part in parts) / count
    square = sum(part[2] for part in parts) / (3 * count)
    deviation = np.sqrt(max(0.0, square - (np.mean(np.square(mean)) if is_by_axis else np.mean(mean) ** 2)))
    if not 0 < deviation < np.inf:
        raise MissingError("the clouds of the split `train` have no size", hint="use `--set normalization=shape`")
    x, y, z, scale = (float(f"{number:.9g}") for number in [*np.asarray(mean), deviation])
    return (x, y, z), scale


def normalization(of: Frame) -> dict[str, Any]:
    """Normalization `global`: one offset and scale for all clouds."""
    offset, scale = of
    return {"kind": "global", "offset": offset, "scale": scale, "undo": "points * scale + offset"}


def example(item: Item, points: np.ndarray, of: Frame, colors: np.ndarray | None = None) -> Example:
    """A cloud with the offset and scale of all, float32; colors in [-1, 1] follow the positions.

    Raises:
        UnreadableItemError: a number that is not finite.
    """
    pieces.check_finite(points)
    offset, scale = of
    with np.errstate(over="ignore"):  # numbers beyond float32 become infinite, which `prepare` refuses
        values = ((points - np.array(offset)) / scale).astype(np.float32)
    if colors is not None:
        values = np.concatenate([values, colors.astype(np.float32)], axis=1)
    return Example(values, item.label, item.name)
