"""F-score of held-out shapes that a model encodes by one call (Tatarchenko et al. 2019; ConvONet).

The harmonic mean of the shares of points within 1 % of the longest side of the other surface. It depends on the number of points: all
stored surface points are compared with as many on the mesh at the preset's grid.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64

from inrflow_core.metrics import _shape_inputs
from inrflow_core.metrics._shape_inputs import F_SCORE, ItemValues, ShapeSpec, remark

__all__ = ["compute", "inputs", "jackknife_values", "remark", "unit"]

TITLE = "reconstruction F-score"
DOMAIN = "shape"
PROTOCOLS = ("held-out:stored-points",)
HIGHER_IS_BETTER = True
MIN_ITEMS = _shape_inputs.MIN_ITEMS


def unit(protocol: str) -> str:
    """None: a share, from 0 to 1."""
    return ""


def inputs(protocol: str) -> ShapeSpec:
    """Reconstructed shapes and the encoded ones."""
    return ShapeSpec(F_SCORE)


def compute(inputs: ItemValues, protocol: str) -> float:
    """The mean over shapes."""
    return inputs.mean(F_SCORE)


def jackknife_values(inputs: ItemValues, protocol: str, parts: int) -> Float64[np.ndarray, " P"]:
    """The mean without each group, at the cost of one."""
    return inputs.means_without_each(F_SCORE, parts)
