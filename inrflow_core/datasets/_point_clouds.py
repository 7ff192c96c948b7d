"""Shared by the point data sets: the normalization of a cloud to its box, checks, seeds, splits by name, and made items."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from jaxtyping import Float, Float32

from inrflow_core.datasets._contract import Example, Item
from inrflow_core.errors import MissingError, UnreadableItemError
from inrflow_core.mesh_files import pieces

BOX = {"kind": "shape", "undo": "points * condition/scale + condition/offset"}
"""Normalization `shape`: each cloud's bounding box is centered and its longest side spans [-1, 1] (INRFlow, appendix
F); offset and scale are stored with each cloud."""


Frame = tuple[tuple[float, float, float], float]
"""The offset and scale of all clouds."""


def boxed(item: Item, points: np.ndarray, colors: np.ndarray | None = None) -> Example:
    """A cloud in its box, float32, with the offset and scale that undo it; colors in [-1, 1] follow the positions.

    Raises:
        UnreadableItemError: a number that is not finite, or all points coincide.
    """
    pieces.check_finite(points)
    low, high = points.min(0).astype(np.float64), points.max(0).astype(np.float64)
    offset, scale = (low + high) / 2, float((high - low).max() / 2)
    if scale == 0:
        raise UnreadableItemError("all its points coincide")
    values = ((points - offset) / scale).astype(np.float32)
    if colors is not None:
        values = np.concatenate([values, colors.astype(np.float32)], axis=1)
    return Example(values, item.label, item.name, undoing(offset, scale))


def undoing(offset: Float[np.ndarray, " C"], scale: float) -> dict[str, Float32[np.ndarray, " _"]]:
    """The conditions that undo `BOX`.

    Raises:
        UnreadableItemError: the cloud is too large, too small or too far away for float32.
    """
    with np.errstate(over="ignore", under="ignore"):
        units = {"offset": offset.astype(np.float32), "scale": np.array([scale]).astype(np.float32)}
    if not all(np.isfinite(numbers).all() for numbers in units.values()) or not units["scale"].all():
        raise UnreadableItemError("its size or position is beyond single precision")
    return units


def frame(items: Sequence[Item], points_of: Callable[[Item], np.ndarray], *, is_by_axis: bool = False) -> Frame:
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


def global_normalization(of: Frame) -> dict[str, Any]:
    """Normalization `global`: one offset and scale for all clouds."""
    offset, scale = of
    return {"kind": "global", "offset": offset, "scale": scale, "undo": "points * scale + offset"}


def framed(item: Item, points: np.ndarray, of: Frame) -> Example:
    """A cloud with the offset and scale of all, float32.

    Raises:
        UnreadableItemError: a number that is not finite.
    """
    pieces.check_finite(points)
    offset, scale = of
    with np.errstate(over="ignore"):  # numbers beyond float32 become infinite, which `prepare` refuses
        return Example(((points - np.array(offset)) / scale).astype(np.float32), item.label, item.name)


def seed(name: str) -> int:
    """A seed below 2^63 for an item, from its name alone: the same in every worker."""
    return int.from_bytes(hashlib.sha256(name.encode(errors="surrogateescape")).digest()[:8], "little") >> 1


def is_held_out(name: str, fraction: float) -> bool:
    """Whether an item belongs to the split `val`, which gets about `fraction` of all names."""
    return seed(f"split {name}") < fraction * 2**63


def items_by_turns(classes: Sequence[str], counts: Mapping[str, int]) -> dict[str, list[Item]]:
    """Items that are made from their names alone, by split; classes take turns, and a split without items is left out."""
    return {
        split: [
            Item(f"{split}-{number:05d}-{classes[number % len(classes)]}", number % len(classes))
            for number in range(count)
        ]
        for split, count in counts.items()
        if count
    }
