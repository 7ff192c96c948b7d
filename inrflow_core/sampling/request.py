"""Which samples to draw and where to evaluate them."""

from __future__ import annotations

import dataclasses
import math
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
    """Which samples are wanted, and where they are asked.

    `labels` holds one class per seed, -1 for none, and is None for a model without classes. `size` is rows and
    columns or a number of points, None for the training's. `chunk` bounds the pairs answered at once, `batch` is the
    number of samples drawn together; neither changes a sample. `condition` is what else each sample is drawn under, one
    row for each seed: `tokens` of a picture, or `residues` of a chain.
    """

    seeds: Sequence[int]
    labels: Sequence[int] | None = None
    size: Size = None
    window: Window = None
    chunk: int = CHUNK
    batch: int | None = None
    condition: Condition = dataclasses.field(default_factory=dict)


def choose_size(domain: Any, resolution: tuple[int, int] | None, points: int | None) -> Size:
    """Rows and columns, or a number of points, as a model's domain has it; None for the training's.

    Raises:
        UsageError: a size of the wrong kind, or fewer than one point.
    """
    has_grid = domain.shape.grid is not None
    if has_grid and points is not None:
        raise UsageError(
            "`--points` applies to point clouds, and the model samples images", hint="use `--resolution HxW`"
        )
    if not has_grid and resolution is not None:
        raise UsageError(
            "`--resolution` applies to images, and the model samples point clouds", hint="use `--points N`"
        )
    if points is not None and points < 1:
        raise UsageError(f"`--points {points}`: a point cloud has at least 1 point", hint="give a whole number above 0")
    return resolution if has_grid else points


def scale_size(domain: Any, scale: float) -> Size:
    """The training's rows and columns, or its number of points, times `scale`.

    Raises:
        UsageError: a side would be 0, or infinite.
    """
    shape = domain.shape
    sides = (shape.num_queries,) if shape.grid is None else shape.grid
    if not all(0.5 < scale * side < math.inf for side in sides):
        raise UsageError(f"`--scale {scale:g}` gives an empty or infinite size", hint="give a number such as 4 or 1.5")
    scaled = [round(scale * side) for side in sides]
    return scaled[0] if shape.grid is None else (scaled[0], scaled[1])


def select_part(request: SampleRequest, part: slice, least: int) -> SampleRequest:
    """A part of a request, its last sample again and again up to `least` of them."""
    rows = list(range(part.start, part.stop))
    rows += rows[-1:] * (least - len(rows))
    return replace(
        request,
        seeds=[request.seeds[row] for row in rows],
        labels=None if request.labels is None else [request.labels[row] for row in rows],
        condition={name: value[rows] for name, value in request.condition.items()},
    )


def default_batch_size(model: Model, request: SampleRequest) -> int:
    """Samples drawn together: as many as keep a batch's pairs near four chunks."""
    condition = dict(request.condition)
    if "residues" in condition:  # the atoms of the longest chain will do
        longest = int((condition["residues"] >= 0).sum(1).argmax())
        condition = {"residues": condition["residues"][longest : longest + 1]}
    asked = model.domain.queries(request.size, request.window, condition or None)
    pairs = max(model.domain.shape.num_queries, len(asked))
    return max(1, min(len(request.seeds), 4 * request.chunk // pairs))
