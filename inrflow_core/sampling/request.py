"""Describe which samples to draw and where to evaluate them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from inrflow_core.errors import UsageError
from inrflow_core.fields import Size as Size
from inrflow_core.fields import Window as Window
from inrflow_core.models import Model
from inrflow_core.runtime.query_budget import CHUNK
from inrflow_core.sets import Condition


@dataclass(frozen=True)
class SampleRequest:
    """Which samples to draw, and where to evaluate them.

    `labels` has one class per seed, -1 for none, and is None for a model without classes. `size` is rows and
    columns or a number of points, None for the training's. `chunk` is the number of queries evaluated at once, `batch` the
    number of samples drawn together; neither changes a sample. `condition` has one row per seed: `tokens` of an image, or
    `residues` of a chain.
    """

    seeds: Sequence[int]
    labels: Sequence[int] | None = None
    size: Size = None
    window: Window = None
    chunk: int = CHUNK
    batch: int | None = None
    condition: Condition = dataclasses.field(default_factory=dict)


def choose_size(domain: Any, resolution: str | None, points: int | None) -> Size:
    """Rows and columns, or a number of points, for a model's domain; None for the training size.

    Raises:
        UsageError: a size of the wrong kind, or fewer than one point.
    """
    given = {"--resolution": resolution, "--points": None if points is None else str(points)}
    for option, text in given.items():
        if text is not None and option != domain.SIZE_OPTION:
            other = f"use `{domain.SIZE_OPTION}`" if domain.SIZE_OPTION else "leave it out"
            raise UsageError(f"`{option}` does not apply: the model samples {domain.NOUN}", hint=other)
    text = given[domain.SIZE_OPTION] if domain.SIZE_OPTION else None
    return None if text is None else domain.parse_size(text)


def scale_size(domain: Any, scale: float) -> Size:
    """The training's rows and columns, or its number of points, times `scale`.

    Raises:
        UsageError: a side would be 0, or infinite.
    """
    return domain.scale_size(scale)


def select_part(request: SampleRequest, part: slice, least: int) -> SampleRequest:
    """A part of a request, padded to `least` samples by repeating the last one."""
    rows = list(range(part.start, part.stop))
    rows += rows[-1:] * (least - len(rows))
    return replace(
        request,
        seeds=[request.seeds[row] for row in rows],
        labels=None if request.labels is None else [request.labels[row] for row in rows],
        condition={name: value[rows] for name, value in request.condition.items()},
    )


def default_batch_size(model: Model, request: SampleRequest) -> int:
    """The number of samples drawn together by default: a batch of about four chunks of queries."""
    condition = dict(request.condition)
    if "residues" in condition:  # the longest chain is enough
        longest = int((condition["residues"] >= 0).sum(1).argmax())
        condition = {"residues": condition["residues"][longest : longest + 1]}
    queries = model.domain.queries(request.size, request.window, condition or None)
    pairs = max(model.domain.shape.num_queries, len(queries))
    return max(1, min(len(request.seeds), 4 * request.chunk // pairs))
