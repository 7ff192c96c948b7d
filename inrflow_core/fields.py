"""Fields: what `sample` and `invert` return, a batch of functions that can be evaluated anywhere.

A field is lazy: nothing is computed before the first query. A `query` call draws the context once for all the
queries of that call. `cache_context` draws it now and keeps what later queries need, which then replay it: a field asked
while it is drawn and a recorded one give the same answers.
"""

from __future__ import annotations

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

Size = tuple[int, int] | int | None
"""Rows and columns, or a number of points; None is the training's."""
Window = tuple[float, float, float, float] | None
"""Top, left, bottom and right of a part of an image, each from 0 to 1; None is all of it."""


@runtime_checkable
class Field(Protocol):
    """B functions, evaluated together."""

    model: Any
    """What it is evaluated with; of a loaded field the part that evaluates queries, which alone has weights."""
    seeds: Int64[Tensor, " B"]
    condition: Condition
    options: Any
    """The method's sampling options, for the provenance of its values."""

    def query(
        self, queries: Queries, *, chunk: int | QueryBudget = CHUNK, progress: Progress | None = None
    ) -> Float[Tensor, "B M C"]:
        """The values at `queries`, in the network's scale; memory grows with `chunk` and one buffer per query.

        A `Room` in its place carries what the queries of one run share, and how small its chunks have become.
        """
        ...

    def cache_context(self, progress: Progress | None = None) -> Field:
        """The same functions with everything kept that later queries need."""
        ...

    def size(self) -> int:
        """Bytes that `save` writes."""
        ...

    def save(self, path: Path, preset: Preset, *, half: bool = False) -> None:
        """Write a recorded field as safetensors, fp16 if `half`: it is evaluated later without encoder or trunk."""
        ...
