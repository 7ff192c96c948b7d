"""Minimum matching distance: from each reference to its nearest sample, mean over the references.

Achlioptas et al. 2018, "Learning Representations and Generative Models for 3D Point Clouds". Low if
samples are faithful; it depends little on diversity, and not on samples far from all references.
"""

from __future__ import annotations

from inrflow_core.metrics import _point_protocols
from inrflow_core.metrics._cloud_inputs import Distances, DistanceSpec

TITLE = "MMD"
DOMAIN = "points"
PROTOCOLS = _point_protocols.PROTOCOLS
HIGHER_IS_BETTER = False
MIN_ITEMS = _point_protocols.MIN_ITEMS
unit = _point_protocols.distance_unit
remark = _point_protocols.count_note


def inputs(protocol: str) -> DistanceSpec:
    """Distances across samples and reference."""
    return _point_protocols.inputs(protocol, is_within=False)


def compute(inputs: Distances, protocol: str) -> float:
    """mean_r min_s d(s, r), in its unit.

    Raises:
        UsageError: there are fewer than two samples or references.
    """
    distances = _point_protocols.sample_to_reference(inputs)
    return float(distances.min(0).mean() * _point_protocols.unit_factor(protocol))
