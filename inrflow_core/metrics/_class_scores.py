"""The Inception Score of any classifier: exp of the mean KL divergence of each image's classes from their mean.

Source: Salimans et al. 2016, arXiv:1606.03498.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float32, Float64, Int64
from scipy.special import entr, log_softmax

from inrflow_core.metrics._feature_checks import check_side
from inrflow_core.metrics._inputs import Features, assign_groups

SPLIT_SIZE = 5000
"""Samples of a score in the programs of ADM and Point-E, which average over such parts."""


def unit(protocol: str) -> str:
    """None: a number of classes, from 1 on."""
    return ""


def logits_of(inputs: Features, least: int = 2) -> Float32[np.ndarray, "N K"]:
    """The samples' logits.

    Raises:
        UsageError: fewer samples than `least`, or numbers that are not finite.
    """
    check_side(inputs.samples, "samples", least)
    return inputs.samples


def score(logits: Float32[np.ndarray, "N K"], splits: int) -> float:
    """The mean over splits of exp(H(mean of p) - mean of H(p)), which is exp of the mean KL from p to its mean."""
    bounds = np.arange(splits + 1) * len(logits) // splits
    return float(np.mean([_split_score(logits[low:high]) for low, high in zip(bounds, bounds[1:], strict=False)]))


def score_in_order(logits: Float32[np.ndarray, "N K"]) -> float:
    """The mean of the scores of `SPLIT_SIZE` samples at a time, in their order; the last part may be smaller."""
    parts = [logits[start : start + SPLIT_SIZE] for start in range(0, len(logits), SPLIT_SIZE)]
    return float(np.mean([_split_score(part) for part in parts if len(part)]))


def jackknife_in_order(
    logits: Float32[np.ndarray, "N K"], parts: int, clusters: Int64[np.ndarray, " N"] | None = None
) -> Float64[np.ndarray, " P"]:
    """`score_in_order` without each group of `assign_groups`; every split loses the group's items alone."""
    groups, starts = assign_groups(len(logits), parts, clusters), range(0, len(logits), SPLIT_SIZE)

    def without(part: int) -> float:
        splits = (slice(start, start + SPLIT_SIZE) for start in starts)
        remaining = [logits[split][groups[split] != part] for split in splits]
        return float(np.mean([_split_score(some) for some in remaining if len(some)]))

    return np.array([without(part) for part in range(parts)])


def _split_score(logits: Float32[np.ndarray, "N K"]) -> float:
    logs = log_softmax(logits.astype(np.float64), axis=1)
    probabilities = np.exp(logs)
    negative_entropy = (probabilities * logs).sum(1).mean()
    return float(np.exp(entr(probabilities.mean(0)).sum() + negative_entropy))
