"""P-IS (Nichol et al. 2022, Point-E, arXiv:2212.08751): the Inception Score by PointNet++'s 40 classes of ModelNet40.

As in Point-E's program: the mean of the scores of 5000 samples at a time, in their order; the last part may be smaller.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64

from inrflow_core.metrics import _class_scores
from inrflow_core.metrics._inputs import Features, FeatureSpec

TITLE = "P-IS"
DOMAIN = "points"
PROTOCOLS = ("point-e",)
HIGHER_IS_BETTER = True
unit = _class_scores.unit


def inputs(protocol: str) -> FeatureSpec:
    """Logits of PointNet++."""
    return FeatureSpec("pointnet2", "logits", protocol, needs_reference=False)


def compute(inputs: Features, protocol: str) -> float:
    """The mean score, from 1 to 40.

    Raises:
        UsageError: fewer than two samples, or logits that are not finite.
    """
    return _class_scores.score_in_order(_class_scores.logits_of(inputs))


def jackknife_values(inputs: Features, protocol: str, parts: int) -> Float64[np.ndarray, " P"]:
    """The score without each group; every split loses the group's items alone."""
    return _class_scores.jackknife_in_order(_class_scores.logits_of(inputs), parts, inputs.sample_clusters)
