"""Precision (Kynkaanniemi et al. 2019, arXiv:1904.06991): the share of samples that lie among the reference.

k = 3. A sample counts where it is within the ball of some reference picture (`_neighbours`). `inception:adm` is what
ADM and INRFlow print: 10,000 references against 50,000 samples on pooled Inception features; `vgg16` that of the
original and of StyleGAN, on the second fully connected layer. Other numbers of pictures give other values.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64

from inrflow_core.evidence import Evidence
from inrflow_core.metrics._features import both_sides
from inrflow_core.metrics._neighbours import LEAST, PROTOCOLS, K, need, shares_within, unit

__all__ = ["LEAST", "PROTOCOLS", "compute", "left_out", "need", "unit"]

TITLE = "Precision"
DOMAIN = "image"
HIGHER_IS_BETTER = True


def compute(evidence: Evidence, protocol: str) -> float:
    """The share; raises UsageError as `_features.both_sides`, for fewer than four of either side too."""
    samples, reference = both_sides(evidence, TITLE, LEAST)
    return float(shares_within(samples, reference, k=K)[0])


def left_out(evidence: Evidence, protocol: str, parts: int) -> Float64[np.ndarray, " P"]:
    """The share without each part, at little more than the price of one."""
    samples, reference = both_sides(evidence, TITLE, LEAST)
    return shares_within(samples, reference, k=K, parts=parts)[1:]
