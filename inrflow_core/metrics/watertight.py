"""Share of drawn meshes that are watertight: not empty, every edge in an even number of faces, and inside the box.

A mesh is closed where its shape reaches the border of the box; such shapes are cut off there, and count as not watertight.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64

from inrflow_core.metrics import _shape_inputs
from inrflow_core.metrics._shape_inputs import ItemValues, MeshSpec

TITLE = "watertight"
DOMAIN = "shape"
PROTOCOLS = ("preset-grid",)
HIGHER_IS_BETTER = True
MIN_ITEMS = _shape_inputs.MIN_ITEMS
BOUNDS = (0.0, 100.0)
MEASURE = "is_watertight"


def unit(protocol: str) -> str:
    """Percent of the meshes."""
    return "%"


def inputs(protocol: str) -> MeshSpec:
    """The meshes at the preset's grid."""
    return MeshSpec(MEASURE)


def compute(inputs: ItemValues, protocol: str) -> float:
    """The share of the meshes."""
    return 100 * inputs.mean(MEASURE)


def jackknife_values(inputs: ItemValues, protocol: str, parts: int) -> Float64[np.ndarray, " P"]:
    """The share without each group, at the cost of one."""
    return 100 * inputs.means_without_each(MEASURE, parts)
