"""Recall (Kynkaanniemi et al. 2019, arXiv:1904.06991): the share of the reference that lies among the samples.

Precision with the sides exchanged: a reference picture counts where it is within the ball of some sample. What
`precision.py` says of protocols and numbers of pictures holds here too.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64

from inrflow_core.metrics._feature_checks import both_sides
from inrflow_core.metrics._inputs import MetricInputs
from inrflow_core.metrics._knn_manifold import MIN_ITEMS, PROTOCOLS, K, fraction_inside_manifold, inputs, unit

__all__ = ["MIN_ITEMS", "PROTOCOLS", "compute", "jackknife_values", "inputs", "unit"]

TITLE = "Recall"
DOMAIN = "image"
HIGHER_IS_BETTER = True


def compute(evidence: MetricInputs, protocol: str) -> float:
    """The share; raises UsageError as `_feature_checks.both_sides`, for fewer than four of either side too."""
    samples, reference = both_sides(evidence, TITLE, MIN_ITEMS)
    return float(fraction_inside_manifold(reference, samples, k=K)[0])


def jackknife_values(evidence: MetricInputs, protocol: str, parts: int) -> Float64[np.ndarray, " P"]:
    """The share without each part, at little more than the price of one."""
    samples, reference = both_sides(evidence, TITLE, MIN_ITEMS)
    return fraction_inside_manifold(reference, samples, k=K, parts=parts)[1:]
