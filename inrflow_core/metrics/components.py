"""Connected components of drawn meshes: floating pieces and holes inside count, an empty mesh has none."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64

from inrflow_core.metrics import _shape_inputs
from inrflow_core.metrics._shape_inputs import ItemValues, MeshSpec

TITLE = "components"
DOMAIN = "shape"
PROTOCOLS = ("preset-grid",)
HIGHER_IS_BETTER = False
MIN_ITEMS = _shape_inputs.MIN_ITEMS
MEASURE = "components"


def unit(protocol: str) -> str:
    """None: a number."""
    return ""


def inputs(protocol: str) -> MeshSpec:
    """The meshes at the preset's grid."""
    return MeshSpec(MEASURE)


def compute(inputs: ItemValues, protocol: str) -> float:
    """The mean number over the meshes."""
    return inputs.mean(MEASURE)


def jackknife_values(inputs: ItemValues, protocol: str, parts: int) -> Float64[np.ndarray, " P"]:
    """The mean without each group, at the cost of one."""
    return inputs.means_without_each(MEASURE, parts)


def remark(inputs: ItemValues, protocol: str) -> str:
    """How many meshes are of one piece, and how many are empty."""
    counts = inputs.values[MEASURE]
    return f"{(counts == 1).sum():,} of {len(counts):,} meshes are of one piece, {(counts == 0).sum():,} are empty"
