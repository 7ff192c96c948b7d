"""Minimum matching distance: how near the nearest sample comes to a reference, mean over the references.

Achlioptas et al. 2018, "Learning Representations and Generative Models for 3D Point Clouds". Low where samples are
faithful; it says little of variety, and nothing of samples that are near no reference.
"""

from __future__ import annotations

from inrflow_core.metrics import _point_protocols
from inrflow_core.metrics._inputs import Distances, DistanceSpec

TITLE = "MMD"
DOMAIN = "points"
PROTOCOLS = _point_protocols.PROTOCOLS
HIGHER_IS_BETTER = False
MIN_ITEMS = _point_protocols.MIN_ITEMS
FACTORS = {"cd": 3, "emd-exact": 2, "emd-exact-squared": 2, "emd-lion": 2, "emd-pointflow": 2}
"""Tables are in 10^-3 for Chamfer and in 10^-2 for every EMD."""


def unit(protocol: str) -> str:
    """10^-3 or 10^-2: of squared length for `cd`, `emd-lion` and `emd-exact-squared`, else of length."""
    return f"10^-{FACTORS[inputs(protocol).distance]}"


def inputs(protocol: str) -> DistanceSpec:
    """Distances across samples and reference."""
    return _point_protocols.inputs(protocol, is_within=False)


def compute(evidence: Distances, protocol: str) -> float:
    """mean_r min_s d(s, r), in its unit.

    Raises:
        UsageError: there are fewer than two samples or references.
    """
    return float(
        _point_protocols.sample_to_reference(evidence).min(0).mean() * 10 ** FACTORS[inputs(protocol).distance]
    )


def remark(evidence: Distances, protocol: str) -> str | None:
    """A warning where samples and references are not equally many."""
    return _point_protocols.count_note(evidence)
