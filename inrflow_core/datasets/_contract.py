"""What a data set's file gives to `prepare`: the plan of its items, and each item as an example.

A data set is a file in `datasets/` with a frozen dataclass `Config` of settings and the members of `Dataset`.

`scan` runs once, `read` in many processes: an item must be small and picklable, and `read` must depend on nothing
else. The order of a plan's items is the order in the shards, so it must not depend on how a file system lists them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from inrflow_core.errors import MissingError
from inrflow_core.storage.source_files import Fingerprint, list_files


class Dataset(Protocol):
    """The module of a data set."""

    DOMAIN: str
    """Name of the domain of its examples."""
    DESCRIPTION: str
    """What it reads and what it makes, for `inrflow prepare --list`."""
    NEEDS_SOURCE: bool
    """Whether it reads from the disk; False where it computes its examples."""
    IS_READ_BY_SCAN: bool
    """Whether `scan` has read everything already, so that `read` takes no time."""
    Config: type[Any]

    @staticmethod
    def scan(source: Path, config: Any) -> DatasetIndex:
        """What there is, in a fixed order; raises MissingError where the source is of another layout."""
        ...

    @staticmethod
    def read(item: Item, config: Any) -> Example:
        """One item; raises UnreadableItemError where it cannot be read."""
        ...


class Item(NamedTuple):
    """One item of a data set, before it is read."""

    name: str
    """Its name relative to the root of the data set, with forward slashes; unique within a split."""
    label: int = -1
    """The number of its class, -1 for none."""
    location: Any = None
    """Whatever the data set's `read` needs to find it."""


@dataclass(frozen=True)
class Example:
    """One item as arrays, in the data set's normalisation."""

    values: np.ndarray
    """As the plan's `shape` and `dtype` say; the first axis is free where the plan is ragged."""
    label: int = -1
    name: str = ""
    condition: Mapping[str, np.ndarray] = field(default_factory=dict)
    """Further arrays by name, of the same shape and type in every example."""
    variable_length: Mapping[str, np.ndarray] = field(default_factory=dict)
    """Further arrays by name whose first axis is free."""


@dataclass(frozen=True)
class DatasetIndex:
    """Everything that `prepare` must know before it reads the first item."""

    splits: Mapping[str, Sequence[Item]]
    """The items of each split, in their final order."""
    shape: tuple[int, ...]
    """Shape of an example's values; where ragged, the first number is a guess that sizes the shards."""
    dtype: str
    """`uint8`, `float16` or `float32`."""
    fingerprint: Fingerprint
    classes: tuple[str, ...] = ()
    """Names of the classes by number; empty where there are none."""
    normalization: Mapping[str, Any] = field(default_factory=dict)
    """How stored values relate to the raw ones: plain JSON, with its `kind`."""
    coordinates: np.ndarray | None = None
    """Coordinates that all examples share, float32; None where the value is its own coordinate."""
    is_ragged: bool = False
    """Whether examples differ in their number of pairs."""
    condition_bytes: int = 0
    """Bytes of an example's conditions, which size the shards with its values; a guess where they differ."""


def source_not_found(
    name: str, source: Path, looked_for: str, found: Sequence[tuple[str, int]] | None = None
) -> MissingError:
    """The error for a source that is empty or of another layout: what was looked for, and what is there instead."""
    files = list_files(source) if found is None and source.is_dir() else list(found or [])
    return MissingError(
        f"`{source}` holds no `{name}` data: looked for {looked_for}; found {_summary(files)}",
        hint=f"`--source DIR` names another place; docs/data-sets.md shows every layout that `inrflow prepare {name}` reads",
    )


def _summary(files: Sequence[tuple[str, int]]) -> str:
    """A few words on some files: their kinds, and what stands at the top."""
    if not files:
        return "no files"
    kinds = Counter(Path(name).suffix.lower() or "no suffix" for name, _ in files)
    top = sorted({name.partition("/")[0] + ("/" if "/" in name else "") for name, _ in files})
    listed = ", ".join(f"{count:,} {kind}" for kind, count in kinds.most_common(3))
    rest = f" and {len(top) - 4} more" if len(top) > 4 else ""
    return f"{len(files):,} file{'s' if len(files) > 1 else ''} ({listed}) in " + ", ".join(top[:4]) + rest
