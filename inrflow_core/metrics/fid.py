"""Frechet inception distance (Heusel et al. 2017, arXiv:1706.08500) on the 2048 pooled features of Inception-v3.

The protocol says how images are resized and quantized for the network, which changes the value by whole units
(Parmar et al. 2022, arXiv:2104.11222). The INRFlow authors' release computes `torch-fidelity`. `random` is the distance of fixed random features, for machines without
weights; its scale differs, and values compare only with one another.
"""

from __future__ import annotations

from inrflow_core.metrics._frechet import PROTOCOLS, compute, jackknife_values, pooled_features, remark, unit
from inrflow_core.metrics._inputs import FeatureSpec

__all__ = ["PROTOCOLS", "compute", "jackknife_values", "inputs", "remark", "unit"]

TITLE = "FID"
DOMAIN = "image"
HIGHER_IS_BETTER = False


def inputs(protocol: str) -> FeatureSpec:
    """Pooled features of Inception-v3, or the random ones."""
    return FeatureSpec(*pooled_features(protocol), accepts_stats=True)
