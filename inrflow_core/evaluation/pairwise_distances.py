"""Distances of all pairs of two lists of clouds: in several processes, resumable, with an estimate of the time.

A matrix is cut into strips of rows, a strip into tiles. Worker processes compute tiles; the main process collects them
and saves whole strips every 20 seconds, so that a kill costs seconds and there are few files. The folder's name is a
digest of both sets, the distance and the protocol. One thread computes each tile, so that the result does not depend
on the number of processes.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float64, Int64

from inrflow_core.distances import _contract
from inrflow_core.distances._contract import BatchedDistance
from inrflow_core.errors import IntegrityError, UsageError
from inrflow_core.evaluation.distance_matrix import (
    STRIP,
    TILE,
    Clouds,
    DistanceMatrix,
    Others,
    PairwiseJob,
    begin_matrices,
    is_batched,
    save_strips,
)
from inrflow_core.metrics._cloud_inputs import Distances, DistanceSpec
from inrflow_core.runtime import process_pool
from inrflow_core.runtime.progress import Log, Progress, format_duration

SAVE_EVERY_SECONDS = 20.0
"""Seconds between two saves of results."""
MOST_NUMBERS = 1 << 28
"""Distances between points in GPU memory at once: 64 pairs of 2048 points, 1 GB for each array of them."""
MIN_PARALLEL_SECONDS = 10.0
"""Work of less than this time is done by one process."""
TRIALS, TRIAL_SECONDS = 2, 1.0
"""Number of pairs that are timed for an estimate, and for how long."""


@dataclass(frozen=True)
class CostEstimate:
    """The time that pairs of clouds take."""

    pairs: int
    per_second: float
    """Pairs per second of one process (or of the GPU)."""
    workers: int
    distance: str

    @property
    def seconds(self) -> float:
        """The time of all pairs."""
        return self.pairs / self.per_second / self.workers

    def __str__(self) -> str:
        """One line of text."""
        per_process = "" if self.workers == 1 else f" in each of {self.workers} processes"
        rate = f"{self.per_second:,.{1 if self.per_second < 100 else 0}f} pairs/s{per_process}"
        return f"{self.pairs:,} pairs by `{self.distance}`, {rate}: about {format_duration(self.seconds)}"


class DistanceTile(NamedTuple):
    """A task of one process: a tile of a matrix, and the clouds of its rows and columns."""

    distance: str
    device: str
    matrix: int
    row: int
    column: int
    first_clouds: np.ndarray
    """First arguments of the distance: clouds of the columns if `is_across`, else of the rows."""
    second_clouds: np.ndarray
    is_across: bool
    mask: np.ndarray
    """The pairs to compute, rows by columns."""


def compute_distances(
    samples: Clouds,
    reference: Others,
    spec: DistanceSpec,
    work: PairwiseJob | None = None,
    *,
    progress: Progress | None = None,
    log: Log | None = None,
) -> Distances:
    """All distances of `spec` between normalized clouds.

    If a distance is not symmetric, the first cloud is the reference's across the sets, and the row's within one set.
    With `work.folder` an interrupted call resumes. `log` is called with the estimated time before the work starts.

    Raises:
        UsageError: samples and reference have unequal numbers of points.
        IntegrityError: a distance is not finite.
    """
    work = work or PairwiseJob()
    if samples.shape[1] != reference.shape[1]:
        counts = f"{samples.shape[1]:,} points in each of the samples, {reference.shape[1]:,} in the reference's"
        raise UsageError(f"clouds of unequal sizes cannot be compared: {counts}", hint="choose one number of points")
    made = begin_matrices(samples, reference, spec, work)
    total, known = (sum(int(of(m).sum()) for m in made) for of in (lambda m: m.mask, lambda m: m.mask & ~m.missing))
    if known < total:
        if log or work.workers > 1:
            estimate = estimate_cost(samples, reference, spec, work, pairs=total - known)
            if estimate.seconds * estimate.workers < MIN_PARALLEL_SECONDS:
                work, estimate = replace(work, workers=1), replace(estimate, workers=1)
            if log:
                log(str(estimate))
        _fill(made, spec, work, _Counter(known, total, progress))
    elif progress:
        progress(total, total)
    for matrix in made:
        _check_finite(matrix, spec.distance)
    return Distances(*(matrix.whole() for matrix in made))


def estimate_cost(
    samples: Clouds, reference: Others, spec: DistanceSpec, work: PairwiseJob | None = None, *, pairs: int | None = None
) -> CostEstimate:
    """The time of `pairs` pairs (None: all of `spec`), from timing at most a tenth of them for at most a second."""
    work = work or PairwiseJob()
    if pairs is None:
        pairs = sum(int(m.mask.sum()) for m in begin_matrices(samples, reference, spec, PairwiseJob(None)))
    on_gpu = is_batched(spec.distance, work.device)
    count = min(len(samples), len(reference), TILE if on_gpu else TRIALS)
    mask = np.ones((count, count), bool) if on_gpu else np.eye(count, dtype=bool)
    tile = DistanceTile(spec.distance, work.device, 0, 0, 0, reference[-count:], samples[-count:], True, mask)
    _compute_tile(tile._replace(mask=np.eye(count, dtype=bool) & (np.arange(count) == 0)), lambda _: None)  # warms up
    start, rounds, seconds = time.perf_counter(), 0, 0.0
    per_round = int(mask.sum())
    while rounds == 0 or (seconds < TRIAL_SECONDS and 10 * rounds * per_round < pairs):
        _compute_tile(tile, lambda _: None)
        rounds, seconds = rounds + 1, time.perf_counter() - start
    return CostEstimate(pairs, rounds * per_round / seconds, 1 if on_gpu else work.workers, spec.distance)


def _check_finite(matrix: DistanceMatrix, distance: str) -> None:
    broken = np.argwhere(matrix.mask & ~np.isfinite(matrix.values))
    if len(broken):
        row, column = broken[0]
        raise IntegrityError(
            f"`{distance}` of {len(broken):,} pairs of clouds is not finite, the first is of clouds {row} and {column}",
            hint="a cloud has points too far away; leave it out, or use the protocol `inrflow`",
        )


class _Counter:
    """Counts pairs and reports them."""

    def __init__(self, done: int, total: int, progress: Progress | None) -> None:
        self.done, self.total, self.progress = done, total, progress
        self.advance(0)

    def advance(self, count: int) -> None:
        self.done += count
        if self.progress:
            self.progress(self.done, self.total)


def _fill(made: list[DistanceMatrix], spec: DistanceSpec, work: PairwiseJob, counter: _Counter) -> None:
    """Compute missing distances; save the finished ones, also after an error or interruption."""
    num_workers = 1 if is_batched(spec.distance, work.device) else work.workers
    changed: set[tuple[int, int]] = set()
    last = time.monotonic()
    try:
        tiles = _tiles(made, spec.distance, work.device)
        for tile, values in process_pool.map_unordered(
            _compute_tile, tiles, workers=num_workers, advance=counter.advance
        ):
            number, row, column = tile
            part = made[number].values[row : row + len(values), column : column + values.shape[1]]
            np.copyto(part, values, where=~np.isnan(values))
            changed.add((number, row // STRIP))
            if time.monotonic() - last > SAVE_EVERY_SECONDS:
                save_strips(made, changed)
                last = time.monotonic()
    finally:
        save_strips(made, changed)


def _tiles(made: list[DistanceMatrix], distance: str, device: str) -> Iterator[DistanceTile]:
    for number, matrix in enumerate(made):
        missing = matrix.missing
        for row, row_end in pairwise(_cuts(len(matrix.rows))):
            for column, column_end in pairwise(_cuts(len(matrix.columns))):
                mask = missing[row:row_end, column:column_end]
                if mask.any():
                    sides = matrix.rows[row:row_end], matrix.columns[column:column_end]
                    firsts, seconds = sides[::-1] if matrix.is_across else sides
                    yield DistanceTile(distance, device, number, row, column, firsts, seconds, matrix.is_across, mask)


def _cuts(count: int) -> list[int]:
    return [*range(0, count, TILE), count]


def _compute_tile(
    tile: DistanceTile, advance: process_pool.ReportProgress
) -> tuple[tuple[int, int, int], Float64[np.ndarray, "_ _"]]:
    """A tile's matrix, row and column, and its distances; NaN outside its mask."""
    distance = _contract.find(tile.distance)
    values = np.full(tile.mask.shape, np.nan)
    pairs = np.argwhere(tile.mask)
    argument_pairs = pairs[:, ::-1] if tile.is_across else pairs
    if is_batched(tile.distance, tile.device) and distance.batched_distance is not None:
        values[tile.mask] = _batched(distance.batched_distance, tile, argument_pairs)
        advance(len(pairs))
    else:
        with _one_thread():
            firsts, seconds = (
                [distance.prepare(cloud) for cloud in side] for side in (tile.first_clouds, tile.second_clouds)
            )
            for pair, (first, second) in zip(pairs, argument_pairs, strict=True):
                values[tuple(pair)] = distance.file.distance(firsts[first], seconds[second])
                advance(1)
    return (tile.matrix, tile.row, tile.column), values


def _batched(
    distance: BatchedDistance, tile: DistanceTile, argument_pairs: Int64[np.ndarray, "K 2"]
) -> Float64[np.ndarray, " K"]:
    firsts, seconds = (
        torch.from_numpy(side).float().to(tile.device) for side in (tile.first_clouds, tile.second_clouds)
    )
    size = max(1, MOST_NUMBERS // firsts.shape[1] ** 2)
    parts = [
        distance(firsts[part[:, 0]], seconds[part[:, 1]]).double().cpu()
        for part in torch.from_numpy(argument_pairs.copy()).to(tile.device).split(size)
    ]
    return torch.cat(parts).numpy()


@contextmanager
def _one_thread() -> Iterator[None]:
    """Sum on one thread: the number of threads changes the last bit of a sum."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
