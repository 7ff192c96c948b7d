"""Tables of results: means over seeds with their intervals, and the share of the paper recipe's compute that a recipe needs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import stdtrit

LEVEL = 0.95
"""Of the intervals: Student's t over seeds."""
RESOURCES = ("flops", "cpu_seconds")

Result = Mapping[str, Any]
"""A result as `runs.run` or `scores.evaluate` wrote it."""


@dataclass(frozen=True)
class Mean:
    """The mean over seeds, with half the width of its interval: None for one seed."""

    value: float
    half_width: float | None
    count: int

    @property
    def text(self) -> str:
        """As in `0.246 ± 0.012`."""
        if self.half_width is None:
            return f"{self.value:.4g}"
        return f"{self.value:.4g} ± {self.half_width:.2g}"

    def includes(self, value: float) -> bool | None:
        """Whether the interval includes a value; None where there is no interval."""
        return None if self.half_width is None else abs(self.value - value) <= self.half_width


@dataclass(frozen=True)
class Reach:
    """The share of the paper recipe's FLOPs or CPU seconds at which the runs of a recipe reach a value."""

    shares: Sequence[float | None]
    """Of each seed; None where its curve does not reach the value."""

    @property
    def mean(self) -> Mean | None:
        """Over the seeds; None where one does not reach the value."""
        reached = [share for share in self.shares if share is not None]
        return mean(reached) if reached and len(reached) == len(self.shares) else None

    @property
    def text(self) -> str:
        """The mean with its interval, or how many seeds reached the value."""
        if self.mean is not None:
            return self.mean.text
        reached = sum(share is not None for share in self.shares)
        return f"{reached} of {len(self.shares)} seeds" if reached else "not reached"

    @property
    def verdict(self) -> str:
        """What the interval says: less or more compute than the paper recipe, or noise."""
        if self.mean is None:
            return "not reached"
        is_noise = self.mean.includes(1.0)
        if is_noise is None:
            return "one seed: no interval"
        return "noise" if is_noise else "less" if self.mean.value < 1 else "more"


def mean(values: Sequence[float]) -> Mean:
    """The mean of some values with Student's t interval."""
    count = len(values)
    if count < 2:
        return Mean(float(values[0]), None, count)
    error = float(np.std(values, ddof=1)) / math.sqrt(count)
    return Mean(float(np.mean(values)), float(stdtrit(count - 1, (1 + LEVEL) / 2)) * error, count)


def crossing(
    xs: Sequence[float], ys: Sequence[float], target: float, *, higher_is_better: bool = False
) -> float | None:
    """Where a curve first reaches a value, linear between its points; None where it does not.

    A curve that begins beyond the value reaches it at its first point, an upper bound.
    """
    sign = -1.0 if higher_is_better else 1.0
    distances = [sign * (y - target) for y in ys]
    for index, distance in enumerate(distances):
        if distance <= 0:
            if index == 0:
                return xs[0]
            before = distances[index - 1]
            return xs[index - 1] + (xs[index] - xs[index - 1]) * before / (before - distance)
    return None


def reach(
    curves: Sequence[Sequence[Result]], paper: Sequence[Sequence[Result]], *, higher_is_better: bool = False
) -> dict[str, Reach]:
    """The shares of the paper recipe's FLOPs and CPU seconds at which curves reach the mean of its last values.

    Each curve is of one seed: points with `value`, `flops` and `cpu_seconds`.
    """
    target = float(np.mean([curve[-1]["value"] for curve in paper]))
    result = {}
    for resource in RESOURCES:
        total = float(np.mean([curve[-1][resource] for curve in paper]))
        shares = list[float | None]()
        for curve in curves:
            xs, ys = [point[resource] for point in curve], [point["value"] for point in curve]
            at = crossing(xs, ys, target, higher_is_better=higher_is_better)
            shares.append(None if at is None else at / total)
        result[resource] = Reach(shares)
    return result
