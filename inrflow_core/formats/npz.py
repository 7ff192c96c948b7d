"""NPZ: all samples in one NumPy archive, under the array name of their domain, and `origin` as JSON text; beside views of
scenes their `cameras`, 4 x 4 as geometry/cameras.py has them.

`read` also takes ADM's archives (`arr_0`) and .npy files of one array. Nothing is unpickled.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from inrflow_core.errors import UsageError
from inrflow_core.storage import array_file, atomic_write, typed_json

SUFFIXES = (".npz",)
HOLDS_MANY = True
ARRAYS = ("images", "arr_0", "points")
"""Names of arrays of samples, in order of preference; `arr_0` is that of ADM's sample files."""
HINT = "copy it again, or make it again"


class Archive(NamedTuple):
    """The samples of an .npz or .npy file."""

    name: str
    """The array's name; empty for an .npy file."""
    values: np.ndarray
    """As stored; an .npy file is memory-mapped."""
    origin: dict[str, str]
    """The origin of samples of `inrflow`; empty for other files."""
    fps: float | None = None
    """The frames per second of clips; None where the file has not one number `fps`."""


def write(
    path: Path,
    samples: np.ndarray,
    *,
    origin: Mapping[str, str],
    array: str,
    arrays: Mapping[str, np.ndarray] = MappingProxyType({}),
) -> None:
    """Write samples exactly, as the array `array`, and others by their names; `numpy.load` reads them without pickles."""
    text = np.array(json.dumps(dict(origin), sort_keys=True))
    with atomic_write.atomic_write(path) as beside, beside.open("wb") as file:
        # `savez` dates every entry 1980-01-01, so that equal samples are equal bytes.
        np.savez(file, allow_pickle=False, **{array: samples, **arrays, "origin": text})


def read(path: Path, arrays: Sequence[str] = ARRAYS) -> Archive:
    """The samples in an .npz or .npy file: the first of `arrays` that exists. The content decides the kind.

    Raises:
        MissingError: there is no such file.
        IntegrityError: it is damaged, or its `origin` is not a table.
        UsageError: it has no array of samples.
    """
    names = array_file.array_names(path, hint=HINT)
    name = next((name for name in ("", *arrays) if name in names), None)
    if name is None:
        content = ", ".join(f"`{name}`" for name in names) or "nothing"
        raise UsageError(f"`{path}` holds {content}, no samples", hint="name the array `images` or `points`")
    values = array_file.read_array(path, name, hint=HINT)
    text = str(array_file.read_array(path, "origin", hint=HINT)) if "origin" in names else "{}"
    where = f"`origin` of `{path}`"
    origin = typed_json.typed(typed_json.parse_json(text, where, hint=HINT), dict[str, Any], where, hint=HINT)
    rate = array_file.read_array(path, "fps", hint=HINT) if "fps" in names else np.empty(0)
    fps = float(rate.item()) if rate.size == 1 and rate.dtype.kind in "iuf" else None
    return Archive(name, values, {key: str(value) for key, value in origin.items()}, fps)
