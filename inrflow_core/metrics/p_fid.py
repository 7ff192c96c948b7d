"""P-FID (Nichol et al. 2022, Point-E, arXiv:2212.08751): the Frechet distance of PointNet++ features of clouds.

512 numbers of a classifier of ModelNet40 for 4096 points of each cloud, positions alone (features/pointnet2.py). The
INRFlow paper reports it on Objaverse for 10,000 samples.
"""

from __future__ import annotations

from inrflow_core.evidence import FeatureNeed
from inrflow_core.metrics._frechet import compute, left_out, note, unit

__all__ = ["compute", "left_out", "need", "note", "unit"]

TITLE = "P-FID"
DOMAIN = "points"
PROTOCOLS = ("point-e",)
HIGHER_IS_BETTER = False


def need(protocol: str) -> FeatureNeed:
    """Features of PointNet++."""
    return FeatureNeed("pointnet2", "features", protocol, moments_suffice=True)
