"""Shared by the data sets of occupancies: the index, a shape as an example, and query points.

A shape is in the cube [-0.5, 0.5]^3, its longest side 1. Its values are points on its surface, float32 (P 3), with the
conditions `normals`, float32 (P 3), `queries`, float32 (Q 3) in the padded cube [-0.55, 0.55]^3, and `occupancies`, the bits of
these queries as `numpy.packbits` packs them, uint8 (Q / 8).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from inrflow_core.datasets import _point_clouds
from inrflow_core.datasets._contract import DatasetIndex, Example, Item
from inrflow_core.errors import UnreadableItemError
from inrflow_core.storage.source_files import Fingerprint

PADDING = 0.1
"""The cube of queries is larger than that of shapes by this share, half of it on each side, as in ConvONet."""
HALF = (1 + PADDING) / 2
"""Half the side of the cube of queries."""
CUBE = {"kind": "unit-cube", "padding": PADDING, "undo": "points * condition/scale + condition/offset"}
"""Normalization `unit-cube`: each shape's box is centered at the origin and its longest side is 1."""
MOST_POINTS = 10_000_000
"""Surface points and queries of a shape, each: a worker holds a shard of shapes in memory."""
ROUNDING = 1e-3
"""How far beyond the cube points may be: those of float16."""


@dataclass(frozen=True)
class Shape:
    """Surface points and queries of one shape, in the unit cube, and what undoes the normalization."""

    points: Float[np.ndarray, "P 3"]
    normals: Float[np.ndarray, "P 3"]
    queries: Float[np.ndarray, "Q 3"]
    is_inside: Bool[np.ndarray, " Q"]
    offset: np.ndarray
    scale: float


def check_counts(points: int | None, queries: int | None) -> None:
    """Check numbers of a data set's settings; raises ValueError below one and above `MOST_POINTS`."""
    for name, count in (("points", points), ("queries", queries)):
        if count is not None and not 1 <= count <= MOST_POINTS:
            raise ValueError(f"`{name}` is {count:,}: from 1 to {MOST_POINTS:,}")


def check_near(near: float, deviation: float) -> None:
    """Check the settings of queries near the surface; raises ValueError for impossible ones."""
    if not 0 <= near <= 1:
        raise ValueError(f"`near` is {near}: from 0 to 1")
    if not 0 < deviation <= 1:
        raise ValueError(f"`near_deviation` is {deviation}: above 0, at most 1")


def sample_queries(
    rng: np.random.Generator, surface: Float[np.ndarray, "P 3"], count: int, near: float, deviation: float
) -> Float[np.ndarray, "Q 3"]:
    """Queries uniform in the padded cube, then a share `near` of all at points of the surface with normal noise.

    Float32 already, so that occupancies are those of the stored positions.
    """
    num_near = round(near * count)
    uniform = rng.uniform(-HALF, HALF, (count - num_near, 3))
    sources = surface[rng.integers(0, len(surface), num_near)]
    close = np.clip(sources + deviation * rng.standard_normal((num_near, 3)), -HALF, HALF)
    return np.concatenate([uniform, close]).astype(np.float32)


def example(item: Item, shape: Shape) -> Example:
    """A shape as an example.

    Raises:
        UnreadableItemError: a number is not finite, a point is outside the padded cube, a normal has no length, or all
            queries are inside or all outside.
    """
    lengths = np.linalg.norm(shape.normals.astype(np.float64), axis=1, keepdims=True)
    for what, rows in (("surface points", shape.points), ("normals", shape.normals), ("query points", shape.queries)):
        broken = int((~np.isfinite(rows)).any(1).sum())
        if broken:
            raise UnreadableItemError(f"{broken:,} of its {len(rows):,} {what} are not finite numbers")
    for what, rows in (("surface points", shape.points), ("query points", shape.queries)):
        outside = int((np.abs(rows) > HALF + ROUNDING).any(1).sum())
        if outside:
            raise UnreadableItemError(
                f"{outside:,} of its {len(rows):,} {what} are outside the cube from -{HALF:g} to {HALF:g}"
            )
    if not lengths.all():
        raise UnreadableItemError(f"{int((lengths == 0).sum()):,} of its {len(lengths):,} normals have no length")
    if shape.is_inside.all() or not shape.is_inside.any():
        side = "inside" if shape.is_inside.all() else "outside"
        raise UnreadableItemError(f"all of its {len(shape.queries):,} query points are {side}")
    return Example(
        shape.points.astype(np.float32),
        item.label,
        item.name,
        {
            "normals": (shape.normals / lengths).astype(np.float32),
            "queries": shape.queries.astype(np.float32),
            "occupancies": np.packbits(shape.is_inside),
            **_point_clouds.undoing(shape.offset, shape.scale),
        },
    )


def index(
    splits: Mapping[str, Sequence[Item]],
    points: int,
    queries: int,
    *,
    fingerprint: Fingerprint,
    classes: Sequence[str] = (),
    notes: Sequence[str] = (),
) -> DatasetIndex:
    """The index of shapes of that many surface points and queries."""
    return DatasetIndex(
        {name: items for name, items in splits.items() if items},
        shape=(points, 3),
        dtype="float32",
        fingerprint=fingerprint,
        classes=tuple(classes),
        normalization=CUBE,
        condition_bytes=12 * (points + queries) + -(-queries // 8) + 16,
        notes=tuple(notes),
    )
