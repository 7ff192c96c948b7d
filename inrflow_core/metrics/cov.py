"""Coverage: the share of references that are the nearest of some sample.

Achlioptas et al. 2018. Low where samples repeat themselves; bad samples cover too, so that it is read beside MMD.
"""

from __future__ import annotations

import numpy as np

from inrflow_core.evidence import DistanceNeed, Distances
from inrflow_core.metrics import _clouds

TITLE = "COV"
DOMAIN = "points"
PROTOCOLS = _clouds.PROTOCOLS
HIGHER_IS_BETTER = True
LEAST = _clouds.LEAST


def unit(protocol: str) -> str:
    """Percent."""
    return "%"


def need(protocol: str) -> DistanceNeed:
    """Distances across samples and reference."""
    return _clouds.need(protocol, is_within=False)


def compute(evidence: Distances, protocol: str) -> float:
    """100 |{argmin_r d(s, r) of all s}| / R; of references equally near the first counts.

    Raises:
        UsageError: there are fewer than two samples or references.
    """
    distances = _clouds.across(evidence)
    return 100 * len(np.unique(distances.argmin(1))) / distances.shape[1]


def note(evidence: Distances, protocol: str) -> str | None:
    """A warning where samples and references are not equally many."""
    return _clouds.count_note(evidence)
