"""1-nearest-neighbor accuracy of classifying a cloud as sample or reference by its nearest other cloud.

Lopez-Paz and Oquab 2017, for clouds Yang et al. 2019 (PointFlow). 50 % if both sets have one distribution, more if
they can be distinguished, less if samples copy references.
"""

from __future__ import annotations

import numpy as np

from inrflow_core.metrics import _point_protocols
from inrflow_core.metrics._cloud_inputs import Distances, DistanceSpec

TITLE = "1-NNA"
DOMAIN = "points"
PROTOCOLS = _point_protocols.PROTOCOLS
HIGHER_IS_BETTER = False
MIN_ITEMS = _point_protocols.MIN_ITEMS
BOUNDS = (0.0, 100.0)
COUNTS_NEIGHBORS = True
unit = _point_protocols.percent


def inputs(protocol: str) -> DistanceSpec:
    """Distances across samples and reference, and among each."""
    return _point_protocols.inputs(protocol, is_within=True)


def compute(inputs: Distances, protocol: str) -> float:
    """The percentage of clouds of the union whose nearest other cloud (leave one out) is of their own set.

    A tie between both sets counts by half. For a distance that is not symmetric, as in the papers' code, it is the
    column's nearest row of [[reference, across], [its transpose, samples]].

    Raises:
        UsageError: there are fewer than two samples or references.
    """
    across = _point_protocols.sample_to_reference(inputs)
    assert inputs.among_samples is not None and inputs.among_reference is not None
    right = 0.0
    for within, between in ((inputs.among_reference, across), (inputs.among_samples, across.T)):
        within = within + np.diag(np.full(len(within), np.inf))
        nearest_within, nearest_between = within.min(0), between.min(0)
        right += float((nearest_within < nearest_between).sum() + 0.5 * (nearest_within == nearest_between).sum())
    return 100 * right / sum(across.shape)


def remark(inputs: Distances, protocol: str) -> str | None:
    """The best value, and a warning if samples and references are not equally many."""
    warning = _point_protocols.count_note(inputs, protocol)
    return "50 % is best, less is a sign of copies" + (f"; {warning}" if warning else "")
