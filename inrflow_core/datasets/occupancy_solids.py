"""The solids of `solids` as occupancies, by exact formulas: round bodies are round, and nothing is downloaded.

An item is the body of the same name in `solids`, with the same proportions and the same turn about the up axis, which is y. With an
`embedder` it has captions by its proportions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from inrflow_core.datasets import _descriptions, _occupancies, _point_clouds, _solid_captions
from inrflow_core.datasets._contract import DatasetIndex, Example, Item
from inrflow_core.geometry.primitives import Box, Cone, Ellipsoid, Torus, Union
from inrflow_core.storage.source_files import fingerprint

DOMAIN = "shape"
IS_READ_BY_SCAN = False
DESCRIPTION = "nothing: solids of eight classes by formulas -> surface points and occupancies of queries, train and val"
NEEDS_SOURCE = False


@dataclass(frozen=True)
class Config:
    """Number of solids, and of points of each."""

    train: int = 4000
    """Solids of the split `train`; classes take turns."""
    val: int = 400
    """Solids of the split `val`."""
    points: int = 2048
    """Points on the surface of each, with normals."""
    queries: int = 4096
    """Queries of each; training takes a subset of them in each step."""
    near: float = 0.5
    """Share of the queries near the surface; the others are uniform in the padded cube and come first."""
    near_deviation: float = 0.02
    """Standard deviation of their distance from the surface along each axis; the longest side of a shape is 1."""
    embedder: str | None = None
    """Store captions as tokens of this network: `words`, which needs no weights, or `clip-text`. None stores no captions."""
    weights: str | None = field(default=None, metadata={"is_path": True})
    """Folder of the embedder's weights. Default: `weights/NAME`."""

    def __post_init__(self) -> None:
        if self.embedder is not None:
            _descriptions.check(self.embedder)
        elif self.weights is not None:
            raise ValueError("`weights` is set, and `embedder` is none: set both or neither")
        if self.train < 1:
            raise ValueError(f"`train` is {self.train}: at least 1")
        if self.val < 0:
            raise ValueError(f"`val` is {self.val}: at least 0")
        _occupancies.check_counts(self.points, self.queries)
        _occupancies.check_near(self.near, self.near_deviation)


def scan(source: Path, config: Config) -> DatasetIndex:
    """The names and classes of the solids; `source` is ignored. Raises MissingError without the weights of the embedder."""
    classes = tuple(BODIES)
    splits = _point_clouds.items_by_turns(classes, {"train": config.train, "val": config.val})
    index = _occupancies.index(splits, config.points, config.queries, fingerprint=fingerprint([]), classes=classes)
    if config.embedder is None:
        return index
    return replace(
        index,
        normalization={**index.normalization, **_descriptions.origin(config)},
        condition_bytes=index.condition_bytes + _descriptions.condition_bytes(config, _solid_captions.NUM),
    )


def read(item: Item, config: Config) -> Example:
    """One solid; its proportions, turn and points follow from its name.

    Raises:
        UnreadableItemError: all queries are on one side of the surface, as those of a few may be.
    """
    rng = np.random.default_rng(_point_clouds.seed(f"solid {item.name}"))
    body = list(BODIES.values())[item.label](rng)
    turn = _turn(rng.uniform(0, 2 * np.pi))
    axes = np.concatenate([np.eye(3), -np.eye(3)]) @ turn.T
    reach = body.support(axes)
    offset, scale = (reach[:3] - reach[3:]) / 2, float((reach[:3] + reach[3:]).max())
    points, normals = body.sample(rng, config.points)
    surface = (points @ turn - offset) / scale
    queries = _occupancies.sample_queries(rng, surface, config.queries, config.near, config.near_deviation)
    is_inside = body.is_inside((queries.astype(np.float64) * scale + offset) @ turn.T)
    example = _occupancies.example(item, _occupancies.Shape(surface, normals @ turn, queries, is_inside, offset, scale))
    if config.embedder is None:
        return example
    sides = body.support(np.concatenate([np.eye(3), -np.eye(3)])).reshape(2, 3).sum(0)
    texts = _solid_captions.captions(item.name.rpartition("-")[2], sides)
    return replace(example, variable_length=_descriptions.conditions(texts, config))


def _turn(angle: float) -> np.ndarray:
    """What multiplies rows of a body that is built along z: y becomes up, then it is turned about y."""
    sine, cosine = np.sin(angle), np.cos(angle)
    return np.eye(3)[:, [1, 2, 0]] @ np.array([[cosine, 0, -sine], [0, 1, 0], [sine, 0, cosine]])


def _arrow(rng: np.random.Generator) -> Union:
    shaft = rng.uniform(0.12, 0.22)
    head, length, tip = rng.uniform(2.2, 3.0) * shaft, rng.uniform(1.0, 1.4), rng.uniform(0.5, 0.8)
    return Union([Cone((shaft, shaft), 0.0, length), Cone((head, 0.0), length, length + tip)])


def _ball(rng: np.random.Generator) -> Union:
    x, y, z = rng.uniform(0.9, 1.0, 3)
    return Union([Ellipsoid((x, y, z))])


def _box(rng: np.random.Generator) -> Union:
    x, y, z = rng.uniform(0.4, 1.0, 3)
    return Union([Box((0.0, 0.0, 0.0), (x, y, z))])


def _cone(rng: np.random.Generator) -> Union:
    return Union([Cone((1.0, 0.0), 0.0, rng.uniform(1.4, 2.4))])


def _cylinder(rng: np.random.Generator) -> Union:
    half = rng.uniform(2.4, 4.5) / 2
    return Union([Cone((1.0, 1.0), -half, half)])


def _dumbbell(rng: np.random.Generator) -> Union:
    """Two balls on a horizontal bar."""
    size, reach = rng.uniform(0.35, 0.5), rng.uniform(0.9, 1.2)
    balls = [Ellipsoid((size, size, size), (0.0, end, 0.0)) for end in (-reach, reach)]
    return Union([Cone((0.35 * size, 0.35 * size), -reach, reach, axis=1), *balls])


def _table(rng: np.random.Generator) -> Union:
    """A plate on four legs."""
    long, wide, high = rng.uniform(1.2, 2.0), rng.uniform(0.9, 1.2), rng.uniform(0.8, 1.2)
    legs = [
        Box((x * long - 0.07, y * wide - 0.07, 0.0), (x * long + 0.07, y * wide + 0.07, high))
        for x in (-0.42, 0.42)
        for y in (-0.42, 0.42)
    ]
    return Union([Box((-long / 2, -wide / 2, high), (long / 2, wide / 2, high + 0.12)), *legs])


def _torus(rng: np.random.Generator) -> Union:
    return Union([Torus(1.0, rng.uniform(0.15, 0.3))])


BODIES: dict[str, Callable[[np.random.Generator], Union]] = {
    "arrow": _arrow,
    "ball": _ball,
    "box": _box,
    "cone": _cone,
    "cylinder": _cylinder,
    "dumbbell": _dumbbell,
    "table": _table,
    "torus": _torus,
}
"""The classes in the order of their numbers, as those of `solids`, and the function that makes a body of each along z."""
