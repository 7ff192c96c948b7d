"""Spatial FID (Nash et al. 2021, arXiv:2103.03841): the Frechet distance of the first 7 channels of a middle layer.

7 x 17 x 17 = 2023 numbers that depend on the position in the image, which pooling removes.
"""

from __future__ import annotations

from inrflow_core.metrics._frechet import compute, jackknife_values, remark, unit
from inrflow_core.metrics._inputs import FeatureSpec

__all__ = ["compute", "jackknife_values", "inputs", "remark", "unit"]

TITLE = "sFID"
DOMAIN = "image"
PROTOCOLS = ("adm", "torch-fidelity")
HIGHER_IS_BETTER = False


def inputs(protocol: str) -> FeatureSpec:
    """Spatial features of Inception-v3."""
    return FeatureSpec("inception", "spatial", protocol, accepts_stats=True)
