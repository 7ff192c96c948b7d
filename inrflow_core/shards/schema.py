"""The layout of a shard beside its values: the header in its attributes and the columns with a row for each set."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple

import numpy as np

from inrflow_core.errors import IntegrityError
from inrflow_core.storage import typed_json

FORMAT = "inrflow-shard"
SCHEMA = 1


@dataclass(frozen=True)
class Header:
    """The attributes of a shard: what it holds, and how it was made."""

    domain: str
    dataset: str
    split: str
    normalization: Mapping[str, Any] = field(default_factory=dict, metadata={"key": "normalisation"})
    classes: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)

    def to_attributes(self) -> dict[str, Any]:
        """As attributes of an HDF5 file. Texts have a fixed length, so that equal headers are equal bytes."""
        table = typed_json.to_plain(self)
        texts = {
            name: value if isinstance(value, str) else json.dumps(value, sort_keys=True)
            for name, value in table.items()
        }
        attributes = {"format": FORMAT, **texts}
        return {"schema": np.int64(SCHEMA)} | {name: np.bytes_(text.encode()) for name, text in attributes.items()}

    @classmethod
    def from_attributes(cls, attributes: Mapping[str, str], where: str, *, hint: str) -> Header:
        """The header in the attributes of an HDF5 file; `where` names the file in errors.

        Raises:
            IntegrityError: an attribute is missing, not JSON or of a wrong type.
        """
        table: dict[str, Any] = {}
        for field_ in fields(cls):
            key = field_.metadata.get("key", field_.name)
            name = next((name for name in (key, field_.name) if name in attributes), None)
            if name is None:
                raise IntegrityError(f"{where} is damaged: it has no attribute `{key}`", hint=hint)
            text = attributes[name]
            is_text = field_.name in ("domain", "dataset", "split")
            table[field_.name] = (
                text
                if is_text
                else typed_json.parse_json(text, f"{where} is damaged: its attribute `{name}`", hint=hint)
            )
        return typed_json.typed(table, cls, where, hint=hint)


def frame_rate(normalization: Mapping[str, Any]) -> float | None:
    """Frames per second of clips, as the normalization of their shards records it; None if it does not."""
    rate = normalization.get("fps")
    return float(rate) if isinstance(rate, int | float) and 0 < rate < math.inf else None


class RaggedArray(NamedTuple):
    """Arrays that differ in their first axis, concatenated; `offsets` has the first row of each and the total."""

    rows: np.ndarray
    offsets: np.ndarray


def concatenate_ragged(arrays: Sequence[np.ndarray]) -> RaggedArray:
    """Concatenate arrays that differ only in their first axis."""
    return RaggedArray(np.concatenate(arrays), np.cumsum([0, *(len(array) for array in arrays)]))


@dataclass(frozen=True)
class ShardColumns:
    """The arrays beside the values: one row for each set, but `offsets` has one more and `coordinates` are shared."""

    labels: np.ndarray
    names: Sequence[str] | None = None
    seeds: np.ndarray | None = None
    offsets: np.ndarray | None = None
    coordinates: np.ndarray | None = None
    condition: Mapping[str, np.ndarray] = field(default_factory=dict)
    ragged: Mapping[str, RaggedArray] = field(default_factory=dict)
    """Conditions whose number of rows differs between sets."""

    def arrays(self) -> dict[str, np.ndarray]:
        """The columns as arrays of fixed types, by their path in the file."""
        arrays = {"labels": np.asarray(self.labels, dtype="<i8")}
        if self.names is not None:
            encoded = [name.encode(errors="backslashreplace") for name in self.names]
            arrays["names"] = np.array(encoded, dtype=f"S{max(map(len, encoded), default=0) or 1}")
        for name, dtype in (("seeds", "<i8"), ("offsets", "<i8"), ("coordinates", "<f4")):
            array = getattr(self, name)
            if array is not None:
                arrays[name] = np.asarray(array, dtype=dtype)
        arrays |= {f"condition/{name}": np.asarray(array) for name, array in sorted(self.condition.items())}
        for name, (rows, offsets) in sorted(self.ragged.items()):
            arrays |= {f"condition/{name}": rows, f"condition_offsets/{name}": np.asarray(offsets, dtype="<i8")}
        return arrays
