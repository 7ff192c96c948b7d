"""Chamfer-L1 of held-out shapes that a model encodes by one call (Occupancy Networks, section 4).

The mean distance, not squared, from a point to the nearest one of the other surface, averaged over both directions, in tenths of the
longest side of the shape: the unit in which Occupancy Networks and ConvONet print it. All stored surface points are
compared with as many on the mesh at the preset's grid.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64

from inrflow_core.metrics import _shape_inputs
from inrflow_core.metrics._shape_inputs import CHAMFER_L1, ItemValues, ShapeSpec, remark

__all__ = ["compute", "inputs", "jackknife_values", "remark", "unit"]

TITLE = "reconstruction Chamfer-L1"
DOMAIN = "shape"
PROTOCOLS = ("held-out:stored-points",)
HIGHER_IS_BETTER = False
MIN_ITEMS = _shape_inputs.MIN_ITEMS


def unit(protocol: str) -> str:
    """Tenths of the longest side of a shape."""
    return "10^-1"


def inputs(protocol: str) -> ShapeSpec:
    """Reconstructed shapes and the encoded ones."""
    return ShapeSpec(CHAMFER_L1)


def compute(inputs: ItemValues, protocol: str) -> float:
    """The mean over shapes."""
    return inputs.mean(CHAMFER_L1)


def jackknife_values(inputs: ItemValues, protocol: str, parts: int) -> Float64[np.ndarray, " P"]:
    """The mean without each group, at the cost of one."""
    return inputs.means_without_each(CHAMFER_L1, parts)
