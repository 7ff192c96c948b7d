"""What a shard holds beside its values: the header in its attributes, a row for each set, and how it gets there."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

FORMAT = "inrflow-shard"
SCHEMA = 1


@dataclass(frozen=True)
class Header:
    """What a shard says of itself in its attributes."""

    domain: str
    dataset: str
    split: str
    normalisation: Mapping[str, Any] = field(default_factory=dict)
    classes: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)

    def attributes(self) -> dict[str, Any]:
        """It as attributes of an HDF5 file: texts of fixed length, which leave no room for chance in the bytes."""
        told = {
            "format": FORMAT,
            "domain": self.domain,
            "dataset": self.dataset,
            "split": self.split,
            "normalisation": json.dumps(dict(self.normalisation), sort_keys=True),
            "classes": json.dumps(list(self.classes)),
            "settings": json.dumps(dict(self.settings), sort_keys=True),
        }
        return {"schema": np.int64(SCHEMA)} | {name: np.bytes_(text.encode()) for name, text in told.items()}


class RaggedArray(NamedTuple):
    """Arrays whose first axis differs, one after the other; `offsets` says where each begins, and where the last ends."""

    rows: np.ndarray
    offsets: np.ndarray


def concatenate_ragged(arrays: Sequence[np.ndarray]) -> RaggedArray:
    """Arrays that differ in their first axis alone, as one."""
    return RaggedArray(np.concatenate(arrays), np.cumsum([0, *(len(array) for array in arrays)]))


@dataclass(frozen=True)
class ShardColumns:
    """What lies beside the values: one row per set, but for offsets (one more) and `coordinates` (shared)."""

    labels: np.ndarray
    names: Sequence[str] | None = None
    seeds: np.ndarray | None = None
    offsets: np.ndarray | None = None
    coordinates: np.ndarray | None = None
    condition: Mapping[str, np.ndarray] = field(default_factory=dict)
    ragged: Mapping[str, RaggedArray] = field(default_factory=dict)
    """Conditions whose number of rows differs from set to set."""

    def arrays(self) -> dict[str, np.ndarray]:
        """The columns as arrays of fixed types, by their place in the file."""
        arrays = {"labels": np.asarray(self.labels, dtype="<i8")}
        if self.names is not None:
            spelt = [name.encode(errors="backslashreplace") for name in self.names]
            arrays["names"] = np.array(spelt, dtype=f"S{max(map(len, spelt), default=0) or 1}")
        for name, dtype in (("seeds", "<i8"), ("offsets", "<i8"), ("coordinates", "<f4")):
            array = getattr(self, name)
            if array is not None:
                arrays[name] = np.asarray(array, dtype=dtype)
        arrays |= {f"condition/{name}": np.asarray(array) for name, array in sorted(self.condition.items())}
        for name, (rows, offsets) in sorted(self.ragged.items()):
            arrays |= {f"condition/{name}": rows, f"condition_offsets/{name}": np.asarray(offsets, dtype="<i8")}
        return arrays
