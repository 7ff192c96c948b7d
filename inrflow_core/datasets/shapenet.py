"""ShapeNet as clouds of 15,000 points, in the layout of PointFlow (Yang et al. 2019) or as one HDF5 file.

PointFlow: `ShapeNetCore.v2.PC15k/<synset>/{train,val,test}/<id>.npy`, each (15000, 3) float32. One file, of
diffusion-point-cloud (Luo and Hu 2021): `[synset][split]`, clouds (n, points, 3). The papers evaluate generation
against the split `val`, and so does inrflow.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from inrflow_core.datasets import _cloud_frame, _point_clouds
from inrflow_core.datasets._contract import DatasetIndex, Example, Item, readers_hint
from inrflow_core.datasets._homes import home_hint
from inrflow_core.datasets._shapenet_synsets import is_synset, synset_of, title_of
from inrflow_core.errors import IntegrityError, MissingError, UnreadableItemError, UsageError
from inrflow_core.shards import hdf5
from inrflow_core.storage.array_file import array_names, read_array
from inrflow_core.storage.source_files import fingerprint, list_files

DOMAIN = "points"
NEEDS_SOURCE = True
IS_READ_BY_SCAN = False
DESCRIPTION = (
    "ShapeNetCore.v2.PC15k/<synset>/{train,val,test}/*.npy (PointFlow), or shapenet.hdf5 (diffusion-point-cloud) -> "
    "clouds of all their points, one class per category, train, val and test"
)
SPLITS = ("train", "val", "test")
HDF5 = (".hdf5", ".h5")
BLOCK = 64
"""Clouds of an HDF5 file read at once."""
MAX_BLOCK = 1 << 30
"""Bytes of the clouds that are read at once."""
MAX_CLOUDS = 1_000_000
"""Clouds of an array in an HDF5 file; ShapeNet has 51,000 in all."""


@dataclass(frozen=True)
class Config:
    """Categories and normalization."""

    categories: tuple[str, ...] = ()
    """English names or synset ids, as in ["chair", "02691156"]; empty takes all."""
    normalization: Literal["shape", "global"] = field(default="shape", metadata={"key": "normalisation"})
    """`shape`: each cloud's box to [-1, 1] (INRFlow). `global`: the mean and deviation of the train split (PointFlow,
    LION), for which every cloud of that split is read twice."""

    def __post_init__(self) -> None:
        for name in self.categories:
            synset_of(name)


class CloudLocation(NamedTuple):
    """The location of one cloud: a .npy file, or a row of an array inside an HDF5 file."""

    file: str
    array: str = ""
    row: int = 0
    frame: _cloud_frame.Frame | None = None


def scan(source: Path, config: Config) -> DatasetIndex:
    """Every cloud of the requested categories, sorted by synset and name.

    Raises:
        MissingError: the source has neither layout, or not these categories.
        UsageError: the source has two trees of PointFlow's layout.
    """
    files = list_files(source) if source.is_dir() else [(source.name, source.stat().st_size)]
    folder = source if source.is_dir() else source.parent
    clouds = list(_tree(folder, files)) or list(_single_file(folder, files))
    if not clouds:
        raise MissingError(
            f"looked below `{source}` for `ShapeNetCore.v2.PC15k/<synset>/train/*.npy` or a `shapenet.hdf5` and found "
            f"neither among {len(files):,} files",
            hint=f"unpack it, and name its folder with `--source`{home_hint('shapenet')}, section Dataset"
            + readers_hint("shapenet", files),
        )
    selected = _select_categories(source, config, sorted({synset for synset, _, _, _ in clouds}))
    labels = {synset: label for label, synset in enumerate(selected)}
    splits = {
        split: [
            Item(name, labels[synset], location)
            for synset, of, name, location in clouds
            if of == split and synset in labels
        ]
        for split in SPLITS
    }
    splits = {split: items for split, items in splits.items() if items}
    normalization: dict[str, Any] = _point_clouds.BOX
    if config.normalization == "global":
        frame = _cloud_frame.find(splits.get("train", []), lambda item: _points(item.location))
        splits = {
            s: [i._replace(location=i.location._replace(frame=frame)) for i in items] for s, items in splits.items()
        }
        normalization = _cloud_frame.normalization(frame)
    return DatasetIndex(
        splits,
        shape=_shape([item for items in splits.values() for item in items]),
        dtype="float32",
        fingerprint=fingerprint(file for file in files if file[0].lower().endswith((".npy", *HDF5))),
        classes=tuple(title_of(synset) for synset in selected),
        normalization=normalization,
    )


def read(item: Item, config: Config) -> Example:
    """One cloud with all its points, normalized.

    Raises:
        UnreadableItemError: no array of points, an array of objects, or numbers that are not finite.
    """
    points = _points(item.location)
    if item.location.frame is None:
        return _point_clouds.boxed(item, points)
    return _cloud_frame.example(item, points, item.location.frame)


def _tree(folder: Path, files: Sequence[tuple[str, int]]) -> Iterator[tuple[str, str, str, CloudLocation]]:
    """Synset, split, name and location of every .npy in PointFlow's layout; `folder` may be any part of the tree."""
    above = folder.resolve().parts[-2:]
    roots = set()
    for name, _ in files:
        parts = (*above, *name.split("/"))
        if parts[-1].endswith(".npy") and parts[-2] in SPLITS and is_synset(parts[-3]):
            synset, split, file = parts[-3:]
            roots.add(parts[:-3])
            if len(roots) > 1:
                folders = " and ".join(f"`{'/'.join(root[len(above) :]) or '.'}`" for root in sorted(roots))
                raise UsageError(
                    f"`{folder}` holds two trees of ShapeNet, in {folders}", hint="name one of them with `--source`"
                )
            yield synset, split, f"{synset}/{file.removesuffix('.npy')}", CloudLocation(str(folder / name))


def _single_file(folder: Path, files: Sequence[tuple[str, int]]) -> Iterator[tuple[str, str, str, CloudLocation]]:
    """Synset, split, name and location of every cloud in the first HDF5 file whose groups are synsets."""
    for name, _ in files:
        if not name.endswith(HDF5):
            continue
        with hdf5.open_hdf5_safely(folder / name, hint="download it again") as file:
            synsets = [synset for synset in sorted(file) if is_synset(synset)]
            for synset in synsets:
                for split in SPLITS:
                    array: Any = file.get(f"{synset}/{split}")
                    if getattr(array, "ndim", 0) == 3 and len(array) > MAX_CLOUDS:
                        raise IntegrityError(
                            f"`{folder / name}` states {len(array):,} clouds in `{synset}/{split}`, more than {MAX_CLOUDS:,}",
                            hint="download it again",
                        )
                    for row in range(len(array) if getattr(array, "ndim", 0) == 3 else 0):
                        location = CloudLocation(str(folder / name), f"{synset}/{split}", row)
                        yield synset, split, f"{synset}/{row:05d}", location
        if synsets:
            return


def _select_categories(source: Path, config: Config, available: list[str]) -> list[str]:
    """The requested synsets, sorted; all synsets of the source where none is requested."""
    selected = sorted({synset_of(name) for name in config.categories}) or available
    for synset in selected:
        if synset not in available:
            names = ", ".join(f"`{title_of(synset)}`" for synset in available)
            raise MissingError(
                f"`{source}` has no clouds of `{title_of(synset)}` ({synset}); it has {names}",
                hint="name another category, or leave `categories` out",
            )
    return selected


COMPARED = 7
"""Number of clouds whose sizes are compared: one of another size decides nothing."""


def _shape(items: Sequence[Item]) -> tuple[int, int]:
    """The most common shape of the first readable clouds; clouds of other sizes are skipped as items."""
    sizes: Counter[int] = Counter()
    for item in items:
        try:
            sizes[_points(item.location).shape[0]] += 1
        except UnreadableItemError:
            continue
        if sizes.total() == COMPARED:
            break
    return sizes.most_common(1)[0][0] if sizes else 15_000, 3


def _points(location: CloudLocation) -> np.ndarray:
    points = _row(location) if location.array else _file(Path(location.file))
    if points.ndim != 2 or points.shape[1] != 3 or points.dtype.kind != "f" or not len(points):
        raise UnreadableItemError(
            f"it is {points.dtype} of shape {points.shape}, not points (N, 3) of floating-point numbers"
        )
    with np.errstate(over="ignore"):  # numbers beyond float32 become infinite, which is checked
        return points.astype(np.float32)


def _file(path: Path) -> np.ndarray:
    try:
        if array_names(path) != ("",):
            raise UnreadableItemError("it is an archive of arrays, not one array")
        return np.array(read_array(path))
    except (MissingError, IntegrityError, ValueError, OSError) as error:
        raise UnreadableItemError(_reason(error)) from error


def _reason(error: Exception) -> str:
    if "Python objects" in str(error):
        return "it is an array of objects (a pickle could run code)"
    return "it is not a .npy file" if "is not an .npy" in str(error) else "it is not a complete .npy file"


def _row(location: CloudLocation) -> np.ndarray:
    block = _rows(location.file, location.array, location.row // BLOCK * BLOCK)
    return block[location.row % BLOCK]


@lru_cache(maxsize=2)
def _rows(file: str, array: str, first: int) -> np.ndarray:
    """Consecutive clouds of an array; a worker reads neighbors one after the other."""
    try:
        with hdf5.open_hdf5_safely(Path(file)) as hdf5_file:
            data = hdf5.array_at(hdf5_file, array)
            if BLOCK * math.prod(data.shape[1:]) * data.dtype.itemsize > MAX_BLOCK:
                raise UnreadableItemError(f"it states {data.shape[1]:,} points")
            return data[first : first + BLOCK]
    except IntegrityError as error:
        raise UnreadableItemError("its part of the HDF5 file is damaged") from error
