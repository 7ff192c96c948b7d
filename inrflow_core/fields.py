"""Fields: what `sample` and `invert` return, a batch of functions that can be evaluated at any coordinates.

A field is lazy: nothing is computed before the first query. A `query` call integrates the context once for all its
queries. `cache_context` integrates it at once and keeps what later queries need to replay its steps; both give the same
values.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Float, Int64
from torch import Tensor

from inrflow_core.config.preset import Preset
from inrflow_core.runtime.progress import Progress
from inrflow_core.runtime.query_budget import CHUNK as CHUNK
from inrflow_core.runtime.query_budget import QueryBudget
from inrflow_core.sets import Condition, Queries

FORMAT = "inrflow-field-1"
"""The format that a saved field's file names."""


@dataclass(frozen=True)
class Orbit:
    """The size of a turntable: views of a scene at equal steps around y, the first from +z."""

    rows: int
    columns: int
    views: int
    elevation: float | None = None
    """In degrees; None is the domain's, as for the other settings."""
    distance: float | None = None


Size = tuple[int, int] | int | Orbit | None
"""Rows and columns, a number of points, or a turntable; None is the training's."""
Window = tuple[float, float, float, float] | None
"""Top, left, bottom and right of a part of an image, each from 0 to 1; None is all of it."""


@runtime_checkable
class Field(Protocol):
    """B functions, evaluated together."""

    model: Any
    """The method; of a loaded field, only the part that evaluates queries."""
    seeds: Int64[Tensor, " B"]
    condition: Condition
    options: Any
    """The method's sampling options, for the provenance of its values."""

    def query(
        self, queries: Queries, *, chunk: int | QueryBudget = CHUNK, progress: Progress | None = None
    ) -> Float[Tensor, "B M C"]:
        """The values at `queries`, in the network's scale; memory grows with `chunk` and one buffer per query.

        A `QueryBudget` as `chunk` is shared by the queries of one run.
        """
        ...

    def cache_context(self, progress: Progress | None = None) -> Field:
        """Compute and keep what later queries need; returns the field."""
        ...

    def size(self) -> int:
        """Bytes that `save` writes."""
        ...

    def save(self, path: Path, preset: Preset, *, half: bool = False) -> None:
        """Write a field with a cached context as safetensors, fp16 if `half`: it is evaluated later without encoder or trunk."""
        ...
