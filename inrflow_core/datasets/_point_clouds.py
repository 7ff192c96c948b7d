"""Shared by the point data sets: the normalization of a cloud to its box, checks, seeds, splits by name, and made items."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float, Float32

from inrflow_core.datasets._contract import Example, Item
from inrflow_core.errors import UnreadableItemError
from inrflow_core.geometry import ply_reader
from inrflow_core.mesh_files import pieces

BOX = {"kind": "shape", "undo": "points * condition/scale + condition/offset"}
"""Normalization `shape`: each cloud's bounding box is centered and its longest side spans [-1, 1] (INRFlow, appendix
F); offset and scale are stored with each cloud."""


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
        raise UnreadableItemError(ply_reader.BEYOND)
    return units


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
