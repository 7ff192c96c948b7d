"""Recall (Kynkaanniemi et al. 2019, arXiv:1904.06991): the share of the reference that lies among the samples.

Precision with the sides exchanged: a reference picture counts where it is within the ball of some sample. What
`precision.py` says of protocols and numbers of pictures holds here too.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64

from inrflow_core.evidence import Evidence, FeatureNeed
from inrflow_core.metrics._features import both_sides
from inrflow_core.metrics._neighbours import shares_within

TITLE = "Recall"
DOMAIN = "image"
PROTOCOLS = ("inception:adm", "vgg16:stylegan", "random")
HIGHER_IS_BETTER = True
K = 3
LEAST = K + 1


def unit(protocol: str) -> str:
    """None: a share, from 0 to 1."""
    return ""


def need(protocol: str) -> FeatureNeed:
    """Pooled Inception features, VGG16's second fully connected layer, or the random features."""
    network, _, form = protocol.partition(":")
    return FeatureNeed(network, {"inception": "pool", "vgg16": "fc2", "random": "all"}[network], form or "v1")


def compute(evidence: Evidence, protocol: str) -> float:
    """The share; raises UsageError as `_features.both_sides`, for fewer than four of either side too."""
    samples, reference = both_sides(evidence, TITLE, LEAST)
    return float(shares_within(reference, samples, k=K)[0])


def left_out(evidence: Evidence, protocol: str, parts: int) -> Float64[np.ndarray, " P"]:
    """The share without each part, at little more than the price of one."""
    samples, reference = both_sides(evidence, TITLE, LEAST)
    return shares_within(reference, samples, k=K, parts=parts)[1:]
