"""Minimum matching distance: how near the nearest sample comes to a reference, mean over the references.

Achlioptas et al. 2018, "Learning Representations and Generative Models for 3D Point Clouds". Low where samples are
faithful; it says little of variety, and nothing of samples that are near no reference.
"""

from __future__ import annotations

from inrflow_core.evidence import DistanceNeed, Distances
from inrflow_core.metrics import _clouds

TITLE = "MMD"
DOMAIN = "points"
PROTOCOLS = _clouds.PROTOCOLS
HIGHER_IS_BETTER = False
LEAST = _clouds.LEAST
FACTORS = {"cd": 3, "emd-exact": 2, "emd-exact-squared": 2, "emd-lion": 2, "emd-pointflow": 2}
"""Tables are in 10^-3 for Chamfer and in 10^-2 for every EMD."""


def unit(protocol: str) -> str:
    """10^-3 or 10^-2: of squared length for `cd`, `emd-lion` and `emd-exact-squared`, else of length."""
    return f"10^-{FACTORS[need(protocol).distance]}"


def need(protocol: str) -> DistanceNeed:
    """Distances across samples and reference."""
    return _clouds.need(protocol, is_within=False)


def compute(evidence: Distances, protocol: str) -> float:
    """mean_r min_s d(s, r), in its unit.

    Raises:
        UsageError: there are fewer than two samples or references.
    """
    return float(_clouds.across(evidence).min(0).mean() * 10 ** FACTORS[need(protocol).distance])


def note(evidence: Distances, protocol: str) -> str | None:
    """A warning where samples and references are not equally many."""
    return _clouds.count_note(evidence)
