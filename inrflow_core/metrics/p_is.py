"""P-IS (Nichol et al. 2022, Point-E, arXiv:2212.08751): the Inception Score by PointNet++'s 40 classes of ModelNet40.

As in Point-E's program: the mean of the scores of 5000 samples at a time, in their order; the last part may be smaller.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64

from inrflow_core.metrics import _class_scores
from inrflow_core.metrics._inputs import Features, FeatureSpec, jackknife_groups

TITLE = "P-IS"
DOMAIN = "points"
PROTOCOLS = ("point-e",)
HIGHER_IS_BETTER = True
SPLIT_SIZE = 5000
unit = _class_scores.unit


def inputs(protocol: str) -> FeatureSpec:
    """Logits of PointNet++."""
    return FeatureSpec("pointnet2", "logits", protocol, needs_reference=False)


def compute(inputs: Features, protocol: str) -> float:
    """The mean score, from 1 to 40.

    Raises:
        UsageError: fewer than two samples, or logits that are not finite.
    """
    logits = _class_scores.logits_of(inputs)
    starts = range(0, len(logits), SPLIT_SIZE)
    return float(np.mean([_class_scores.score(logits[start : start + SPLIT_SIZE], splits=1) for start in starts]))


def jackknife_values(inputs: Features, protocol: str, parts: int) -> Float64[np.ndarray, " P"]:
    """The score without each group; every split loses the group's items alone."""
    logits = _class_scores.logits_of(inputs)
    groups, starts = jackknife_groups(len(logits), parts), range(0, len(logits), SPLIT_SIZE)

    def without(part: int) -> float:
        splits = (slice(start, start + SPLIT_SIZE) for start in starts)
        remaining = [logits[split][groups[split] != part] for split in splits]
        return float(np.mean([_class_scores.score(some, splits=1) for some in remaining if len(some)]))

    return np.array([without(part) for part in range(parts)])
