"""Volumetric IoU of held-out shapes that a model encodes by one call (Occupancy Networks, section 4).

Of all stored queries of the split `test`, else `val`: those inside both over those inside at least one. Inside is where the logit is
above 0, a probability of 0.5; the code of Occupancy Networks takes 0.2.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64

from inrflow_core.metrics import _shape_inputs
from inrflow_core.metrics._shape_inputs import IOU, ItemValues, ShapeSpec, remark

__all__ = ["compute", "inputs", "jackknife_values", "remark", "unit"]

TITLE = "reconstruction IoU"
DOMAIN = "shape"
PROTOCOLS = ("held-out:stored-queries",)
HIGHER_IS_BETTER = True
MIN_ITEMS = _shape_inputs.MIN_ITEMS


def unit(protocol: str) -> str:
    """None: a share, from 0 to 1."""
    return ""


def inputs(protocol: str) -> ShapeSpec:
    """Reconstructed shapes and the encoded ones."""
    return ShapeSpec(IOU)


def compute(inputs: ItemValues, protocol: str) -> float:
    """The mean over shapes."""
    return inputs.mean(IOU)


def jackknife_values(inputs: ItemValues, protocol: str, parts: int) -> Float64[np.ndarray, " P"]:
    """The mean without each group, at the cost of one."""
    return inputs.means_without_each(IOU, parts)
