"""The contract of data sets: an index of the items, and each item as an example.

A data set is a file in `datasets/` with a frozen dataclass `Config` of settings and the members of `Dataset`.

`scan` runs once, `read` in many processes: an item must be small and picklable, and `read` must depend only on it and
the settings. The order of the items is the order in the shards, so it must not depend on how a file system lists them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from inrflow_core.datasets._homes import home_hint
from inrflow_core.errors import MissingError
from inrflow_core.shards.manifest import LeftOut
from inrflow_core.storage.source_files import Fingerprint, list_files
from inrflow_core.visualization.image_io import SUFFIXES as IMAGE_SUFFIXES

FOLDER_READERS = {
    "image-folder": IMAGE_SUFFIXES,
    "clouds": (".npy", ".npz", ".xyz", ".pcd", ".ply"),
    "mesh-folder": (".obj", ".glb", ".off", ".stl", ".ply"),
    "video": (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg"),
    "swissprot": (".pdb", ".ent", ".cif", ".bcif", ".pdb.gz", ".cif.gz"),
}
"""The data sets that read any folder, and the endings of the files that each reads."""
LEFT_OUT_NAMES = 20
"""Names that are listed of the items that one setting leaves out."""


class Dataset(Protocol):
    """The module of a data set."""

    DOMAIN: str
    """Name of the domain of its examples."""
    DESCRIPTION: str
    """Input and output, for `inrflow prepare --list`."""
    NEEDS_SOURCE: bool
    """Whether it reads files; False where it computes its examples."""
    IS_READ_BY_SCAN: bool
    """Whether `scan` reads everything, so that `read` takes no time."""
    Config: type[Any]

    @staticmethod
    def scan(source: Path, config: Any) -> DatasetIndex:
        """The items in a fixed order; raises MissingError where the source has another layout."""
        ...

    @staticmethod
    def read(item: Item, config: Any) -> Example:
        """Read one item; raises UnreadableItemError where it is damaged."""
        ...


class Item(NamedTuple):
    """One item of a data set, before it is read."""

    name: str
    """Name relative to the root of the data set, with forward slashes; unique within a split."""
    label: int = -1
    """Number of the class, -1 for none."""
    location: Any = None
    """Whatever `read` needs to find the item: a path, a part of an archive, or the values themselves."""


@dataclass(frozen=True)
class Example:
    """One item as arrays, in the normalization of the data set."""

    values: np.ndarray
    """Values of the index's `shape` and `dtype`; the first axis is free if `is_ragged`."""
    label: int = -1
    name: str = ""
    condition: Mapping[str, np.ndarray] = field(default_factory=dict)
    """Further arrays by name, of the same shape and type in every example."""
    variable_length: Mapping[str, np.ndarray] = field(default_factory=dict)
    """Further arrays by name whose first axis is free."""
    remarks: tuple[str, ...] = ()
    """What a user should know of how it was made, worded to follow "12 items are"; `prepare` counts the items of each remark."""


class LeftOutCounter:
    """Counts what settings leave out, by the setting."""

    def __init__(self) -> None:
        self.counts: dict[str, LeftOut] = {}

    def add(self, setting: str, name: str) -> None:
        """Count an item."""
        before = self.counts.get(setting, LeftOut(0, ()))
        names = (*before.names, name) if before.count < LEFT_OUT_NAMES else before.names
        self.counts[setting] = LeftOut(before.count + 1, names)


@dataclass(frozen=True)
class DatasetIndex:
    """The items of a data set, and the shape, type and meaning of their values."""

    splits: Mapping[str, Sequence[Item]]
    """The items of each split, in their final order."""
    shape: tuple[int, ...]
    """Shape of an example's values; where `is_ragged`, the first number is an estimate that sizes the shards."""
    dtype: str
    """`uint8`, `float16` or `float32`."""
    fingerprint: Fingerprint
    classes: tuple[str, ...] = ()
    """Names of the classes by number; empty where there are none."""
    normalization: Mapping[str, Any] = field(default_factory=dict)
    """The normalization from raw to stored values: plain JSON with a `kind`."""
    coordinates: np.ndarray | None = None
    """Coordinates that all examples share, float32; None where the value is its own coordinate."""
    is_ragged: bool = False
    """Whether examples differ in their number of pairs."""
    condition_bytes: int = 0
    """Bytes of an example's conditions, to size the shards; an estimate where examples differ."""
    left_out: Mapping[str, LeftOut] = field(default_factory=dict)
    """What filters leave out, by the setting."""
    notes: tuple[str, ...] = ()
    """What a user should know, as a setting without effect."""


def notes_on_unread(names: Sequence[str]) -> tuple[str, ...]:
    """One note on files of formats that are not read, or none where there are none."""
    if not names:
        return ()
    shown = ", ".join(f"`{name}`" for name in names[:3])
    files = "1 file is of a format that is" if len(names) == 1 else f"{len(names):,} files are of formats that are"
    return (f"{files} not read: {shown}{', ...' if names[3:] else ''}",)


def notes_on_others(names: Sequence[str]) -> tuple[str, ...]:
    """One note on files beside the items that are of other kinds, or none where there are none."""
    if not names:
        return ()
    shown = ", ".join(f"`{name}`" for name in names[:3])
    files = "1 file of another kind is" if len(names) == 1 else f"{len(names):,} files of other kinds are"
    return (f"{files} passed over: {shown}{', ...' if names[3:] else ''}",)


def source_not_found(
    name: str, source: Path, looked_for: str, files: Sequence[tuple[str, int]] | None = None
) -> MissingError:
    """The error for a source that is empty or has another layout: the expected files and the files that exist."""
    files = list_files(source) if files is None and source.is_dir() else list(files or [])
    return MissingError(
        f"`{source}` holds no `{name}` data: looked for {looked_for}; found {_summary(files)}",
        hint=f"name another path with `--source DIR`; docs/data-sets.md shows what `inrflow prepare {name}` reads"
        + home_hint(name)
        + readers_hint(name, files),
    )


def readers_hint(name: str, files: Sequence[tuple[str, int]]) -> str:
    """The end of a hint: other data sets that read the files of a folder, or nothing where there are none."""
    readers = [reader for reader in folder_readers(files) if reader != name]
    if not readers:
        return ""
    commands = " and ".join(f"`inrflow prepare {reader}`" for reader in readers)
    return f"; {commands} read{'s' if len(readers) == 1 else ''} any folder of such files as these"


def folder_readers(files: Sequence[tuple[str, int]]) -> list[str]:
    """The data sets that read any folder of files with the most common ending among `files` that one of them reads."""
    endings = Counter(
        ending
        for name, _ in files
        if (ending := next((ending for ending in _ENDINGS if name.lower().endswith(ending)), None))
    )
    if not endings:
        return []
    [(most, _)] = endings.most_common(1)
    return [reader for reader, read in FOLDER_READERS.items() if most in read]


_ENDINGS = sorted(
    {ending for read in FOLDER_READERS.values() for ending in read}, key=lambda ending: (-len(ending), ending)
)


def _summary(files: Sequence[tuple[str, int]]) -> str:
    """Summarize files: the number, the suffixes and the names at the top."""
    if not files:
        return "no files"
    kinds = Counter(Path(name).suffix.lower() or "no suffix" for name, _ in files)
    top = sorted({name.partition("/")[0] + ("/" if "/" in name else "") for name, _ in files})
    by_kind = ", ".join(f"{count:,} {kind}" for kind, count in kinds.most_common(3))
    rest = f" and {len(top) - 4} more" if len(top) > 4 else ""
    return f"{len(files):,} file{'s' if len(files) > 1 else ''} ({by_kind}) in " + ", ".join(top[:4]) + rest
