"""The contract of a metric: one file each, the file's name its registration."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float64

from inrflow_core import registry
from inrflow_core.metrics._inputs import InputSpec


@runtime_checkable
class MetricFile(Protocol):
    """What a metric's file must have; `Metric` lists what it may have besides, with the defaults."""

    TITLE: str
    """Its name in the papers."""
    DOMAIN: str
    """What it compares: `image`, `points` or `protein`."""
    PROTOCOLS: tuple[str, ...]
    """The ways to take it; the first one is the default."""
    HIGHER_IS_BETTER: bool

    def inputs(self, protocol: str, /) -> InputSpec:
        """What it compares."""
        ...

    def unit(self, protocol: str, /) -> str:
        """The unit of its value, `""` for none."""
        ...

    def compute(self, inputs: Any, protocol: str, /) -> float:
        """The value of the inputs that its spec gathered.

        Raises:
            UsageError: it cannot be taken of these inputs.
        """
        ...


Remark = Callable[[Any, str], str | None]
JackknifeValues = Callable[[Any, str, int], Float64[np.ndarray, " P"]]


@dataclass(frozen=True)
class Metric:
    """A metric's file, with a default for every member that it leaves out."""

    file: MetricFile
    min_items: int = 2
    """`MIN_ITEMS`: samples, and items of the reference, that it needs at least."""
    remark: Remark = lambda inputs, protocol: None
    """`remark(inputs, protocol)`: what a reader must know beside the value, None for nothing."""
    jackknife_values: JackknifeValues | None = None
    """`jackknife_values(inputs, protocol, parts)`: the value without each group where that is cheaper than `compute`."""

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
        """The ways to take it; the first one is the default."""
        return self.file.PROTOCOLS

    @property
    def higher_is_better(self) -> bool:
        """The direction of better values."""
        return self.file.HIGHER_IS_BETTER


OPTIONAL = {"MIN_ITEMS": "min_items", "remark": "remark", "jackknife_values": "jackknife_values"}
"""Members that a file may leave out, and the fields of `Metric` that hold them."""


def resolve(file: Any) -> Metric:
    """A metric's module (or any object with its members), with the defaults of what it leaves out."""
    members = {field: getattr(file, member) for member, field in OPTIONAL.items() if hasattr(file, member)}
    return Metric(file, **members)


def find(name: str) -> Metric:
    """The metric of that name.

    Raises:
        UsageError: there is no such metric; the hint names the nearest.
    """
    return resolve(registry.find("metrics", name))
