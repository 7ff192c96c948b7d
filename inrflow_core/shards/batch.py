"""A batch of sets from any shards: values, labels and conditions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float64


@dataclass(frozen=True)
class Batch:
    """A batch of sets.

    Where sets differ in size, `values` is padded with zeros to the largest, and `sizes` has the number of real pairs.
    Conditions that differ in size are padded likewise; `condition_lengths` has their numbers of real rows.
    """

    values: np.ndarray
    labels: np.ndarray
    names: list[str]
    seeds: np.ndarray
    """Seeds of samples; empty for real data."""
    sizes: np.ndarray | None = None
    condition: Mapping[str, np.ndarray] = field(default_factory=dict)
    condition_lengths: Mapping[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True)
class ConditionSelection:
    """Which conditions are read with the sets."""

    names: Sequence[str] | None = None
    """None selects all."""
    views: Float64[np.ndarray, " B"] | None = None
    """For conditions with several views of a set, the view, as a number in [0, 1); None reads all views. A set without a view has
    zeros."""
    viewed: Sequence[str] | None = None
    """Which conditions have views; None: all that are read."""

    def has_views(self, name: str) -> bool:
        """Whether one view of this condition is read."""
        return self.views is not None and (self.viewed is None or name in self.viewed)


ALL = ConditionSelection()
"""Every condition, with all its views."""
