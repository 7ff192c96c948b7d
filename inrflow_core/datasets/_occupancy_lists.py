"""The layout of Occupancy Networks and ConvONet: `<category>/<model>/{points.npz,pointcloud.npz}` beside lists of models.

`points.npz` has `points` (Q 3) in the padded unit cube and `occupancies`, one bit each as `numpy.packbits` packs them (or
booleans); `pointcloud.npz` has `points` and `normals` (P 3). Both may have `loc` and `scale`, which undo the normalization.
`train.lst`, `val.lst` and `test.lst` of a category name its models, one a line; `metadata.yaml` names the categories.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool

from inrflow_core.datasets import _occupancies, _point_clouds
from inrflow_core.datasets._contract import DatasetIndex, Example, Item
from inrflow_core.datasets._shapenet_synsets import title_of
from inrflow_core.errors import IntegrityError, MissingError, UnreadableItemError, UsageError, did_you_mean
from inrflow_core.numerics import keyed_random
from inrflow_core.storage.array_file import array_names, read_array
from inrflow_core.storage.plain_file import read_plain_file
from inrflow_core.storage.source_files import fingerprint

SPLITS = ("train", "val", "test")
LIST = re.compile(r"(?:(.*)/)?([^/]+)/([^/]+)\.lst")
METADATA = "metadata.yaml"
MAX_TEXT = 64 << 20
"""Bytes of a list or of the metadata; ShapeNet's longest list has 200 kB."""
NUM_SAMPLED = 7
"""Models whose numbers of points are compared: one of another size decides nothing."""
MAX_NAME = 200
"""Characters of the name of a model."""
SHOWN = 5
"""Names in a note."""
ENTRY = re.compile(r"""(?P<indent>[ ]*)(?P<quote>['"]?)(?P<key>[^'":]+)(?P=quote)[ ]*:[ ]*(?P<value>.*)""")


class Location(NamedTuple):
    """The folder of a model, the list that names it, and how many points and queries are stored."""

    folder: str
    list_name: str
    points: int
    queries: int


class Tree(NamedTuple):
    """The categories below a source."""

    root: Path
    """The folder of the categories, with the metadata."""
    categories: dict[str, list[str]]
    """Names of the lists of each category, without `.lst`."""


def find_tree(source: Path, files: Sequence[tuple[str, int]]) -> Tree | None:
    """The categories that have lists; None where the source has no lists. The source may be a category itself.

    Raises:
        UsageError: the lists are in several trees.
    """
    folder = source.resolve()
    lists: dict[Path, dict[str, list[str]]] = {}
    for name, _ in files:
        match = LIST.fullmatch(f"{folder.name}/{name}")
        if match and match[3] in SPLITS:
            root = folder.parent / match[1] if match[1] else folder.parent
            lists.setdefault(root, {}).setdefault(match[2], []).append(match[3])
    if len(lists) > 1:
        first, second = sorted(lists)[:2]
        raise UsageError(
            f"`{source}` has categories in two folders, `{first.name}` and `{second.name}`",
            hint="name one of them with `--source`",
        )
    return next((Tree(root, categories) for root, categories in lists.items()), None)


def scan(
    source: Path,
    files: Sequence[tuple[str, int]],
    tree: Tree,
    selected: Sequence[str],
    counts: tuple[int | None, int | None],
) -> DatasetIndex:
    """The models that the lists of the selected categories name, in the order of categories and lists.

    `counts` are the points and queries to store; None is the number of the first models.

    Raises:
        MissingError: a selected category does not exist.
        IntegrityError: a list or the metadata is damaged, or a model is in two splits.
    """
    titles = titles_of(tree)
    categories = _select(source, tree, titles, selected)
    splits: dict[str, list[tuple[str, str, int]]] = {split: [] for split in SPLITS}
    owners: dict[str, str] = {}
    for label, category in enumerate(categories):
        for split in SPLITS:
            if split in tree.categories[category]:
                for name in _read_list(tree.root / category / f"{split}.lst"):
                    own = f"{category}/{name}"
                    if owners.setdefault(own, split) != split:
                        raise IntegrityError(
                            f"`{own}` is in `{owners[own]}.lst` and in `{split}.lst`", hint="remove it from one of them"
                        )
                    splits[split].append((category, name, label))
    first = [tree.root / category / name for rows in splits.values() for category, name, _ in rows]
    points, queries = _counts(first, counts)
    items = {
        split: [
            Item(f"{category}/{name}", label, Location(str(tree.root / category / name), split, points, queries))
            for category, name, label in dict.fromkeys(rows)
        ]
        for split, rows in splits.items()
    }
    return _occupancies.index(
        items,
        points,
        queries,
        fingerprint=fingerprint(_files_read(tree, source, files, categories)),
        classes=[titles[category][0] for category in categories],
        notes=_notes(tree, source, files, categories, owners),
    )


def read(item: Item) -> Example:
    """One model, subsampled by its own name where it has more points than are stored.

    Raises:
        UnreadableItemError: it has no folder, no `points.npz` or `pointcloud.npz`, arrays of another type or shape, another
            number of bits than points, fewer points than are stored, numbers that are not finite, points outside the
            cube, or queries that are all inside or all outside.
    """
    location: Location = item.location
    folder, own = Path(location.folder), item.name.partition("/")[2]
    if own in (".", "..") or "/" in own or len(own) > MAX_NAME:
        raise UnreadableItemError(f"`{location.list_name}.lst` has a line that is not the name of a folder")
    if not folder.is_dir():
        raise UnreadableItemError(f"`{location.list_name}.lst` names it, and it has no folder")
    queries = _rows(folder / "points.npz", "points")
    is_inside = unpack(_array(folder / "points.npz", "occupancies"), len(queries))
    points, normals = (_rows(folder / "pointcloud.npz", name) for name in ("points", "normals"))
    if points.shape != normals.shape:
        raise UnreadableItemError(f"its `pointcloud.npz` has {len(points):,} points and {len(normals):,} normals")
    for what, rows, count in (("surface", points, location.points), ("query", queries, location.queries)):
        if len(rows) < count:
            raise UnreadableItemError(f"it has {len(rows):,} {what} points, fewer than the {count:,} that are stored")
    near, far = (_subset(item.name, rows, count, what) for rows, count, what in (
        (points, location.points, "surface"), (queries, location.queries, "queries")
    ))  # fmt: skip
    offset, scale = _placement(folder / "points.npz")
    shape = _occupancies.Shape(points[near], normals[near], queries[far], is_inside[far], offset, scale)
    return _occupancies.example(item, shape)


def unpack(bits: np.ndarray, count: int) -> Bool[np.ndarray, " Q"]:
    """The occupancies of `count` points, from packed bits or booleans.

    Raises:
        UnreadableItemError: another type or shape, or bits for another number of points.
    """
    if bits.dtype == np.bool_ and bits.shape == (count,):
        return bits
    expected = -(-count // 8)
    if bits.dtype != np.uint8 or bits.ndim != 1:
        raise UnreadableItemError(
            f"its `occupancies` are {bits.dtype} of shape {bits.shape}, not the packed bits of its points (uint8)"
        )
    if len(bits) != expected:
        raise UnreadableItemError(
            f"its `occupancies` are {len(bits):,} bytes of packed bits; {count:,} points have {expected:,}"
        )
    flags = np.unpackbits(bits).astype(bool)
    if flags[count:].any():
        raise UnreadableItemError(f"its `occupancies` have bits behind those of its {count:,} points")
    return flags[:count]


def _read_list(path: Path) -> list[str]:
    """The names in a list; names of no folder are checked when they are read."""
    content = read_plain_file(path, MAX_TEXT, hint="copy it again")
    try:
        lines = content.decode().split("\n")
    except UnicodeDecodeError as error:
        raise IntegrityError(f"`{path}` is not a list of names", hint="copy it again") from error
    names = [line.strip() for line in lines if line.strip()]
    if any("\0" in name for name in names):
        raise IntegrityError(f"`{path}` is not a list of names", hint="copy it again")
    return names


def titles_of(tree: Tree) -> dict[str, tuple[str, ...]]:
    """The names of each category: of the metadata, PointFlow's for a synset, or that of the folder; the first is its class."""
    path = tree.root / METADATA
    named = _metadata(path) if path.is_file() else {}
    return {
        category: tuple(dict.fromkeys([*named.get(category, ()), title_of(category), category]))
        for category in sorted(tree.categories)
    }


def _metadata(path: Path) -> dict[str, list[str]]:
    """The names of categories: entries by folder, each with lines of a key and a value, of which `name` is read.

    Raises:
        IntegrityError: it has another form; the hint says which is read.
    """
    names: dict[str, list[str]] = {}
    try:
        lines = read_plain_file(path, MAX_TEXT, hint="copy it again").decode().splitlines()
    except UnicodeDecodeError as error:
        raise IntegrityError(f"`{path}` is not a text", hint="copy it again, or delete it") from error
    category = None
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.strip() == "---" or line.lstrip().startswith("#"):
            continue
        match = ENTRY.fullmatch(line.rstrip())
        is_category = match is not None and not match["indent"]
        if match is None or (is_category and match["value"]) or (not is_category and category is None):
            raise IntegrityError(
                f"`{path}`, line {number}, does not name a category",
                hint="it has lines such as `03001627:`, with `  name: chair` below; without the file folders name them",
            )
        if is_category:
            category = match["key"].strip()
        elif match["key"].strip() == "name" and category is not None:
            words = match["value"].strip().strip("'\"")
            names[category] = [word.strip() for word in words.split(",") if word.strip()]
    return names


def _select(source: Path, tree: Tree, titles: Mapping[str, Sequence[str]], selected: Sequence[str]) -> list[str]:
    """The folders of the selected categories, sorted; all where none is selected."""
    by_name = {title.lower(): category for category, names in titles.items() for title in names}
    for name in selected:
        if name.lower() not in by_name:
            available = ", ".join(f"`{names[0]}`" for names in titles.values())
            raise MissingError(
                f"`{source}` has no category `{name}`; it has {available}", hint=did_you_mean(name, by_name)
            )
    return sorted({by_name[name.lower()] for name in selected} or tree.categories)


def _counts(folders: Sequence[Path], counts: tuple[int | None, int | None]) -> tuple[int, int]:
    """The points and queries to store: those of the settings, else the most common of the first readable models."""
    points, queries = counts
    seen: list[Counter[int]] = [Counter(), Counter()]
    for folder in folders if None in counts else ():
        try:
            sizes = [len(_rows(folder / name, "points")) for name in ("pointcloud.npz", "points.npz")]
        except UnreadableItemError:
            continue
        for counter, size in zip(seen, sizes, strict=True):
            counter[size] += 1
        if seen[0].total() == NUM_SAMPLED:
            break
    usual = [counter.most_common(1)[0][0] if counter else 100_000 for counter in seen]
    return points or usual[0], queries or usual[1]


def _array(path: Path, name: str) -> np.ndarray:
    try:
        return read_array(path, name)
    except MissingError as error:
        raise UnreadableItemError(f"it has no `{path.name}`") from error
    except (IntegrityError, ValueError, OSError) as error:
        problem = f"has no array `{name}`" if "does not hold" in str(error) else "cannot be read"
        raise UnreadableItemError(f"its `{path.name}` {problem}") from error


def _rows(path: Path, name: str) -> np.ndarray:
    """An array of points or normals, (N 3), as float32."""
    rows = _array(path, name)
    if rows.ndim != 2 or rows.shape[1] != 3 or rows.dtype.kind != "f" or not 0 < len(rows) <= _occupancies.MOST_POINTS:
        raise UnreadableItemError(
            f"the `{name}` of its `{path.name}` are {rows.dtype} of shape {rows.shape}, not (N, 3) of "
            "floating-point numbers"
        )
    with np.errstate(over="ignore"):  # what is beyond float32 becomes infinite, which is checked
        return rows.astype(np.float32)


def _subset(name: str, rows: np.ndarray, count: int, purpose: str) -> np.ndarray:
    """The indices of `count` rows, in their order, by the name of the item."""
    if len(rows) == count:
        return np.arange(count)
    key = torch.tensor([_point_clouds.seed(f"occupancy {name.rpartition('/')[2]}")])
    return np.sort(keyed_random.subset(key, len(rows), count, purpose=purpose)[0].numpy())


def _placement(path: Path) -> tuple[np.ndarray, float]:
    """Offset and scale of a model; 0 and 1 where the file has none."""
    found = {}
    names = array_names(path)
    for name, shape in (("loc", (3,)), ("scale", ())):
        array = _array(path, name) if name in names else np.zeros(3) if name == "loc" else np.ones(())
        if (
            array.dtype.kind not in "fiu"
            or array.reshape(-1).shape != (3 if shape else 1,)
            or not np.isfinite(array).all()
        ):
            raise UnreadableItemError(f"the `{name}` of its `{path.name}` is {array.dtype} of shape {array.shape}")
        found[name] = array.astype(np.float64).reshape(shape)
    if found["scale"] <= 0:
        raise UnreadableItemError(f"the `scale` of its `{path.name}` is {float(found['scale']):g}")
    return found["loc"], float(found["scale"])


def _files_read(
    tree: Tree, source: Path, files: Sequence[tuple[str, int]], categories: Sequence[str]
) -> Iterator[tuple[str, int]]:
    """Files of the selected categories and the metadata, by their names below the root."""
    for name, size in files:
        relative = (source.resolve() / name).relative_to(tree.root).as_posix()
        own = relative.rpartition("/")[2]
        if relative == METADATA or (
            relative.partition("/")[0] in categories
            and (own in ("points.npz", "pointcloud.npz") or own in {f"{split}.lst" for split in SPLITS})
        ):
            yield relative, size


def _notes(
    tree: Tree, source: Path, files: Sequence[tuple[str, int]], categories: Sequence[str], listed: Mapping[str, str]
) -> list[str]:
    """Models that no list names, and lists of other names."""
    alone, others = set(), set()
    for name, _ in files:
        parts = (source.resolve() / name).relative_to(tree.root).parts
        if (
            len(parts) == 3
            and parts[0] in categories
            and parts[2] == "points.npz"
            and f"{parts[0]}/{parts[1]}" not in listed
        ):
            alone.add(f"{parts[0]}/{parts[1]}")
        if len(parts) == 2 and parts[0] in categories and parts[1].endswith(".lst") and parts[1][:-4] not in SPLITS:
            others.add(parts[1])
    notes = []
    if alone:
        notes.append(f"{len(alone):,} models are in no list and are not read: {_shown(alone)}")
    if others:
        notes.append(f"lists of other names are not read: {_shown(others)}")
    return notes


def _shown(names: set[str]) -> str:
    return ", ".join(f"`{name}`" for name in sorted(names)[:SHOWN]) + (", ..." if len(names) > SHOWN else "")
