"""The Inception Score of any classifier: exp of the mean KL divergence of each image's classes from their mean.

Source: Salimans et al. 2016, arXiv:1606.03498.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float32
from scipy.special import entr, log_softmax

from inrflow_core.metrics._feature_checks import check_side
from inrflow_core.metrics._inputs import Features


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


def _split_score(logits: Float32[np.ndarray, "N K"]) -> float:
    logs = log_softmax(logits.astype(np.float64), axis=1)
    probabilities = np.exp(logs)
    negative_entropy = (probabilities * logs).sum(1).mean()
    return float(np.exp(entr(probabilities.mean(0)).sum() + negative_entropy))
