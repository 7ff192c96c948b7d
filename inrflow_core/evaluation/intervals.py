"""Confidence intervals of all metrics: the delete-a-group jackknife, and half samples where neighbors are counted.

Jackknife (Shao and Tu, The Jackknife and Bootstrap, 1995, section 2.3): the items are split into ten groups. The metric
is computed ten times, each time without one group of the samples and of the reference. The scatter of the ten values
gives the standard error, and Student's t with nine degrees of freedom the interval.

A nearest neighbor depends on several items at once: without a tenth of the items the neighbors of many others change,
and the jackknife's error of 1-NNA, COV, precision and recall is 1.4 to 1.9 times too large. Two disjoint halves are
independent, so the difference of their values has the right scatter, whatever the value counts (balanced half samples,
McCarthy 1969): twelve groups are divided into halves in eleven orthogonal ways, which are eleven degrees of freedom.

A bootstrap does not work here: duplicated images are each other's nearest neighbors and reduce the rank of covariances,
which biases FID, precision and 1-NNA of a resampled set.

The interval covers another draw of as many samples from the same model, and of as many references from the same data if
the reference is features and not statistics. It does not cover the bias of a metric at this number of samples (FID of
10,000 images is above that of 50,000, outside its interval), another training run, weights or resizers. With about ten
degrees of freedom the relative error of the standard error is about a quarter. The Frechet distance of nearly equal
distributions is quadratic in the deviations: its interval is then up to 1.4 times too wide.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64
from scipy.special import stdtrit

from inrflow_core.evaluation.metric_specs import MetricSpec
from inrflow_core.metrics._inputs import MetricInputs

NUM_GROUPS = 10
"""Groups of the jackknife."""
NUM_HALVED_GROUPS = 12
"""Groups that are divided into halves, the order of the Hadamard matrix."""
LEVEL = 0.95
ROUNDING = 1e-12
"""Values that differ by less, relative to the value, are equal but for the rounding of sums."""


@dataclass(frozen=True)
class Interval:
    """A confidence interval in the metric's unit."""

    low: float
    high: float
    error: float
    """The standard error."""
    level: float
    """The confidence level: 0.95."""


def jackknife_interval(
    compute: Callable[[Any], float],
    inputs: MetricInputs,
    *,
    value: float | None = None,
    values: Float64[np.ndarray, " P"] | None = None,
    parts: int = NUM_GROUPS,
    level: float = LEVEL,
) -> Interval | None:
    """The interval around `compute(inputs)`; None for fewer than two samples or references in each group, and for equal
    values of all groups, from which no error can be estimated.

    `value` is `compute(inputs)` if known; `values` are those of `inputs.leave_out(part, parts)`, which some metrics
    compute faster (`jackknife_values` in a metric's file).
    """
    if inputs.num_independent() < 2 * parts:
        return None
    if value is None:
        value = compute(inputs)
    if values is None:
        values = np.array([compute(inputs.leave_out(part, parts)) for part in range(parts)])
    return interval_from_jackknife(value, values, level=level) if np.ptp(values) > ROUNDING * abs(value) else None


def interval_from_jackknife(value: float, values: Float64[np.ndarray, " P"], *, level: float = LEVEL) -> Interval:
    """The interval around a value, from the values without one group each."""
    parts = len(values)
    error = float(np.sqrt((parts - 1) / parts * np.sum((values - values.mean()) ** 2)))
    return _interval(value, error, parts - 1, level)


def balanced_halves() -> Bool[np.ndarray, "V G"]:
    """Which of twelve groups are in each of 22 halves: every half, and after it the other, in eleven orthogonal ways.

    Every half has six groups, and two halves that are not complements share three. The rows of the Hadamard matrix of
    order 12 by quadratic residues (Paley 1933), without the constant one.
    """
    prime = NUM_HALVED_GROUPS - 1
    residues = {number**2 % prime for number in range(1, prime)}
    is_residue = np.array([[(a - b) % prime in residues | {0} for b in range(prime)] for a in range(prime)])
    first = np.column_stack([np.zeros(prime, dtype=bool), is_residue])
    return np.stack([first, ~first], axis=1).reshape(2 * prime, NUM_HALVED_GROUPS)


def half_sample_interval(
    compute: Callable[[Any], float],
    inputs: MetricInputs,
    *,
    value: float,
    values: Float64[np.ndarray, " V"] | None = None,
    level: float = LEVEL,
) -> Interval | None:
    """The interval around `value`, which is `compute(inputs)`; None for fewer than two samples or references in each group,
    and if both halves have equal values in all ways.

    `values` are those of the `balanced_halves`, which some metrics compute faster (`subset_values` in a metric's file).
    """
    if inputs.num_independent() < 2 * NUM_HALVED_GROUPS:
        return None
    if values is None:
        halves = [np.flatnonzero(half).tolist() for half in balanced_halves()]
        values = np.array([compute(inputs.select_groups(half, NUM_HALVED_GROUPS)) for half in halves])
    differences = values[::2] - values[1::2]
    error = float(np.sqrt(np.mean(differences**2))) / 2
    return _interval(value, error, len(differences), level) if error > ROUNDING * abs(value) else None


def _interval(value: float, error: float, degrees: int, level: float) -> Interval:
    half_width = float(stdtrit(degrees, (1 + level) / 2)) * error
    return Interval(value - half_width, value + half_width, error, level)


def metric_interval(metric: MetricSpec, inputs: MetricInputs, value: float) -> tuple[float, float] | None:
    """The ends of the interval around a metric's value, within its bounds, by the metric's own shortcut if it has one."""
    part, values = metric.metric, None
    if part.counts_neighbors:
        if part.subset_values is not None and inputs.num_independent() >= 2 * NUM_HALVED_GROUPS:
            values = part.subset_values(inputs, metric.protocol, balanced_halves())
        interval = half_sample_interval(metric.compute, inputs, value=value, values=values)
    else:
        if part.jackknife_values is not None and inputs.num_independent() >= 2 * NUM_GROUPS:
            values = part.jackknife_values(inputs, metric.protocol, NUM_GROUPS)
        interval = jackknife_interval(metric.compute, inputs, value=value, values=values)
    low, high = part.bounds
    return None if interval is None else (max(interval.low, low), min(interval.high, high))
