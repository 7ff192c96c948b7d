"""Shapes as surface points and occupancies: the data of Occupancy Networks and ConvONet, or any folder of meshes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from inrflow_core.datasets import _mesh_reading, _occupancies, _occupancy_lists, _occupancy_meshes
from inrflow_core.datasets._contract import DatasetIndex, Example, Item, source_not_found
from inrflow_core.errors import UsageError
from inrflow_core.mesh_files import reading

DOMAIN = "shape"
NEEDS_SOURCE = True
IS_READ_BY_SCAN = False
DESCRIPTION = (
    "<category>/<model>/{points.npz,pointcloud.npz} with train.lst, val.lst and test.lst (Occupancy Networks), or any "
    "folder of watertight .off, .obj, .ply, .stl and .glb meshes -> surface points and occupancies of queries"
)
DEFAULT_COUNT = 100_000
"""Surface points and queries of a mesh, as in Occupancy Networks."""
OF_MESHES = ("classes", "val", "test", "near", "near_deviation", "winding")
"""Settings that apply to a folder of meshes alone."""


@dataclass(frozen=True)
class Config:
    """Categories and numbers of points; the other settings are those of meshes."""

    categories: tuple[str, ...] = ()
    """Names or folders of categories, as in ["chair", "02691156"]; of meshes, folders directly below the source, which
    are classes then. Empty takes all."""
    points: int | None = None
    """Surface points of each shape, with normals. Default: all in the files; of meshes 100,000."""
    queries: int | None = None
    """Query points of each shape. Default: all in the files; of meshes 100,000."""
    classes: bool = False
    """Label meshes by the folder directly below the source."""
    val: float = 0.1
    """Share of the meshes in `val`; the split of a mesh depends on its uid or content alone."""
    test: float = 0.0
    """Share of the meshes in `test`."""
    near: float = 0.5
    """Share of a mesh's queries near its surface; the others are uniform in the padded cube and come first."""
    near_deviation: float = 0.02
    """Standard deviation of their distance from the surface along each axis; the longest side of a shape is 1."""
    winding: bool = False
    """Decide by generalized winding numbers, which need no watertight mesh: slow for meshes of many faces."""

    def __post_init__(self) -> None:
        _occupancies.check_counts(self.points, self.queries)
        _occupancies.check_near(self.near, self.near_deviation)
        if not (self.val >= 0 and self.test >= 0 and self.val + self.test < 1):
            raise ValueError(f"`val` is {self.val} and `test` {self.test}: each at least 0, together below 1")


def scan(source: Path, config: Config) -> DatasetIndex:
    """The models that the lists name, or every mesh where there are no lists.

    Raises:
        MissingError: the source has neither, or not the selected categories.
        UsageError: a setting of meshes with lists of models, or lists in several folders.
        IntegrityError: a list or `metadata.yaml` is damaged.
    """
    folder, files = _mesh_reading.list_source(source)
    tree = _occupancy_lists.find_tree(folder, files) if source.is_dir() else None
    if tree is not None:
        usual = Config()
        for name in OF_MESHES:
            if getattr(config, name) != getattr(usual, name):
                raise UsageError(
                    f"`{name}` is a setting of meshes, and `{source}` has lists of models", hint=f"leave `{name}` out"
                )
        return _occupancy_lists.scan(folder, files, tree, config.categories, (config.points, config.queries))
    if not any(name.lower().endswith(reading.SUFFIXES) for name, _ in files):
        raise source_not_found(
            "occupancy",
            source,
            "`<category>/train.lst` beside `<category>/<model>/points.npz`, or meshes of OFF, OBJ, PLY, STL or GLB",
            files,
        )
    settings = _occupancy_meshes.Settings(
        config.points or DEFAULT_COUNT,
        config.queries or DEFAULT_COUNT,
        config.near,
        config.near_deviation,
        config.winding,
    )
    return _occupancy_meshes.scan(
        source, settings, categories=config.categories, classes=config.classes, val=config.val, test=config.test
    )


def read(item: Item, config: Config) -> Example:
    """One shape.

    Raises:
        UnreadableItemError: its files cannot be read or are not what they say (see `_occupancy_lists.read` and
            `_occupancy_meshes.read`).
    """
    if isinstance(item.location, _occupancy_lists.Location):
        return _occupancy_lists.read(item)
    return _occupancy_meshes.read(item)
