"""Frechet video distance (Unterthiner et al. 2018, arXiv:1812.01717): the Frechet distance of features of whole clips.

`random` is the distance of fixed random space-time features, for machines without weights: its scale differs from that of I3D's
features, and values compare only with one another, between clips of one size and length. Unlike the FID of single frames, it
changes with the order of the frames.
"""

from __future__ import annotations

from inrflow_core.metrics._frechet import compute, jackknife_values, remark, unit
from inrflow_core.metrics._inputs import FeatureSpec

__all__ = ["compute", "jackknife_values", "inputs", "remark", "unit"]

TITLE = "FVD"
DOMAIN = "video"
PROTOCOLS = ("random",)
HIGHER_IS_BETTER = False
NETWORKS = {"random": ("random-space-time", "all", "v1")}
"""Network, output and preprocessing of each protocol."""


def inputs(protocol: str) -> FeatureSpec:
    """The features of whole clips."""
    return FeatureSpec(*NETWORKS[protocol], accepts_stats=True)
