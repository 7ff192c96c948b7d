"""Confidence intervals of all metrics: the delete-a-group jackknife.

Source: Shao and Tu, The Jackknife and Bootstrap, 1995, section 2.3. The items are dealt into ten parts; the metric is
taken ten times, each time without one part of the samples and of the reference; from how the ten values scatter
follows the standard error, and with Student's t of nine degrees of freedom the interval.

A bootstrap would not do: images that are drawn twice are each other's nearest neighbours and make covariances poorer,
so that FID, precision and 1-NNA of a resampled set are those of another problem.

What the interval covers: another draw of as many samples from the same model, and of as many references from the same
data where the reference is features and not moments. What it does not: the bias of a metric at this many samples (FID
of 10,000 images lies above that of 50,000, and its interval does not reach down to it), another training run, weights
or resizers. With nine degrees of freedom the error itself is known to about a quarter of its size.
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
    """Where the value lies, up to chance, in the metric's unit."""

    low: float
    high: float
    error: float
    """The standard error."""
    level: float
    """The share of such intervals that hold what they are about: 0.95."""


def jackknife_interval(
    compute: Callable[[MetricInputs], float],
    inputs: MetricInputs,
    *,
    value: float | None = None,
    values: Float64[np.ndarray, " P"] | None = None,
    parts: int = NUM_GROUPS,
    level: float = LEVEL,
) -> Interval | None:
    """The interval around `compute(inputs)`; None where samples or reference are fewer than two for each part, or where
    no part makes a difference, in which case the error cannot be estimated.

    `value` is `compute(inputs)` where it is known already, and `values` are those of `inputs.leave_out(part, parts)`,
    which some metrics have cheaper (`jackknife_values` in a metric's file).
    """
    if inputs.num_independent() < 2 * parts:
        return None
    if value is None:
        value = compute(inputs)
    if values is None:
        values = np.array([compute(inputs.leave_out(part, parts)) for part in range(parts)])
    return interval_from_jackknife(value, values, level=level) if np.ptp(values) > 0 else None


def interval_from_jackknife(value: float, values: Float64[np.ndarray, " P"], *, level: float = LEVEL) -> Interval:
    """The interval around a value, from the values without one part each."""
    parts = len(values)
    error = float(np.sqrt((parts - 1) / parts * np.sum((values - values.mean()) ** 2)))
    reach = float(stdtrit(parts - 1, (1 + level) / 2)) * error
    return Interval(value - reach, value + reach, error, level)


def metric_interval(metric: MetricSpec, inputs: MetricInputs, value: float) -> tuple[float, float] | None:
    """The ends of the interval around a metric's value, by the metric's own shortcut where it has one."""
    values, shortcut = None, metric.metric.jackknife_values
    if shortcut is not None and inputs.num_independent() >= 2 * NUM_GROUPS:
        values = shortcut(inputs, metric.protocol, NUM_GROUPS)
    found = jackknife_interval(metric.compute, inputs, value=value, values=values)
    return None if found is None else (found.low, found.high)
