"""NPZ: all samples in one NumPy archive, under the name that their domain gives the array, and `origin` as JSON text."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from inrflow_core.storage import atomic_write

SUFFIXES = (".npz",)
HOLDS_MANY = True


def write(path: Path, samples: np.ndarray, *, origin: Mapping[str, str], array: str) -> None:
    """Samples to the bit, as the array of that name; `numpy.load` reads them without pickles."""
    told = np.array(json.dumps(dict(origin), sort_keys=True))
    with atomic_write.atomic_write(path) as beside, beside.open("wb") as file:
        # `savez` dates every entry 1980-01-01, so that equal samples are equal bytes.
        np.savez(file, allow_pickle=False, **{array: samples, "origin": told})
