"""The contract of a distance between two point clouds of equal size: one file each, the file's name its registration.

`evaluation/pairwise_distances.py` computes it for all pairs of two lists of clouds, in several processes, resumably.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float
from torch import Tensor

from inrflow_core import registry

Prepare = Callable[[Float[np.ndarray, "P 3"]], Any]
BatchedDistance = Callable[[Float[Tensor, "K P 3"], Float[Tensor, "K P 3"]], Float[Tensor, " K"]]


@runtime_checkable
class DistanceFile(Protocol):
    """The members of a distance's file; `Distance` lists the optional ones with their defaults."""

    IS_SYMMETRIC: bool
    """Whether `distance(a, b)` equals `distance(b, a)`."""

    def distance(self, a: Any, b: Any, /) -> float:
        """The distance of two prepared clouds, on the CPU."""
        ...


def unprepared(cloud: Float[np.ndarray, "P 3"]) -> Any:
    """The cloud itself."""
    return cloud


@dataclass(frozen=True)
class Distance:
    """A distance's file, with defaults of its optional members."""

    file: DistanceFile
    prepare: Prepare = unprepared
    """`prepare(cloud)`: the part of the work that depends on one cloud, done once for each."""
    batched_distance: BatchedDistance | None = None
    """`batched_distance(a, b)`: of K pairs as tensors, on any device; None: on the CPU alone, pair by pair."""

    @property
    def is_symmetric(self) -> bool:
        """Whether the clouds can be exchanged."""
        return self.file.IS_SYMMETRIC

    def between(self, a: Float[np.ndarray, "P 3"], b: Float[np.ndarray, "P 3"]) -> float:
        """The distance of two clouds."""
        return self.file.distance(self.prepare(a), self.prepare(b))


OPTIONAL = ("prepare", "batched_distance")
"""Optional members of a file."""


def resolve(file: Any) -> Distance:
    """A distance's module (or any object with its members), with defaults of its optional members."""
    return Distance(file, **{name: getattr(file, name) for name in OPTIONAL if hasattr(file, name)})


def find(name: str) -> Distance:
    """The distance of that name.

    Raises:
        UsageError: no distance has that name; the hint suggests a similar one.
    """
    return resolve(registry.find("distances", name))
