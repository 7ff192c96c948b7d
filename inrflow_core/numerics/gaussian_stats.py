"""Mean and covariance of features in blocks: of millions of images, in the memory of one covariance.

All sums are in float64 and of features less the mean of the first block, so that a large mean costs no digits.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float64
from scipy.linalg import blas

ROWS = 4096
"""Features that are turned to float64 at once: 64 MiB at 2048 numbers each."""


class RunningGaussian:
    """Sums over all features so far: `add` blocks of any size, then call `moments`."""

    def __init__(self, width: int) -> None:
        self.count = 0
        self.shift = np.zeros(width)
        self.total = np.zeros(width)
        self.products = np.zeros((width, width), order="F")  # the upper triangle alone

    def add(self, features: Float[np.ndarray, "N F"]) -> None:
        """Count the features in."""
        for start in range(0, len(features), ROWS):
            block = features[start : start + ROWS].astype(np.float64)
            if not self.count:
                self.shift = block.mean(0)
            block -= self.shift
            self.count += len(block)
            self.total += block.sum(0)
            self.products = blas.dsyrk(1.0, block.T, beta=1.0, c=self.products, overwrite_c=1)

    def moments(self) -> GaussianStats:
        """Of all features so far, of which there must be two."""
        assert self.count >= 2, "a covariance takes two"
        mean = self.total / self.count
        upper = np.triu(self.products) - self.count * np.triu(np.outer(mean, mean))
        covariance = (upper + np.triu(upper, 1).T) / (self.count - 1)
        return GaussianStats(self.count, self.shift + mean, covariance)


def from_features(features: Float[np.ndarray, "N F"]) -> GaussianStats:
    """Moments of features that are all there, of which there must be two."""
    sums = RunningGaussian(features.shape[1])
    sums.add(features)
    return sums.moments()


def merge(first: GaussianStats, second: GaussianStats) -> GaussianStats:
    """Moments of two sets taken together."""
    count = first.count + second.count
    difference = second.mean - first.mean
    return GaussianStats(
        count,
        first.mean + difference * (second.count / count),
        (_scatter(first) + _scatter(second) + _between(difference, first.count * second.count / count)) / (count - 1),
    )


def subtract(whole: GaussianStats, part: GaussianStats) -> GaussianStats:
    """Moments of what is left of a set without a part of it: `merge(subtract(whole, part), part)` is `whole`."""
    count = whole.count - part.count
    assert count >= 2, "a covariance takes two"
    mean = whole.mean + (whole.mean - part.mean) * (part.count / count)
    between = _between(part.mean - mean, count * part.count / whole.count)
    return GaussianStats(count, mean, (_scatter(whole) - _scatter(part) - between) / (count - 1))


def _scatter(moments: GaussianStats) -> Float64[np.ndarray, "F F"]:
    """The sum of the squared deviations from the mean, as a matrix."""
    return moments.covariance * (moments.count - 1)


def _between(difference: Float64[np.ndarray, " F"], weight: float) -> Float64[np.ndarray, "F F"]:
    """What two means that differ add to the scatter."""
    return weight * np.outer(difference, difference)


@dataclass(frozen=True)
class GaussianStats:
    """Mean and covariance (divided by `count` - 1) of features."""

    count: int
    """0 where a published file does not say it."""
    mean: Float64[np.ndarray, " F"]
    covariance: Float64[np.ndarray, "F F"]
