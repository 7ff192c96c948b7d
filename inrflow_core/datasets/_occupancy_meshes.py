"""Any folder of meshes as occupancies: surface points with normals, and queries that are inside or outside."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from inrflow_core.datasets import _mesh_identity, _mesh_reading, _occupancies, _point_clouds
from inrflow_core.datasets._contract import DatasetIndex, Example, Item
from inrflow_core.errors import MissingError, UnreadableItemError, did_you_mean
from inrflow_core.geometry import mesh_interior
from inrflow_core.geometry.mesh import sample_surface_with_normals
from inrflow_core.mesh_files import reading
from inrflow_core.storage.source_files import fingerprint


class Settings(NamedTuple):
    """How meshes become occupancies."""

    points: int
    queries: int
    near: float
    near_deviation: float
    uses_winding: bool


def scan(
    source: Path, settings: Settings, *, categories: Sequence[str], classes: bool, val: float, test: float
) -> DatasetIndex:
    """Every mesh file below the source, or in the selected folders, sorted by name.

    Raises:
        MissingError: there is none, or a selected folder does not exist.
    """
    folder, files = _mesh_reading.list_source(source)
    folders = sorted({name.partition("/")[0] for name, _ in files if "/" in name})
    for name in categories:
        if name not in folders:
            raise MissingError(f"`{source}` has no folder `{name}`", hint=did_you_mean(name, folders))
    in_classes = classes or bool(categories)
    names = _mesh_reading.files(
        source,
        [(name, size) for name, size in files if not in_classes or "/" in name],
        " in folders" if in_classes else "",
    )
    if categories:
        names = [name for name in names if name.partition("/")[0] in categories]
        if not names:
            raise MissingError(f"the folders {list(categories)} of `{source}` have no meshes", hint="name others")
    titles = sorted({name.partition("/")[0] for name in names}) if in_classes else []
    items = [
        Item(name, titles.index(name.partition("/")[0]) if in_classes else -1, (str(folder), settings))
        for name in names
    ]
    return _occupancies.index(
        _mesh_identity.split(folder, items, val, test),
        settings.points,
        settings.queries,
        fingerprint=fingerprint(_mesh_identity.files_read(files)),
        classes=titles,
    )


def read(item: Item) -> Example:
    """One mesh; the name of its file is the seed.

    Raises:
        UnreadableItemError: the file cannot be read, the mesh is not watertight (unless winding numbers decide), or all
            queries are on one side.
    """
    root, settings = item.location
    mesh, offset, scale = mesh_interior.in_unit_cube(reading.load(Path(root), item.name, with_colors=False).mesh)
    if not settings.uses_winding:
        num_open, num_edges = mesh_interior.count_open_edges(mesh)
        if num_open:
            raise UnreadableItemError(
                f"it is not watertight: {num_open:,} of its {num_edges:,} edges are open (`--set winding=true` takes it)"
            )
    seed = _point_clouds.seed(f"occupancy {_mesh_identity.own_name(item)}")
    points, normals = sample_surface_with_normals(mesh, settings.points, seed=seed)
    rng = np.random.default_rng(seed)
    queries = _occupancies.sample_queries(rng, points, settings.queries, settings.near, settings.near_deviation)
    if settings.uses_winding:
        is_inside = np.abs(mesh_interior.winding_numbers(mesh, queries)) > 0.5
    else:
        is_inside = mesh_interior.is_inside_by_parity(mesh, queries)
        normals = mesh_interior.outward(mesh, points, normals)
    return _occupancies.example(item, _occupancies.Shape(points, normals, queries, is_inside, offset, scale))
