"""Distances of all pairs of two lists of clouds: in several processes, resumable, and foretold.

A matrix is cut in strips of rows, a strip in tiles. Processes compute tiles; this one gathers them and saves a strip
every so often, whole or not at all, so that a kill costs seconds and there are few files. A strip's name says what it
is of: both sets, the distance, the protocol. Each tile is computed alone and by one thread, so that the number of
processes cannot change a bit.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64

from inrflow_core import registry, workers
from inrflow_core.errors import IntegrityError, UsageError
from inrflow_core.evidence import DistanceNeed, Distances
from inrflow_core.outputs import written

Clouds = Float[np.ndarray, "N P 3"]
Others = Float[np.ndarray, "R Q 3"]
Progress = Callable[[int, int], None]
"""Called with the pairs that are done and with all."""

FORMAT = b"inrflow-distances-1"
STRIP, TILE = 64, 8
"""Rows in a file, and rows and columns that a process is given at once: 64 pairs, half a minute of exact EMD."""
SECONDS = 20.0
"""At most so long are results kept in memory alone."""
MOST_NUMBERS = 1 << 28
"""Distances between points held at once on a GPU: 64 pairs of 2048 points, 1 GB for each array of them."""
LITTLE = 10.0
"""Seconds of work that are no reason to start processes."""
TRIALS, TRIAL_SECONDS = 2, 1.0
"""Pairs that are timed to foretell the rest, again and again for so long."""


@dataclass(frozen=True)
class Work:
    """Where and by how many."""

    folder: Path | None = None
    """Keeps what is done; None: nothing is kept."""
    workers: int = 1
    """Processes; a GPU is used by one."""
    device: str = "cpu"


@dataclass(frozen=True)
class Prediction:
    """How long the pairs will take."""

    pairs: int
    per_second: float
    """Pairs per second of one process (or of the GPU)."""
    workers: int
    distance: str

    @property
    def seconds(self) -> float:
        """In all."""
        return self.pairs / self.per_second / self.workers

    def __str__(self) -> str:
        """One line for people."""
        whose = "" if self.workers == 1 else f" in each of {self.workers} processes"
        rate = f"{self.per_second:,.{1 if self.per_second < 100 else 0}f} pairs/s{whose}"
        return f"{self.pairs:,} pairs by `{self.distance}`, {rate}: about {_duration(self.seconds)}"


class Tile(NamedTuple):
    """What a process is given: a corner of a matrix, and the clouds of its rows and columns."""

    distance: str
    device: str
    matrix: int
    row: int
    column: int
    firsts: np.ndarray
    """The clouds that come first in the distance; of the columns where `is_across`, else of the rows."""
    seconds: np.ndarray
    is_across: bool
    is_wanted: np.ndarray
    """Which pairs, rows by columns."""


@dataclass
class Matrix:
    """One matrix in the making; NaN stands for what is not known yet."""

    rows: np.ndarray
    columns: np.ndarray
    is_across: bool
    is_symmetric: bool
    folder: Path | None
    values: np.ndarray = field(init=False)
    wanted: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        """Nothing is known, and wanted are all pairs, those but the diagonal, or those above it."""
        shape = (len(self.rows), len(self.columns))
        self.values = np.full(shape, np.nan)
        self.wanted = np.ones(shape, bool)
        if not self.is_across:
            self.wanted = (
                np.triu(self.wanted, 1) if self.is_symmetric else self.wanted & ~np.eye(len(self.rows), dtype=bool)
            )

    def strips(self) -> Iterator[tuple[Path | None, np.ndarray]]:
        """Each strip's file and its rows of `values`."""
        for number, start in enumerate(range(0, len(self.rows), STRIP)):
            file = None if self.folder is None else self.folder / f"{number:04d}.strip"
            yield file, self.values[start : start + STRIP]

    @property
    def missing(self) -> np.ndarray:
        """The pairs that are wanted and not known."""
        return self.wanted & np.isnan(self.values)

    def whole(self) -> Float64[np.ndarray, "N R"]:
        """The matrix, mirrored where it is symmetric, with a diagonal of 0 among one set."""
        if self.is_across:
            return self.values
        filled = np.where(self.wanted, self.values, 0.0)
        return filled + filled.T if self.is_symmetric else filled


def matrices(
    samples: Clouds,
    reference: Others,
    need: DistanceNeed,
    work: Work | None = None,
    *,
    progress: Progress | None = None,
    say: Callable[[str], None] | None = None,
) -> Distances:
    """All distances that `need` asks for, of clouds that are normalised already.

    Of a distance that is not symmetric, the reference's cloud comes first across the sets and the row's among one.
    With `work.folder` the same call goes on where another stopped. `say` hears before the start how long it will take.

    Raises:
        UsageError: samples and reference have unequal numbers of points.
        IntegrityError: a distance is no finite number.
    """
    work = work or Work()
    if samples.shape[1] != reference.shape[1]:
        counts = f"{samples.shape[1]:,} points in each of the samples, {reference.shape[1]:,} in the reference's"
        raise UsageError(f"clouds of unequal sizes cannot be compared: {counts}", hint="ask for one number of points")
    made = _begun(samples, reference, need, work)
    total, known = (sum(int(of(m).sum()) for m in made) for of in (lambda m: m.wanted, lambda m: m.wanted & ~m.missing))
    if known < total:
        if say or work.workers > 1:
            foretold = predict(samples, reference, need, work, pairs=total - known)
            if foretold.seconds * foretold.workers < LITTLE:
                work, foretold = replace(work, workers=1), replace(foretold, workers=1)
            if say:
                say(str(foretold))
        _fill(made, need, work, _Counter(known, total, progress))
    elif progress:
        progress(total, total)
    for matrix in made:
        _check_finite(matrix, need.distance)
    return Distances(*(matrix.whole() for matrix in made))


def predict(
    samples: Clouds, reference: Others, need: DistanceNeed, work: Work | None = None, *, pairs: int | None = None
) -> Prediction:
    """How long `pairs` (all that `need` asks for, where None) will take, from a few that are timed."""
    work = work or Work()
    if pairs is None:
        pairs = sum(int(m.wanted.sum()) for m in _begun(samples, reference, need, Work(None)))
    on_gpu = _is_batched(need.distance, work.device)
    count = min(len(samples), len(reference), TILE if on_gpu else TRIALS)
    wanted = np.ones((count, count), bool) if on_gpu else np.eye(count, dtype=bool)
    tile = Tile(need.distance, work.device, 0, 0, 0, reference[-count:], samples[-count:], True, wanted)
    _computed(tile._replace(is_wanted=np.eye(count, dtype=bool) & (np.arange(count) == 0)), lambda _: None)  # warms up
    start, rounds, seconds = time.perf_counter(), 0, 0.0
    while seconds < TRIAL_SECONDS:
        _computed(tile, lambda _: None)
        rounds, seconds = rounds + 1, time.perf_counter() - start
    return Prediction(pairs, rounds * int(wanted.sum()) / seconds, 1 if on_gpu else work.workers, need.distance)


def _check_finite(matrix: Matrix, distance: str) -> None:
    broken = np.argwhere(matrix.wanted & ~np.isfinite(matrix.values))
    if len(broken):
        row, column = broken[0]
        raise IntegrityError(
            f"`{distance}` of {len(broken):,} pairs of clouds is no finite number, the first is of clouds {row} and {column}",
            hint="a cloud has points too far out; leave it out, or use the protocol `inrflow`",
        )


class _Counter:
    """Pairs done, told on."""

    def __init__(self, done: int, total: int, progress: Progress | None) -> None:
        self.done, self.total, self.progress = done, total, progress
        self.advance(0)

    def advance(self, count: int) -> None:
        self.done += count
        if self.progress:
            self.progress(self.done, self.total)


def _begun(samples: Clouds, reference: Others, need: DistanceNeed, work: Work) -> list[Matrix]:
    """The matrices asked for, with what is on the disk already: across, among samples, among the reference."""
    is_symmetric = registry.find("distances", need.distance).IS_SYMMETRIC
    sides = [(samples, reference)] + ([(samples, samples), (reference, reference)] if need.is_within else [])
    made = []
    for number, (rows, columns) in enumerate(sides):
        folder = None if work.folder is None else work.folder / _key(rows, columns, need, work, is_across=number == 0)
        matrix = Matrix(rows, columns, number == 0, is_symmetric, folder)
        for file, values in matrix.strips():
            if file is not None and (found := _read(file, values.shape)) is not None:
                values[:] = found
        made.append(matrix)
    return made


def _key(rows: Clouds, columns: Others, need: DistanceNeed, work: Work, *, is_across: bool) -> str:
    """The folder of a matrix: pieces of other clouds, or computed otherwise, never meet in one."""
    kind = torch.device(work.device).type if _is_batched(need.distance, work.device) else "cpu"
    told = f"{need.distance}|{need.normalisation}|{kind}|{is_across}|{rows.shape}|{columns.shape}|{rows.dtype}"
    hashed = hashlib.sha256(FORMAT + told.encode())
    for clouds in (rows, columns):
        hashed.update(np.ascontiguousarray(clouds).data)
    return f"{need.distance}-{hashed.hexdigest()[:24]}"


def _fill(made: list[Matrix], need: DistanceNeed, work: Work, counter: _Counter) -> None:
    """Compute what is missing; what was done is saved, however this ends."""
    num_workers = 1 if _is_batched(need.distance, work.device) else work.workers
    changed: set[tuple[int, int]] = set()
    last = time.monotonic()
    try:
        tiles = _tiles(made, need.distance, work.device)
        for tile, values in workers.each(_computed, tiles, workers=num_workers, advance=counter.advance):
            number, row, column = tile
            part = made[number].values[row : row + len(values), column : column + values.shape[1]]
            np.copyto(part, values, where=~np.isnan(values))
            changed.add((number, row // STRIP))
            if time.monotonic() - last > SECONDS:
                _save(made, changed)
                last = time.monotonic()
    finally:
        _save(made, changed)


def _tiles(made: list[Matrix], distance: str, device: str) -> Iterator[Tile]:
    for number, matrix in enumerate(made):
        missing = matrix.missing
        for row, row_end in pairwise(_cuts(len(matrix.rows))):
            for column, column_end in pairwise(_cuts(len(matrix.columns))):
                wanted = missing[row:row_end, column:column_end]
                if wanted.any():
                    sides = matrix.rows[row:row_end], matrix.columns[column:column_end]
                    firsts, seconds = sides[::-1] if matrix.is_across else sides
                    yield Tile(distance, device, number, row, column, firsts, seconds, matrix.is_across, wanted)


def _cuts(count: int) -> list[int]:
    return [*range(0, count, TILE), count]


def _computed(tile: Tile, advance: workers.Advance) -> tuple[tuple[int, int, int], Float64[np.ndarray, "_ _"]]:
    """A tile's place and its distances; NaN where they were not wanted."""
    distance = registry.find("distances", tile.distance)
    values = np.full(tile.is_wanted.shape, np.nan)
    places = np.argwhere(tile.is_wanted)
    chosen = places[:, ::-1] if tile.is_across else places
    if _is_batched(tile.distance, tile.device):
        values[tile.is_wanted] = _batched(distance, tile, chosen)
        advance(len(places))
    else:
        with _one_thread():
            prepare = getattr(distance, "prepare", lambda cloud: cloud)
            firsts, seconds = ([prepare(cloud) for cloud in side] for side in (tile.firsts, tile.seconds))
            for place, (first, second) in zip(places, chosen, strict=True):
                values[tuple(place)] = distance.between(firsts[first], seconds[second])
                advance(1)
    return (tile.matrix, tile.row, tile.column), values


def _batched(distance: ModuleType, tile: Tile, chosen: Int64[np.ndarray, "K 2"]) -> Float64[np.ndarray, " K"]:
    firsts, seconds = (torch.from_numpy(side).float().to(tile.device) for side in (tile.firsts, tile.seconds))
    size = max(1, MOST_NUMBERS // firsts.shape[1] ** 2)
    parts = [
        distance.batch(firsts[part[:, 0]], seconds[part[:, 1]]).double().cpu()
        for part in torch.from_numpy(chosen.copy()).to(tile.device).split(size)
    ]
    return torch.cat(parts).numpy()


def _is_batched(distance: str, device: str) -> bool:
    return torch.device(device).type != "cpu" and hasattr(registry.find("distances", distance), "batch")


@contextmanager
def _one_thread() -> Iterator[None]:
    """How many threads share a sum changes its last bit."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _save(made: list[Matrix], changed: set[tuple[int, int]]) -> None:
    for number, strip in sorted(changed):
        file, values = list(made[number].strips())[strip]
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
            with written(file) as beside:
                content = np.ascontiguousarray(values, "<f8").tobytes()
                beside.write_bytes(hashlib.sha256(content).digest() + content)
    changed.clear()


def _read(file: Path, shape: tuple[int, ...]) -> Float64[np.ndarray, "_ _"] | None:
    """A strip; None where there is none, or it is damaged and must be computed again."""
    if not file.is_file():
        return None
    told = file.read_bytes()
    digest, content = told[:32], told[32:]
    if hashlib.sha256(content).digest() != digest or len(content) != 8 * shape[0] * shape[1]:
        return None
    return np.frombuffer(content, "<f8").reshape(shape).astype(np.float64)


def _duration(seconds: float) -> str:
    for size, unit in ((86400.0, "d"), (3600.0, "h"), (60.0, "min")):
        if seconds >= 1.5 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"
