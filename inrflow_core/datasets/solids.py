"""Procedural solids: simple bodies of eight classes in random proportions, turned about the up axis.

They are built by Open3D from its primitives and need no source. y is up.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from inrflow_core.datasets import _point_clouds
from inrflow_core.datasets._contract import DatasetIndex, Example, Item
from inrflow_core.geometry import mesh
from inrflow_core.geometry.open3d_import import load_open3d
from inrflow_core.storage.source_files import fingerprint

DOMAIN = "points"
IS_READ_BY_SCAN = False
DESCRIPTION = "nothing: solids of eight classes, made by Open3D -> clouds of 2048 points, train and val"
NEEDS_SOURCE = False


@dataclass(frozen=True)
class Config:
    """Number of solids, and of points on each."""

    train: int = 4000
    """Solids of the split `train`; classes take turns."""
    val: int = 400
    """Solids of the split `val`."""
    points: int = 2048
    """Points on the surface of each."""

    def __post_init__(self) -> None:
        for name in ("train", "points"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` is {getattr(self, name)}: at least 1")
        if self.val < 0:
            raise ValueError(f"`val` is {self.val}: at least 0")


def scan(source: Path, config: Config) -> DatasetIndex:
    """The names and classes of the solids; `source` is ignored."""
    classes = tuple(BODIES)
    splits = _point_clouds.items_by_turns(classes, {"train": config.train, "val": config.val})
    return DatasetIndex(
        splits,
        shape=(config.points, 3),
        dtype="float32",
        fingerprint=fingerprint([]),
        classes=classes,
        normalization=_point_clouds.BOX,
    )


def read(item: Item, config: Config) -> Example:
    """One solid; its proportions, turn and points follow from its name."""
    seed = _point_clouds.seed(f"solid {item.name}")
    rng = np.random.default_rng(seed)
    body = list(BODIES.values())[item.label](rng)
    upright = np.asarray(body.vertices)[:, [1, 2, 0]]  # Open3D builds along z
    angle = rng.uniform(0, 2 * np.pi)
    sine, cosine = np.sin(angle), np.cos(angle)
    turned = upright @ np.array([[cosine, 0, -sine], [0, 1, 0], [sine, 0, cosine]])
    points = mesh.sample_surface(mesh.Mesh(turned, np.asarray(body.triangles)), config.points, seed=seed)
    return _point_clouds.boxed(item, points)


def _arrow(rng: np.random.Generator) -> Any:
    shaft = rng.uniform(0.12, 0.22)
    return _kind().create_arrow(shaft, rng.uniform(2.2, 3.0) * shaft, rng.uniform(1.0, 1.4), rng.uniform(0.5, 0.8), 40)


def _ball(rng: np.random.Generator) -> Any:
    return _stretched(_kind().create_sphere(1.0, 24), rng.uniform(0.9, 1.0, 3))


def _box(rng: np.random.Generator) -> Any:
    return _stretched(_kind().create_box(1.0, 1.0, 1.0), rng.uniform(0.4, 1.0, 3))


def _cone(rng: np.random.Generator) -> Any:
    return _kind().create_cone(1.0, rng.uniform(1.4, 2.4), 40)


def _cylinder(rng: np.random.Generator) -> Any:
    return _kind().create_cylinder(1.0, rng.uniform(2.4, 4.5), 40)


def _dumbbell(rng: np.random.Generator) -> Any:
    """Two balls on a horizontal bar."""
    size, reach = rng.uniform(0.35, 0.5), rng.uniform(0.9, 1.2)
    bar = _kind().create_cylinder(0.35 * size, 2 * reach, 30)
    for end in (-reach, reach):
        bar += _kind().create_sphere(size, 16).translate((0.0, 0.0, end))
    return bar.rotate(_kind().get_rotation_matrix_from_xyz((np.pi / 2, 0.0, 0.0)), (0.0, 0.0, 0.0))


def _table(rng: np.random.Generator) -> Any:
    """A plate on four legs."""
    long, wide, high = rng.uniform(1.2, 2.0), rng.uniform(0.9, 1.2), rng.uniform(0.8, 1.2)
    table = _kind().create_box(long, wide, 0.12).translate((-long / 2, -wide / 2, high))
    for x in (-0.42, 0.42):
        for y in (-0.42, 0.42):
            table += _kind().create_box(0.14, 0.14, high).translate((x * long - 0.07, y * wide - 0.07, 0.0))
    return table


def _torus(rng: np.random.Generator) -> Any:
    return _kind().create_torus(1.0, rng.uniform(0.15, 0.3), 48, 24)


BODIES: dict[str, Callable[[np.random.Generator], Any]] = {
    "arrow": _arrow,
    "ball": _ball,
    "box": _box,
    "cone": _cone,
    "cylinder": _cylinder,
    "dumbbell": _dumbbell,
    "table": _table,
    "torus": _torus,
}
"""The classes in the order of their numbers, and the function that builds a body of each along z."""


def _kind() -> Any:
    return load_open3d().geometry.TriangleMesh


def _stretched(body: Any, factors: np.ndarray) -> Any:
    body.vertices = load_open3d().utility.Vector3dVector(np.asarray(body.vertices) * factors)
    return body
