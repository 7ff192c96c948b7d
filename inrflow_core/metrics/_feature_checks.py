"""Checks that the metrics of features share."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float32

from inrflow_core.errors import UsageError
from inrflow_core.metrics._inputs import Features, count_of
from inrflow_core.numerics.gaussian_stats import GaussianStats


def checked(inputs: Features, least: int = 2) -> Features:
    """The features.

    Raises:
        UsageError: fewer samples or references than `least`, NaN or infinity, or features of different widths.
    """
    check_side(inputs.samples, "samples", least)
    check_side(inputs.reference, "references", least)
    widths = inputs.samples.shape[1], width_of(inputs.reference)
    if widths[0] != widths[1]:
        raise UsageError(
            f"samples have {widths[0]} features and the reference {widths[1]}",
            hint="compute the reference's statistics with the same network and output",
        )
    return inputs


def both_sides(
    inputs: Features, title: str, least: int = 2
) -> tuple[Float32[np.ndarray, "N F"], Float32[np.ndarray, "R F"]]:
    """Features of samples and reference; raises as `checked`, and for a reference that is statistics alone."""
    features = checked(inputs, least)
    if isinstance(features.reference, GaussianStats):
        raise UsageError(
            f"{title} cannot be computed from the mean and covariance of the reference",
            hint="give the reference as images or as features",
        )
    return features.samples, features.reference


def width_of(side: Float32[np.ndarray, "N F"] | GaussianStats) -> int:
    """Numbers of one feature vector."""
    return len(side.mean) if isinstance(side, GaussianStats) else side.shape[1]


def check_side(side: Float32[np.ndarray, "N F"] | GaussianStats, name: str, least: int) -> None:
    """Raise UsageError unless one side has `least` items (if their number is known) and finite numbers."""
    count = count_of(side)
    if count < least and not (isinstance(side, GaussianStats) and count == 0):
        raise UsageError(f"{count} {name} are too few", hint=f"at least {least} are needed")
    arrays = (side.mean, side.covariance) if isinstance(side, GaussianStats) else (side,)
    if not all(np.isfinite(array).all() for array in arrays):
        raise UsageError(f"features of the {name} are not finite", hint="look for NaN or infinite values in the items")
