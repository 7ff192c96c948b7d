"""Recall (Kynkaanniemi et al. 2019, arXiv:1904.06991): the share of the reference that lies among the samples.

Precision with the sides exchanged: a reference picture counts where it is within the ball of some sample. What
`precision.py` says of protocols and numbers of pictures holds here too.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64

from inrflow_core.evidence import Evidence
from inrflow_core.metrics._features import both_sides
from inrflow_core.metrics._neighbours import LEAST, PROTOCOLS, K, need, shares_within, unit

__all__ = ["LEAST", "PROTOCOLS", "compute", "left_out", "need", "unit"]

TITLE = "Recall"
DOMAIN = "image"
HIGHER_IS_BETTER = True


def compute(evidence: Evidence, protocol: str) -> float:
    """The share; raises UsageError as `_features.both_sides`, for fewer than four of either side too."""
    samples, reference = both_sides(evidence, TITLE, LEAST)
    return float(shares_within(reference, samples, k=K)[0])


def left_out(evidence: Evidence, protocol: str, parts: int) -> Float64[np.ndarray, " P"]:
    """The share without each part, at little more than the price of one."""
    samples, reference = both_sides(evidence, TITLE, LEAST)
    return shares_within(reference, samples, k=K, parts=parts)[1:]
