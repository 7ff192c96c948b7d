"""Inception Score (Salimans et al. 2016, arXiv:1606.03498): sure of each picture, unsure of all: exp of the mean KL.

From the logits of Inception-v3 through a softmax, never from pooled features, whose softmax is no class. The mean over
ten equal splits. `adm` takes the splits in order, as the samples lie: where these lie class by class, a split
sees few classes and the score is far too low. `torch-fidelity` shuffles first, by that program's own permutation.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float32, Float64
from scipy.special import entr, log_softmax

from inrflow_core.metrics._feature_checks import checked_samples
from inrflow_core.metrics._inputs import FeatureSpec, MetricInputs, jackknife_groups

TITLE = "IS"
DOMAIN = "image"
PROTOCOLS = ("adm", "torch-fidelity")
HIGHER_IS_BETTER = True
NEEDS_REFERENCE = False
SPLITS = 10
MIN_ITEMS = 2 * SPLITS
SHUFFLE_SEED = 2020


def unit(protocol: str) -> str:
    """None: a number of classes, from 1 on."""
    return ""


def inputs(protocol: str) -> FeatureSpec:
    """Logits of Inception-v3."""
    return FeatureSpec("inception", "logits", protocol)


def compute(evidence: MetricInputs, protocol: str) -> float:
    """The mean score of the splits, from 1 to the number of classes.

    Raises:
        UsageError: fewer than two samples for each split, or logits that are not finite.
    """
    return score(_ordered(evidence, protocol))


def jackknife_values(evidence: MetricInputs, protocol: str, parts: int) -> Float64[np.ndarray, " P"]:
    """The score without each part: shuffled once, so that the splits stay what they were but for the part."""
    logits = _ordered(evidence, protocol)
    owners = jackknife_groups(len(logits), parts)
    return np.array([score(logits[owners != part]) for part in range(parts)])


def score(logits: Float32[np.ndarray, "N K"], splits: int = SPLITS) -> float:
    """The mean over splits of exp(H(mean of p) - mean of H(p)), which is exp of the mean KL from p to its mean."""
    bounds = np.arange(splits + 1) * len(logits) // splits
    return float(np.mean([_split_score(logits[low:high]) for low, high in zip(bounds, bounds[1:], strict=False)]))


def _split_score(logits: Float32[np.ndarray, "N K"]) -> float:
    logs = log_softmax(logits.astype(np.float64), axis=1)
    chances = np.exp(logs)
    certainty = (chances * logs).sum(1).mean()
    return float(np.exp(entr(chances.mean(0)).sum() + certainty))


def _ordered(evidence: MetricInputs, protocol: str) -> Float32[np.ndarray, "N K"]:
    logits = checked_samples(evidence, MIN_ITEMS)
    if protocol == "torch-fidelity":
        return logits[np.random.RandomState(SHUFFLE_SEED).permutation(len(logits))]
    return logits
