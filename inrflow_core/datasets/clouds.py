"""Any folder of point clouds: .ply, .npy, .npz, .xyz and .pcd, as sets of one number of points."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float

from inrflow_core.datasets import (
    _archives,
    _cloud_frame,
    _mesh_identity,
    _mesh_reading,
    _point_clouds,
    _splits,
)
from inrflow_core.datasets._contract import (
    DatasetIndex,
    Example,
    Item,
    LeftOutCounter,
    notes_on_others,
    notes_on_unread,
    source_not_found,
)
from inrflow_core.errors import UnreadableItemError
from inrflow_core.geometry import cloud_files
from inrflow_core.geometry.cloud_files import Location
from inrflow_core.storage.source_files import fingerprint

DOMAIN = "points"
NEEDS_SOURCE = True
IS_READ_BY_SCAN = False
DESCRIPTION = (
    "any folder of .ply, .npy, .npz, .xyz and .pcd point clouds, with or without `train` and `val` -> clouds of one number of "
    "points, each scaled to its box or all alike; optional classes (sub-folders)"
)
MOST_POINTS = 2048
"""Points of each set by default, where the files have as many."""
FEW = 32
"""Points below which no shape is seen: no setting to take such clouds is named."""
COMPARED = 16
"""Files, evenly spaced, of which the smallest decides the default number of points."""


@dataclass(frozen=True)
class Config:
    """Points, scale, colors and classes of the clouds, and the split."""

    points: int | None = None
    """Points of each set, drawn from the file without replacement; files with fewer are skipped. None takes as many as the
    smallest of 16 files has, at most 2,048; files with less than half of the median do not count there."""
    normalization: Literal["shape", "global"] = "shape"
    """`shape`: each cloud's box to [-1, 1], as in the paper. `global`: one offset and scale for all, the mean and deviation of
    the train split, so that sizes and positions stay comparable."""
    colors: bool | None = None
    """Store the colors of .ply and .pcd files, and of .npz files of inrflow, as three more numbers of each point; clouds without colors
    are skipped. None stores none, and writes no entry into the manifest, as before."""
    classes: bool = False
    """Label by sub-folder: directly below the source, or below `train`, `val` and `test`."""
    val: float = 0.1
    """Share of the clouds that is held out where the source has no folders `train` and `val`; by their content alone."""

    def __post_init__(self) -> None:
        if self.points is not None and self.points < 1:
            raise ValueError(f"`points` is {self.points}: at least 1")
        _splits.check_share(self.val)


def scan(source: Path, config: Config) -> DatasetIndex:
    """Every cloud below the source, sorted by name; of an array of several clouds each.

    Raises:
        MissingError: there is none.
    """
    folder, files = _mesh_reading.list_source(source)
    read = [(name, size) for name, size in files if name.lower().endswith(cloud_files.SUFFIXES)]
    if not read:
        raise source_not_found("clouds", source, ", ".join(cloud_files.SUFFIXES) + " files", files)
    items, left_out, classes = _items(folder, [name for name, _ in read], config)
    everything = [item for of in items.values() for item in of]
    points = config.points or _default_points(everything)
    splits = {
        split: [item._replace(location=(*item.location, points)) for item in of] for split, of in items.items() if of
    }
    normalization = _point_clouds.BOX
    if config.normalization == "global":
        frame = _cloud_frame.find(splits.get("train", []), _selected, is_by_axis=True)
        splits = {
            split: [item._replace(location=(*item.location, frame)) for item in of] for split, of in splits.items()
        }
        normalization = _cloud_frame.normalization(frame)
    unread = [name for name, _ in files if cloud_files.UNREAD.search(name)]
    notes = notes_on_unread(unread) + notes_on_others(sorted({name for name, _ in files} - {*unread, *dict(read)}))
    if config.points is None and points < MOST_POINTS:
        notes += (f"each set has {points:,} points, as the smallest file has; `--set points=N` takes another number",)
    return DatasetIndex(
        splits,
        shape=(points, 6 if config.colors else 3),
        dtype="float32",
        fingerprint=fingerprint(read),
        classes=tuple(classes),
        normalization=normalization,
        left_out=left_out.counts,
        notes=notes,
    )


def read(item: Item, config: Config) -> Example:
    """Points of one cloud in random order, normalized; the name of its file is their seed.

    Raises:
        UnreadableItemError: the file cannot be read, is not a cloud, has too few points, no colors although `colors` is set, or
            numbers that are not finite.
    """
    points = _selected(item, with_colors=bool(config.colors))
    if config.colors and points.shape[1] < 6:
        raise UnreadableItemError(
            "it has no colors (columns of .npy, .xyz and other programs' .npz files are not taken as such)"
        )
    positions, colors = points[:, :3], points[:, 3:] if config.colors else None
    if config.normalization == "shape":
        return _point_clouds.boxed(item, positions, colors)
    return _cloud_frame.example(item, positions, item.location[-1], colors)


def _items(
    folder: Path, names: Sequence[str], config: Config
) -> tuple[dict[str, list[Item]], LeftOutCounter, list[str]]:
    """The clouds by split, with what `classes` leaves out, and the classes."""
    common = _archives.common_folder(names)
    root = _splits.root_of(common)
    inside = _splits.in_folders([name.removeprefix(root) for name in names])
    if config.classes and inside is None and all("/" not in name.removeprefix(root) for name in names):
        root = "".join(f"{part}/" for part in root.split("/")[:-2])  # one folder is one class
    if inside is None:
        inside = {"": [name.removeprefix(root) for name in names]}
    left_out, labeled = LeftOutCounter(), list[tuple[str, str, str]]()
    for split, of in inside.items():
        for name in of:
            parts = name.split("/")[1 if split else 0 :]
            if config.classes and len(parts) < 2:
                left_out.add("classes", name)
            else:
                labeled.append((split, parts[0], name))
    classes = sorted({label for _, label, _ in labeled}) if config.classes else []
    rank = {label: number for number, label in enumerate(classes)}
    items: dict[str, list[Item]] = {split: [] for split in inside}
    for split, label, name in labeled:
        for place in cloud_files.rows(folder, root + name):
            own = name if place.row is None else f"{name}/{place.row:06d}"
            items[split].append(Item(own, rank.get(label, -1), (place,)))
    if "" in items:
        items = _splits.by_share(items[""], _identity, config.val)
    return items, left_out, classes


def _identity(item: Item) -> str:
    """What makes a cloud the same one under any path: an identifier of Objaverse, else its content."""
    place: Location = item.location[0]
    if place.row is None:
        return _mesh_identity.identity(Path(place.folder, place.name))
    try:
        return hashlib.sha256(cloud_files.read(place).tobytes()).hexdigest()
    except UnreadableItemError:
        return item.name


def _default_points(items: Sequence[Item]) -> int:
    """As many points as the smallest of some readable clouds has, without those of less than half the median; at most MOST_POINTS."""
    sizes = list[int]()
    for number in range(min(COMPARED, len(items))):
        try:
            sizes.append(len(cloud_files.read(items[number * len(items) // min(COMPARED, len(items))].location[0])))
        except UnreadableItemError:
            continue
    middle = sorted(sizes)[len(sizes) // 2] if sizes else MOST_POINTS
    return min(MOST_POINTS, *(size for size in [middle, *sizes] if 2 * size >= middle))


def _selected(item: Item, *, with_colors: bool = False) -> Float[np.ndarray, "N C"]:
    """The points of a set: a permutation of the file's points, cut off, so that a larger number only adds points."""
    place, count = item.location[:2]
    points = cloud_files.read(place, with_colors=with_colors)
    if len(points) < count:
        raise UnreadableItemError(
            f"it has {len(points):,} points, and each set {count:,}: files need at least that many"
            + (f" (`--set points={len(points)}` takes it)" if len(points) >= FEW else "")
        )
    name = place.name.rpartition("/")[2] + ("" if place.row is None else f" {place.row}")
    return points[np.random.default_rng(_point_clouds.seed(f"cloud {name}")).permutation(len(points))[:count]]
