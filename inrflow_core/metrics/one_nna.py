"""1-nearest-neighbour accuracy: how well a cloud's nearest other cloud tells whether it is a sample or a reference.

Lopez-Paz and Oquab 2017, for clouds Yang et al. 2019 (PointFlow). 50 % where both sets come from one distribution, more
where they can be told apart, less where samples copy references.
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
unit = _point_protocols.percent


def inputs(protocol: str) -> DistanceSpec:
    """Distances across samples and reference, and among each."""
    return _point_protocols.inputs(protocol, is_within=True)


def compute(inputs: Distances, protocol: str) -> float:
    """100 times the share of clouds of the union whose nearest other cloud (leave one out) is of their own set.

    A cloud that is equally near to one of each set counts by half. Of a distance that is not symmetric, the papers'
    code takes the column's nearest row of [[reference, across], [its transpose, samples]]; so does this.

    Raises:
        UsageError: there are fewer than two samples or references.
    """
    across = _point_protocols.sample_to_reference(inputs)
    assert inputs.among_samples is not None and inputs.among_reference is not None
    right = 0.0
    for own, other in ((inputs.among_reference, across), (inputs.among_samples, across.T)):
        own = own + np.diag(np.full(len(own), np.inf))
        near_own, near_other = own.min(0), other.min(0)
        right += float((near_own < near_other).sum() + 0.5 * (near_own == near_other).sum())
    return 100 * right / sum(across.shape)


def remark(inputs: Distances, protocol: str) -> str | None:
    """What is best, and a warning where samples and references are not equally many."""
    warning = _point_protocols.count_note(inputs, protocol)
    return "50 % is best, less is a sign of copies" + (f"; {warning}" if warning else "")
