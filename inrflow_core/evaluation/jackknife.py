"""Confidence intervals of all metrics: the delete-a-group jackknife.

Source: Shao and Tu, The Jackknife and Bootstrap, 1995, section 2.3. The items are split into ten groups. The metric is
computed ten times, each time without one group of the samples and of the reference. The scatter of the ten values gives
the standard error, and Student's t with nine degrees of freedom the interval.

A bootstrap does not work here: duplicated images are each other's nearest neighbors and reduce the rank of covariances,
which biases FID, precision and 1-NNA of a resampled set.

The interval covers another draw of as many samples from the same model, and of as many references from the same data if
the reference is features and not statistics. It does not cover the bias of a metric at this number of samples (FID of
10,000 images is above that of 50,000, outside its interval), another training run, weights or resizers. With nine degrees
of freedom the relative error of the standard error is about a quarter.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64
from scipy.special import stdtrit

from inrflow_core.evaluation.metric_specs import MetricSpec
from inrflow_core.metrics._inputs import MetricInputs

NUM_GROUPS = 10
LEVEL = 0.95


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
    compute: Callable[[MetricInputs], float],
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
    return interval_from_jackknife(value, values, level=level) if np.ptp(values) > 0 else None


def interval_from_jackknife(value: float, values: Float64[np.ndarray, " P"], *, level: float = LEVEL) -> Interval:
    """The interval around a value, from the values without one group each."""
    parts = len(values)
    error = float(np.sqrt((parts - 1) / parts * np.sum((values - values.mean()) ** 2)))
    half_width = float(stdtrit(parts - 1, (1 + level) / 2)) * error
    return Interval(value - half_width, value + half_width, error, level)


def metric_interval(metric: MetricSpec, inputs: MetricInputs, value: float) -> tuple[float, float] | None:
    """The ends of the interval around a metric's value, by the metric's own `jackknife_values` if it has them."""
    values, shortcut = None, metric.metric.jackknife_values
    if shortcut is not None and inputs.num_independent() >= 2 * NUM_GROUPS:
        values = shortcut(inputs, metric.protocol, NUM_GROUPS)
    interval = jackknife_interval(metric.compute, inputs, value=value, values=values)
    return None if interval is None else (interval.low, interval.high)
