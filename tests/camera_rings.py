"""Cameras around the origin, as those of the views of an object."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float32

from inrflow_core.geometry import cameras


def orbit_ring(count: int = 4) -> Float32[np.ndarray, "V 4 4"]:
    """Cameras at equal steps around y, the first on +z; the paper uses four, on +z, +x, -z and -x."""
    return np.stack([cameras.orbit(360 * index / count) for index in range(count)])
