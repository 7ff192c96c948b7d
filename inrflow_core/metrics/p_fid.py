"""P-FID (Nichol et al. 2022, Point-E, arXiv:2212.08751): the Frechet distance of PointNet++ features of clouds.

512 numbers of a classifier of ModelNet40 for 4096 points of each cloud, positions alone (feature_networks/pointnet2.py). The
INRFlow paper reports it on Objaverse for 10,000 samples.
"""

from __future__ import annotations

from inrflow_core.metrics._frechet import compute, jackknife_values, remark, unit
from inrflow_core.metrics._inputs import FeatureSpec

__all__ = ["compute", "jackknife_values", "inputs", "remark", "unit"]

TITLE = "P-FID"
DOMAIN = "points"
PROTOCOLS = ("point-e",)
HIGHER_IS_BETTER = False


def inputs(protocol: str) -> FeatureSpec:
    """Features of PointNet++."""
    return FeatureSpec("pointnet2", "features", protocol, accepts_stats=True)
