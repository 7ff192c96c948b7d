"""Describe which samples to draw and where to evaluate them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from inrflow_core.config.training import LAST_SEED
from inrflow_core.domains._contract import domain_classes
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
    number of samples drawn together; neither changes a sample. `condition` has one row per seed.
    """

    seeds: Sequence[int]
    labels: Sequence[int] | None = None
    size: Size = None
    window: Window = None
    chunk: int = CHUNK
    batch: int | None = None
    condition: Condition = dataclasses.field(default_factory=dict)


def check_seeds(seeds: Any) -> None:
    """Raise UsageError unless there is a seed, and all are whole numbers from 0 to LAST_SEED."""
    if not len(seeds):
        raise UsageError("no seeds are given", hint="give at least one: each seed is one sample")
    if isinstance(seeds, range):
        seeds = [seeds[0], seeds[-1]]
    for seed in seeds:
        if isinstance(seed, bool | str) or not hasattr(seed, "__index__") or not 0 <= int(seed) <= LAST_SEED:
            raise UsageError(f"the seed {seed!r} is not a whole number from 0 to 2^63 - 1", hint="give such numbers")


def choose_size(domain: Any, resolution: str | None, points: int | None) -> Size:
    """Rows and columns, or a number of points, for a model's domain; None for the training size.

    Raises:
        UsageError: a size of the wrong kind, or fewer than one point.
    """
    requested = {"--resolution": resolution, "--points": None if points is None else str(points)}
    for option, text in requested.items():
        if text is not None and option != domain.SIZE_OPTION:
            other = f"use `{domain.SIZE_OPTION}`" if domain.SIZE_OPTION else "leave it out"
            raise UsageError(f"`{option}` does not apply: the model samples {domain.NOUN}", hint=other)
    text = requested[domain.SIZE_OPTION] if domain.SIZE_OPTION else None
    return None if text is None else domain.parse_size(text)


def domains_of_options(
    resolution: str | None = None, points: int | None = None, window: Window = None
) -> tuple[str, ...] | None:
    """The domains whose samples have the requested kind of size and window; None if nothing is requested."""
    if resolution is None and points is None and window is None:
        return None
    requested = {"--resolution": resolution, "--points": points}
    options = {option for option, value in requested.items() if value is not None}
    return tuple(
        domain.NAME
        for domain in domain_classes()
        if options <= {domain.SIZE_OPTION} and (window is None or domain.HAS_WINDOWS)
    )


def domains_of_files(paths: Sequence[Path]) -> tuple[str, ...]:
    """The domains that can read one of the files, by its suffix, to invert it."""
    return tuple(domain.NAME for domain in domain_classes() if any(map(domain.accepts, paths)))


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
    num_queries = model.domain.num_queries(request.size, request.window, request.condition or None)
    pairs = max(model.domain.shape.num_queries, num_queries)
    return max(1, min(len(request.seeds), 4 * request.chunk // pairs))
