"""Sets read together: values and conditions of any shards, put into one batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float64


@dataclass(frozen=True)
class Batch:
    """Sets that were read together.

    Where sets differ in size, `values` is padded with zeros to the largest, and `sizes` says how many pairs are real.
    Conditions that differ in size are padded likewise; `counts` has their real rows.
    """

    values: np.ndarray
    labels: np.ndarray
    names: list[str]
    seeds: np.ndarray
    """Of samples; empty for real data."""
    sizes: np.ndarray | None = None
    condition: Mapping[str, np.ndarray] = field(default_factory=dict)
    condition_lengths: Mapping[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True)
class ConditionSelection:
    """Which conditions are read with the sets."""

    names: Sequence[str] | None = None
    """None reads all."""
    views: Float64[np.ndarray, " B"] | None = None
    """Of conditions that hold several views of a set, which one: from 0 to below 1; None reads all views."""


ALL = ConditionSelection()
"""Every condition, with all its views."""
