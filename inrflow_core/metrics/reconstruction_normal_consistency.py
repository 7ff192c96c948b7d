"""Normal consistency of held-out shapes that a model encodes by one call (Occupancy Networks, section 4).

The mean absolute cosine between the normals of a point and of the nearest one of the other surface, averaged over both directions. All
stored surface points are compared with as many on the mesh at the preset's grid, which has the normals of its faces.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64

from inrflow_core.metrics import _shape_inputs
from inrflow_core.metrics._shape_inputs import NORMAL_CONSISTENCY, ItemValues, ShapeSpec, remark

__all__ = ["compute", "inputs", "jackknife_values", "remark", "unit"]

TITLE = "reconstruction normal consistency"
DOMAIN = "shape"
PROTOCOLS = ("held-out:stored-points",)
HIGHER_IS_BETTER = True
MIN_ITEMS = _shape_inputs.MIN_ITEMS


def unit(protocol: str) -> str:
    """None: from 0 to 1."""
    return ""


def inputs(protocol: str) -> ShapeSpec:
    """Reconstructed shapes and the encoded ones."""
    return ShapeSpec(NORMAL_CONSISTENCY)


def compute(inputs: ItemValues, protocol: str) -> float:
    """The mean over shapes."""
    return inputs.mean(NORMAL_CONSISTENCY)


def jackknife_values(inputs: ItemValues, protocol: str, parts: int) -> Float64[np.ndarray, " P"]:
    """The mean without each group, at the cost of one."""
    return inputs.means_without_each(NORMAL_CONSISTENCY, parts)
