"""The contract of a metric: one file each, the file's name its registration."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float64

from inrflow_core import registry
from inrflow_core.metrics._inputs import InputSpec


@runtime_checkable
class MetricFile(Protocol):
    """The members of a metric's file; `Metric` lists the optional ones with their defaults."""

    TITLE: str
    """Its name in the papers."""
    DOMAIN: str
    """What it compares: `image`, `points` or `protein`."""
    PROTOCOLS: tuple[str, ...]
    """The ways to compute it; the first one is the default."""
    HIGHER_IS_BETTER: bool

    def inputs(self, protocol: str, /) -> InputSpec:
        """What it compares."""
        ...

    def unit(self, protocol: str, /) -> str:
        """The unit of its value, `""` for none."""
        ...

    def compute(self, inputs: Any, protocol: str, /) -> float:
        """The value from the inputs that its spec gathered.

        Raises:
            UsageError: it cannot be computed from these inputs.
        """
        ...


ItemValues = Callable[[Any, str], dict[str, float]]
Remark = Callable[[Any, str], str | None]
JackknifeValues = Callable[[Any, str, int], Float64[np.ndarray, " P"]]
SubsetValues = Callable[[Any, str, Bool[np.ndarray, "V G"]], Float64[np.ndarray, " V"]]


@dataclass(frozen=True)
class Metric:
    """A metric's file, with defaults of its optional members."""

    file: MetricFile
    min_items: int = 2
    """`MIN_ITEMS`: the smallest number of samples, and of reference items."""
    companion: str | None = None
    """`COMPANION`: the metric that is always computed beside it, by the same protocol."""
    remark: Remark = lambda inputs, protocol: None
    """`remark(inputs, protocol)`: a remark on the value, or None."""
    item_values: ItemValues = lambda inputs, protocol: {}
    """`item_values(inputs, protocol)`: where the value is a mean over items, that of each by its name."""
    bounds: tuple[float, float] = (-math.inf, math.inf)
    """`BOUNDS`: the smallest and largest possible value; the interval ends there."""
    counts_neighbors: bool = False
    """`COUNTS_NEIGHBORS`: the value counts nearest neighbors, so that its interval is that of half samples."""
    jackknife_values: JackknifeValues | None = None
    """`jackknife_values(inputs, protocol, num_groups)`: the value without each group, if that is faster than `compute`."""
    subset_values: SubsetValues | None = None
    """`subset_values(inputs, protocol, subsets)`: the values of some groups alone, if that is faster than `compute`."""

    @property
    def title(self) -> str:
        """Its name in the papers."""
        return self.file.TITLE

    @property
    def domain(self) -> str:
        """What it compares."""
        return self.file.DOMAIN

    @property
    def protocols(self) -> tuple[str, ...]:
        """The ways to compute it; the first one is the default."""
        return self.file.PROTOCOLS

    @property
    def higher_is_better(self) -> bool:
        """The direction of better values."""
        return self.file.HIGHER_IS_BETTER


OPTIONAL = {
    "MIN_ITEMS": "min_items",
    "BOUNDS": "bounds",
    "COUNTS_NEIGHBORS": "counts_neighbors",
    "COMPANION": "companion",
    "remark": "remark",
    "item_values": "item_values",
    "jackknife_values": "jackknife_values",
    "subset_values": "subset_values",
}
"""Optional members of a file, and the fields of `Metric` that hold them."""


def resolve(file: Any) -> Metric:
    """A metric's module (or any object with its members), with defaults of its optional members."""
    members = {field: getattr(file, member) for member, field in OPTIONAL.items() if hasattr(file, member)}
    return Metric(file, **members)


def find(name: str) -> Metric:
    """The metric of that name.

    Raises:
        UsageError: no metric has that name; the hint suggests a similar one.
    """
    return resolve(registry.find("metrics", name))
