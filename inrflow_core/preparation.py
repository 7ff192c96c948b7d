"""From raw files to shards: one engine for every data set.

A data set's `scan` lists its items in a fixed order; runs of items become shards, each made by one worker from start
to finish. Which items a shard holds depends on their number alone, so any number of workers writes the same bytes.
A finished shard is noted in a journal with its digest, so a killed run goes on with the next one; an unreadable item
is left out and named in the manifest.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from inrflow_core import __version__, journal, manifest, outputs, registry, shards, workers
from inrflow_core.errors import Interrupted, MissingError, OutOfMemory, UsageError
from inrflow_core.examples import BadItem, Example, Item, Plan
from inrflow_core.journal import Piece
from inrflow_core.manifest import Manifest, Skipped, Split, Statistics

Progress = Callable[[int, int], None]
"""Called with the items done and their total."""
Engine = Callable[..., Iterator[dict[str, Any]]]
"""As `workers.each`."""

FEWEST, MOST = 256, 4096
"""Examples of a shard, but for the last ones of a small split."""
MOST_BYTES = 256 << 20
"""Values and conditions of a shard: a worker holds them in memory until the shard is whole."""
SHARDS_OF_A_SPLIT = 16
"""So many at least, where that leaves `FEWEST` examples for each: there is work for this many workers."""
EXACT = 256
"""So many squares of bytes add up to less than 2 ** 24: their sum is exact in float32."""


@dataclass(frozen=True)
class Job:
    """What to prepare, from where, to where."""

    name: str
    source: Path
    out: Path
    config: Any
    limit: int | None = None
    """At most so many items of each split, evenly spread over it."""

    @property
    def dataset(self) -> ModuleType:
        """The data set's file."""
        return registry.find("datasets", self.name)


@dataclass(frozen=True)
class Report:
    """What was prepared, or with a dry run would be."""

    dataset: str
    out: str
    splits: Mapping[str, int]
    shards: int
    made: int
    """Shards that this run made; the others were there already."""
    bytes: int
    skipped: tuple[Skipped, ...] = ()
    seconds: float | None = None
    """Predicted by a dry run."""
    left: int = 0
    """Of a piece: shards of other pieces that nobody has noted as finished."""
    is_whole: bool = True
    """Whether the manifest is there; of a piece the rest then tells of the whole data set, else of its share."""


@dataclass(frozen=True)
class Part:
    """The items of one shard, and what its header needs."""

    name: str
    config: Any
    path: Path
    header: shards.Header
    items: Sequence[Item]
    shape: tuple[int, ...]
    dtype: str
    coordinates: np.ndarray | None
    is_ragged: bool


def job(
    name: str, source: Path | None = None, out: Path | None = None, config: Any = None, limit: int | None = None
) -> Job:
    """A job with the usual places: from `data/NAME` (`INRFLOW_DATA` is another parent) to `shards/NAME`.

    A data set with a `resolution` goes to `shards/NAME-RESOLUTION`.
    """
    name = name.replace("_", "-")
    config = registry.find("datasets", name).Config() if config is None else config
    parent = Path(os.environ.get("INRFLOW_DATA") or "data")
    resolution = getattr(config, "resolution", None)
    folder = name if resolution is None else f"{name}-{resolution}"
    return Job(name, source or parent / name, out or Path("shards") / folder, config, limit)


def scan(job: Job) -> Plan:
    """What a job would read, with its `limit`.

    Raises:
        MissingError: the source is not there, is empty, or is of another layout.
    """
    if getattr(job.dataset, "NEEDS_SOURCE", True) and not job.source.exists():
        raise MissingError(
            f"no data for `{job.name}`: `{job.source}` does not exist",
            hint=f"put the data set there, or name its place with `--source DIR`; docs/data-sets.md says what "
            f"`inrflow prepare {job.name}` reads",
        )
    try:
        plan = job.dataset.scan(job.source, job.config)
    except BadItem as bad:
        raise MissingError(
            f"`{job.source}` cannot be looked through: {bad.reason}", hint="copy the damaged file again"
        ) from bad
    if not any(plan.splits.values()):
        raise MissingError(
            f"`{job.source}` holds no items of `{job.name}`", hint="look into it, or name another `--source`"
        )
    if job.limit is None:
        return plan
    return dataclasses.replace(plan, splits={name: spread(items, job.limit) for name, items in plan.splits.items()})


def spread(items: Sequence[Item], count: int) -> Sequence[Item]:
    """`count` of the items, evenly spread over all of them, so that every class is among them; all if fewer."""
    total = len(items)
    return items if total <= count else [items[place * total // count] for place in range(count)]


def prepare(
    job: Job,
    *,
    workers: int | None = None,
    mode: journal.Mode = "resume",
    progress: Progress | None = None,
    piece: Piece | None = None,
    engine: Engine = workers.each,
) -> Report:
    """Make the shards of a job and their manifest; what is there already is not made again.

    Args:
        workers: processes; None takes one per core, and none beside this one where the scan has read everything.
        mode: `resume` goes on where an earlier run of the same job stopped; `overwrite` removes what is there first;
            `repair` makes the shards again whose digest is not the manifest's.
        piece: make the share of one of several runs that write to the same folder, in any order or at once. The one
            that finds all shares made looks at every shard and writes the manifest; so does a run without a piece,
            which first makes what is left.
        engine: spreads the shards over processes: those of this machine, or of several (`cluster.engine`).

    Raises:
        MissingError: nothing to read, or nothing readable.
        UsageError: other shards are there already, or another run writes there.
        OutOfMemory: too little disk.
        IntegrityError: a repaired shard is not what it was.
        Interrupted: Ctrl-C; finished shards are kept.
    """
    plan = scan(job)
    parts = divide(job, plan)
    _check_disk(job, plan)
    make = functools.partial(_make, job=job, engine=engine, workers=workers, progress=progress)
    if piece is None:
        return _whole(job, plan, parts, make, mode)
    if mode != "resume":
        raise UsageError(f"a piece of a job array cannot {mode}", hint="do that in one run, without pieces")
    told = _share(job, plan, parts, make, piece)
    if told.left:
        return told
    try:
        whole = _whole(job, plan, parts, make, mode)
    except journal.Busy:  # another piece found the same
        return told
    return dataclasses.replace(whole, made=told.made + whole.made)


def _whole(job: Job, plan: Plan, parts: Sequence[Part], make: Callable[..., None], mode: journal.Mode) -> Report:
    """All shards that are left, and the manifest."""
    with journal.opened(job.out, _identity(job, plan), mode) as book:
        left = [part for part in parts if book.needs(part.path.name)]
        make(left, book, len(parts))
        told = book.before or _manifest(job, plan, [book.records[part.path.name] for part in parts])
        book.close(told)
    whole = {entry.file for split in told.splits.values() for entry in split.shards}
    return _report(job, told, made=sum(part.path.name in whole for part in left))


def _share(job: Job, plan: Plan, parts: Sequence[Part], make: Callable[..., None], piece: Piece) -> Report:
    """The share of a piece."""
    mine = piece.of(parts)
    names = {part.path.name for part in mine}
    with journal.shared(job.out, _identity(job, plan), piece, names) as book:
        left = [part for part in mine if book.needs(part.path.name)]
        make(left, book, len(mine))
        if book.before is not None:
            return _report(job, book.before, made=0)
        records = [book.records[name] for name in sorted(names)]
        noted = journal.noted(job.out)
        missing = sum(part.path.name not in noted for part in parts)
    splits: dict[str, int] = {}
    for record in records:
        splits[record["split"]] = splits.get(record["split"], 0) + record.get("count", 0)
    skipped = tuple(Skipped(record["split"], *bad) for record in records for bad in record["skipped"])
    size = sum(record.get("bytes", 0) for record in records)
    made = sum("sha256" in book.records[part.path.name] for part in left)
    return Report(job.name, str(job.out), splits, len(mine), made, size, skipped, left=missing, is_whole=False)


def predict(job: Job, *, workers: int | None = None, piece: Piece | None = None) -> Report:
    """What `prepare` would make, from a scan and a few items read to time them; writes nothing.

    Raises:
        MissingError: nothing to read.
    """
    plan = scan(job)
    parts = divide(job, plan)
    parts = parts if piece is None else piece.of(parts)
    items = [item for part in parts for item in part.items]
    chosen, skipped = spread(items, 16), []
    start = time.perf_counter()
    for item in chosen:
        try:
            job.dataset.read(item, job.config)
        except BadItem as bad:
            skipped.append(Skipped("", item.name, bad.reason))
    each = (time.perf_counter() - start) / max(1, len(chosen))
    counts: dict[str, int] = {}
    for part in parts:
        counts[part.header.split] = counts.get(part.header.split, 0) + len(part.items)
    seconds = each * len(items) / _crew(job, workers, len(parts))
    return Report(job.name, str(job.out), counts, len(parts), 0, _bytes(plan, len(items)), tuple(skipped), seconds)


def divide(job: Job, plan: Plan) -> list[Part]:
    """The items as shards: their number follows from the number of items and their size alone."""
    parts = []
    for split, items in plan.splits.items():
        largest = max(1, min(MOST, MOST_BYTES // max(1, _bytes(plan, 1))))
        wanted = min(largest, max(FEWEST, -(-len(items) // SHARDS_OF_A_SPLIT)))
        count = -(-len(items) // wanted)
        header = shards.Header(job.dataset.DOMAIN, job.name, split, plan.normalisation, plan.classes, _settings(job))
        for number in range(count):
            mine = items[number * len(items) // count : (number + 1) * len(items) // count]
            path = job.out / f"{split}-{number:05d}.h5"
            parts.append(
                Part(job.name, job.config, path, header, mine, plan.shape, plan.dtype, plan.coordinates, plan.is_ragged)
            )
    return parts


def _make(
    parts: Sequence[Part],
    book: journal.Journal,
    total: int,
    *,
    job: Job,
    engine: Engine,
    workers: int | None,
    progress: Progress | None,
) -> None:
    """Make some shards and note them; `total` is the number of all that belong to this run."""
    done, items = 0, sum(len(part.items) for part in parts)

    def advance(count: int) -> None:
        nonlocal done
        done += count
        if progress is not None:
            progress(done, items)

    try:
        for record in engine(make_shard, parts, workers=_crew(job, workers, len(parts)), advance=advance):
            book.note(record)
    except KeyboardInterrupt as error:
        made = total - sum(book.needs(part.path.name) for part in parts)
        raise Interrupted(
            f"interrupted with {made} of {total} shards made", hint="the same command goes on there"
        ) from error


def make_shard(part: Part, advance: workers.Advance) -> dict[str, Any]:
    """Read the items of a shard and write it; returns its line of the journal. Runs in a worker."""
    read = functools.partial(_read, registry.find("datasets", part.name), part)
    examples: list[Example] = []
    skipped: list[tuple[str, str]] = []
    told, last = 0, time.monotonic()
    for place, item in enumerate(part.items, start=1):
        try:
            examples.append(read(item))
        except BadItem as bad:
            skipped.append((item.name, bad.reason))
        if time.monotonic() - last > 0.1:
            advance(place - told)
            told, last = place, time.monotonic()
    record = {"file": part.path.name, "split": part.header.split, "skipped": skipped, **_sums(examples)}
    if examples:
        record |= dataclasses.asdict(_write(part, examples))
    advance(len(part.items) - told)
    return record


def _read(dataset: ModuleType, part: Part, item: Item) -> Example:
    example: Example = dataset.read(item, part.config)
    values = example.values
    start = 1 if part.is_ragged else 0
    if values.shape[start:] != part.shape[start:] or values.dtype != part.dtype:
        raise BadItem(f"its values are {values.dtype} of shape {values.shape}, not {part.dtype} of {part.shape}")
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise BadItem("it holds numbers that are not finite")
    return example


def _write(part: Part, examples: Sequence[Example]) -> manifest.ShardEntry:
    sizes = [len(example.values) for example in examples]
    shape = (sum(sizes), *part.shape[1:]) if part.is_ragged else (len(examples), *part.shape)
    columns = shards.Columns(
        labels=np.array([example.label for example in examples], dtype=np.int64),
        names=[example.name for example in examples],
        offsets=np.cumsum([0, *sizes]) if part.is_ragged else None,
        coordinates=part.coordinates,
        condition={name: np.stack([example.condition[name] for example in examples]) for name in examples[0].condition},
        ragged={name: shards.joined([example.ragged[name] for example in examples]) for name in examples[0].ragged},
    )
    blocks = (example.values if part.is_ragged else example.values[None] for example in examples)
    return shards.write(part.path, part.header, blocks, columns, shape=shape, dtype=part.dtype)


def _sums(examples: Sequence[Example]) -> dict[str, Any]:
    """Sums and sums of squares of each channel, from which the manifest's statistics come; exact for bytes."""
    moments = [_moments(example.values) for example in examples]
    pairs = sum(example.values.size // example.values.shape[-1] for example in examples)
    sums, squares = np.sum(moments, axis=0).tolist() if moments else ([], [])
    return {"sums": sums, "squares": squares, "pairs": pairs}


def _moments(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sum and sum of squares of each channel of one example."""
    channels = values.shape[-1]
    pairs = values.reshape(-1, channels)
    if pairs.dtype == np.uint8 and len(pairs) % EXACT == 0:
        # Ten times as fast as float64: prepare must cost little beside decoding.
        block = pairs.reshape(EXACT, -1).astype(np.float32)
        sums, squares = block.sum(axis=0), np.einsum("ij,ij->j", block, block)
        return tuple(row.reshape(-1, channels).sum(axis=0, dtype=np.float64) for row in (sums, squares))
    block = pairs.astype(np.float64)
    return block.sum(axis=0), np.square(block).sum(axis=0)


def _manifest(job: Job, plan: Plan, records: Sequence[Mapping[str, Any]]) -> Manifest:
    splits = {name: _split([record for record in records if record["split"] == name]) for name in plan.splits}
    splits = {name: split for name, split in splits.items() if split.count}
    skipped = tuple(Skipped(record["split"], *bad) for record in records for bad in record["skipped"])
    if not splits:
        raise MissingError(
            f"none of the {len(skipped):,} items of `{job.source}` can be read; the first, `{skipped[0].name}`: "
            f"{skipped[0].reason}",
            hint="name another `--source`; docs/data-sets.md says what is read",
        )
    return Manifest(**_identity(job, plan), splits=splits, skipped=skipped)


def _split(records: Sequence[Mapping[str, Any]]) -> Split:
    whole = [record for record in records if record.get("count")]
    entries = tuple(
        manifest.ShardEntry(record["file"], record["count"], record["bytes"], record["sha256"]) for record in whole
    )
    if not whole:
        return Split(0, (), Statistics((), ()))
    pairs = sum(record["pairs"] for record in whole)
    mean = np.sum([record["sums"] for record in whole], axis=0) / pairs
    variance = np.sum([record["squares"] for record in whole], axis=0) / pairs - mean**2
    # Nine digits: the last ones of a sum of floats may differ between processors.
    mean, deviation = ([float(f"{x:.9g}") for x in row] for row in (mean, np.sqrt(np.maximum(variance, 0))))
    return Split(sum(entry.count for entry in entries), entries, Statistics(tuple(mean), tuple(deviation)))


def _identity(job: Job, plan: Plan) -> dict[str, Any]:
    """All of a manifest that is known before the first item is read: two jobs with the same give the same shards."""
    shape = (0, *plan.shape[1:]) if plan.is_ragged else plan.shape
    return {
        "dataset": job.name,
        "domain": job.dataset.DOMAIN,
        "version": __version__,
        "shape": shape,
        "dtype": plan.dtype,
        "classes": plan.classes,
        "normalisation": dict(plan.normalisation),
        "settings": _settings(job),
        "source": dataclasses.asdict(plan.fingerprint),
    }


def _settings(job: Job) -> dict[str, Any]:
    """What the shards depend on; a field with the metadata `is_place` says where something lies, and is left out."""
    fields = [field.name for field in dataclasses.fields(job.config) if not field.metadata.get("is_place")]
    told = {name: value for name in fields if (value := getattr(job.config, name)) is not None}
    return told | ({} if job.limit is None else {"limit": job.limit})


def _report(job: Job, told: Manifest, *, made: int) -> Report:
    entries = [entry for split in told.splits.values() for entry in split.shards]
    counts = {name: split.count for name, split in told.splits.items()}
    size = sum(entry.bytes for entry in entries)
    return Report(job.name, str(job.out), counts, len(entries), made, size, told.skipped)


def _crew(job: Job, workers: int | None, tasks: int) -> int:
    if workers is None:
        is_quick = getattr(job.dataset, "IS_READ_BY_SCAN", False)
        workers = (
            1 if is_quick else len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        )
    return max(1, min(workers or 1, tasks))


def _bytes(plan: Plan, items: int) -> int:
    values = int(np.prod(plan.shape, dtype=np.int64)) * np.dtype(plan.dtype).itemsize
    return items * (values + plan.condition_bytes)


def _check_disk(job: Job, plan: Plan) -> None:
    there = [path for path in job.out.glob("*.h5") if path.is_file()] if job.out.is_dir() else []
    wanted = _bytes(plan, sum(map(len, plan.splits.values()))) - sum(path.stat().st_size for path in there)
    place = next(path for path in (job.out.absolute(), *job.out.absolute().parents) if path.exists())
    free = shutil.disk_usage(place).free
    if wanted > free:
        raise OutOfMemory(
            f"the shards need {outputs.spelled(wanted)} more, and {outputs.spelled(free)} are free at `{job.out}`",
            hint=f"free {outputs.spelled(wanted - free)} or more, name another place with `--out`, or prepare fewer items with `--limit`",
        )
