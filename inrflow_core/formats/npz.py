"""NPZ: all samples in one NumPy archive: `images` or `points`, and `origin` as JSON text."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from inrflow_core.storage import atomic_write

SUFFIXES = (".npz",)
DOMAINS = ("image", "points")
HOLDS_MANY = True


def write(path: Path, samples: np.ndarray, *, origin: Mapping[str, str]) -> None:
    """Images as uint8 (B H W C), clouds as float32 (B N C), to the bit; `numpy.load` reads them without pickles."""
    name = "images" if samples.dtype == np.uint8 else "points"
    told = np.array(json.dumps(dict(origin), sort_keys=True))
    with atomic_write.atomic_write(path) as beside, beside.open("wb") as file:
        # `savez` dates every entry 1980-01-01, so that equal samples are equal bytes.
        np.savez(file, allow_pickle=False, **{name: samples, "origin": told})
