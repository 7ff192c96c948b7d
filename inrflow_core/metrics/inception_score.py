"""Inception Score (Salimans et al. 2016, arXiv:1606.03498): exp of the mean KL divergence of classes from their mean.

From the softmax of the logits of Inception-v3. `adm` averages over 5,000 samples at a time, in their order: if they are
sorted by class, a split has few classes and the score is far too low. `torch-fidelity` shuffles first, by that program's
own permutation, and averages over ten equal splits.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64

from inrflow_core.metrics import _class_scores
from inrflow_core.metrics._inputs import Features, FeatureSpec, assign_groups

TITLE = "IS"
DOMAIN = "image"
PROTOCOLS = ("adm", "torch-fidelity")
HIGHER_IS_BETTER = True
SPLITS = 10
"""Of `torch-fidelity`."""
MIN_ITEMS = 2 * SPLITS
SHUFFLE_SEED = 2020
unit = _class_scores.unit


def inputs(protocol: str) -> FeatureSpec:
    """Logits of Inception-v3."""
    return FeatureSpec("inception", "logits", protocol, needs_reference=False)


def compute(inputs: Features, protocol: str) -> float:
    """The mean score of the splits, from 1 to the number of classes.

    Raises:
        UsageError: fewer than two samples for each split, or logits that are not finite.
    """
    logits = _class_scores.logits_of(inputs, MIN_ITEMS)
    if protocol == "adm":
        return _class_scores.score_in_order(logits)
    return _class_scores.score(_shuffled(logits), SPLITS)


def jackknife_values(inputs: Features, protocol: str, parts: int) -> Float64[np.ndarray, " P"]:
    """The score without each group; shuffled once, so that a split loses the group's items alone."""
    logits = _class_scores.logits_of(inputs, MIN_ITEMS)
    if protocol == "adm":
        return _class_scores.jackknife_in_order(logits, parts, inputs.sample_clusters)
    clusters = None if inputs.sample_clusters is None else _shuffled(inputs.sample_clusters)
    logits, groups = _shuffled(logits), assign_groups(len(logits), parts, clusters)
    return np.array([_class_scores.score(logits[groups != part], SPLITS) for part in range(parts)])


def _shuffled(items: np.ndarray) -> np.ndarray:
    return items[np.random.RandomState(SHUFFLE_SEED).permutation(len(items))]
