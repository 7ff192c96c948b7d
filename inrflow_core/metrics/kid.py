"""Kernel inception distance (Binkowski et al. 2018, arXiv:1801.01401): the unbiased squared MMD of Inception features.

The kernel is (x.y / F + 1)^3 with F features; the mean over 100 subsets of at most 1000 of each side. Unlike FID it is
unbiased at any number of images, and can be negative. Reported x 10^3 (unit 10^-3), as in many papers; others report it
unscaled or x 10^2. Subsets are drawn with fixed seeds: the same features give the same value.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64

from inrflow_core.metrics._feature_checks import both_sides
from inrflow_core.metrics._inputs import Features, FeatureSpec, assign_groups

TITLE = "KID"
DOMAIN = "image"
PROTOCOLS = ("torch-fidelity", "clean", "random")
HIGHER_IS_BETTER = False
SUBSETS = 100
SUBSET_SIZE = 1000


def unit(protocol: str) -> str:
    """A thousandth."""
    return "10^-3"


def inputs(protocol: str) -> FeatureSpec:
    """Pooled features of Inception-v3, or the random ones."""
    return FeatureSpec("random", "all", "v1") if protocol == "random" else FeatureSpec("inception", "pool", protocol)


def compute(inputs: Features, protocol: str) -> float:
    """The mean over subsets of the unbiased squared MMD, x 10^3.

    Raises:
        UsageError: as `_feature_checks.both_sides`.
    """
    return float(estimates(inputs, parts=1)[0])


def jackknife_values(inputs: Features, protocol: str, parts: int) -> Float64[np.ndarray, " P"]:
    """The value without each group, at the cost of one: the same subsets without the items of the group."""
    return estimates(inputs, parts=parts)[1:]


def estimates(inputs: Features, *, parts: int) -> Float64[np.ndarray, " V"]:
    """The value of all, then without each group (NaN for a single group)."""
    samples, reference = both_sides(inputs, TITLE)
    size = min(SUBSET_SIZE, len(samples), len(reference))
    subsets = 1 if size == len(samples) == len(reference) else SUBSETS
    total = np.zeros(parts + 1)
    for subset in range(subsets):
        draw = np.random.default_rng(subset)
        rows, columns = (draw.choice(len(side), size, replace=False, shuffle=False) for side in (samples, reference))
        total += _squared_mmd(
            samples[rows].astype(np.float64),
            reference[columns].astype(np.float64),
            np.eye(parts)[assign_groups(len(samples), parts, inputs.sample_clusters)[rows]],
            np.eye(parts)[assign_groups(len(reference), parts, inputs.reference_clusters)[columns]],
        )
    return 1e3 * total / subsets


def _squared_mmd(
    x: Float64[np.ndarray, "N F"],
    y: Float64[np.ndarray, "R F"],
    x_in: Float64[np.ndarray, "N P"],
    y_in: Float64[np.ndarray, "R P"],
) -> Float64[np.ndarray, " V"]:
    """Equation 4 of the paper, over all, then without each group; `x_in` and `y_in` are one-hot groups."""
    within = _mean_kernel(x, x, x_in, x_in) + _mean_kernel(y, y, y_in, y_in)
    return within - 2 * _mean_kernel(x, y, x_in, y_in)


def _mean_kernel(
    x: Float64[np.ndarray, "N F"],
    y: Float64[np.ndarray, "R F"],
    x_in: Float64[np.ndarray, "N P"],
    y_in: Float64[np.ndarray, "R P"],
) -> Float64[np.ndarray, " V"]:
    """The mean kernel of all pairs of different items, then without each group."""
    kernel = (x @ y.T / x.shape[1] + 1) ** 3
    counts = np.outer(x_in.sum(0), y_in.sum(0))
    if x is y:
        np.fill_diagonal(kernel, 0)
        counts -= np.diag(x_in.sum(0))
    with np.errstate(invalid="ignore", divide="ignore"):
        return _without_each(x_in.T @ kernel @ y_in) / _without_each(counts)


def _without_each(blocks: Float64[np.ndarray, "P P"]) -> Float64[np.ndarray, " V"]:
    """The sum of all blocks, then the sums without the row and the column of each group."""
    return np.append(blocks.sum(), blocks.sum() - blocks.sum(0) - blocks.sum(1) + np.diag(blocks))
