"""Coverage: the share of references that are the nearest reference of a sample.

Achlioptas et al. 2018. Low if samples repeat themselves. Bad samples also cover references: read it beside MMD.
"""

from __future__ import annotations

import numpy as np

from inrflow_core.metrics import _point_protocols
from inrflow_core.metrics._cloud_inputs import Distances, DistanceSpec

TITLE = "COV"
DOMAIN = "points"
PROTOCOLS = _point_protocols.PROTOCOLS
HIGHER_IS_BETTER = True
MIN_ITEMS = _point_protocols.MIN_ITEMS
BOUNDS = (0.0, 100.0)
COUNTS_NEIGHBORS = True
unit = _point_protocols.percent
remark = _point_protocols.count_note


def inputs(protocol: str) -> DistanceSpec:
    """Distances across samples and reference."""
    return _point_protocols.inputs(protocol, is_within=False)


def compute(inputs: Distances, protocol: str) -> float:
    """100 |{argmin_r d(s, r) of all s}| / R; of equally near references the first counts.

    Raises:
        UsageError: there are fewer than two samples or references.
    """
    distances = _point_protocols.sample_to_reference(inputs)
    return 100 * len(np.unique(distances.argmin(1))) / distances.shape[1]
