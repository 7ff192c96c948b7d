"""From raw files to shards: one pipeline for every data set.

A data set's `scan` lists its items in a fixed order; consecutive items become a shard, made by one worker. The items of
a shard depend only on their number and size, so any number of workers writes the same bytes. A journal records each
finished shard with its digest, so a killed run resumes with the next one; unreadable items are skipped and listed in the
manifest.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from inrflow_core.datasets._contract import DatasetIndex
from inrflow_core.errors import Interrupted, MissingError, UsageError
from inrflow_core.preparation import journal, notes
from inrflow_core.preparation.estimate import check_disk, default_workers
from inrflow_core.preparation.job import (
    PrepareJob,
    Report,
    ShardTask,
    manifest_identity,
    manifest_without_shards,
    plan_shards,
    scan,
)
from inrflow_core.preparation.job_array import ArrayTask
from inrflow_core.preparation.shard_task import make_shard
from inrflow_core.runtime import process_pool
from inrflow_core.runtime.progress import Progress
from inrflow_core.shards import manifest
from inrflow_core.shards.manifest import ChannelStats, Manifest, Skipped, Split

Engine = Callable[..., Iterator[dict[str, Any]]]
"""As `process_pool.map_unordered`."""


def prepare(
    job: PrepareJob,
    *,
    workers: int | None = None,
    mode: journal.Mode = "resume",
    progress: Progress | None = None,
    piece: ArrayTask | None = None,
    engine: Engine = process_pool.map_unordered,
) -> Report:
    """Make the shards of a job and their manifest; finished shards are not made again.

    Args:
        workers: number of processes; None takes one per core, or one where the scan has read everything.
        mode: `resume` continues an earlier run of the same job; `overwrite` deletes the folder's shards first;
            `repair` makes damaged shards again.
        piece: make only the share of one of several runs that write to the same folder, in any order or at once. The
            run that finds all shares complete checks every shard and writes the manifest; so does a run without a
            piece, which first makes the missing shards.
        engine: distributes the shards over processes of this machine, or of several (`ray_pool.ray_map`).

    Raises:
        MissingError: there are no items, or no readable ones.
        UsageError: the folder has other shards, or another run writes there.
        OutOfMemory: too little disk.
        IntegrityError: a repaired shard differs from the original.
        Interrupted: Ctrl-C; finished shards are kept.
    """
    plan = scan(job)
    if mode != "overwrite":
        job = dataclasses.replace(job, name=journal.recorded_dataset(job.out, job.name))
    parts = plan_shards(job, plan)
    check_disk(job, plan)
    make = functools.partial(_make, job=job, engine=engine, workers=workers, progress=progress)
    if piece is None:
        return _whole(job, plan, parts, make, mode)
    if mode != "resume":
        raise UsageError(f"a piece of a job array cannot {mode}", hint="do that in one run, without pieces")
    own = _share(job, plan, parts, make, piece)
    if own.num_pending:
        return own
    try:
        whole = _whole(job, plan, parts, make, mode)
    except journal.LockedByAnotherRun:  # another run found the same
        return own
    return dataclasses.replace(whole, num_written=own.num_written + whole.num_written)


def _whole(
    job: PrepareJob, plan: DatasetIndex, parts: Sequence[ShardTask], make: Callable[..., None], mode: journal.Mode
) -> Report:
    """Make all missing shards and write the manifest."""
    with journal.open_journal(job.out, manifest_identity(job, plan), mode) as book:
        left = [part for part in parts if book.is_pending(part.path.name)]
        make(left, book, len(parts))
        content = book.previous or _manifest(job, plan, [book.records[part.path.name] for part in parts])
        found = (*plan.notes, *(notes.on_remarks(book.records.values()) if book.previous is None else ()))
        book.close(content)
    whole = {entry.file for split in content.splits.values() for entry in split.shards}
    report = _report(job, content, num_written=sum(part.path.name in whole for part in left))
    return dataclasses.replace(report, notes=found)


def _share(
    job: PrepareJob, plan: DatasetIndex, parts: Sequence[ShardTask], make: Callable[..., None], piece: ArrayTask
) -> Report:
    """Make the share of one run of a job array."""
    mine = piece.of(parts)
    names = {part.path.name for part in mine}
    with journal.open_shared_journal(job.out, manifest_identity(job, plan), piece, names) as book:
        left = [part for part in mine if book.is_pending(part.path.name)]
        make(left, book, len(mine))
        if book.previous is not None:
            return _report(job, book.previous, num_written=0)
        records = [book.records[name] for name in sorted(names)]
        finished = journal.completed_shards(job.out)
        missing = sum(part.path.name not in finished for part in parts)
    splits: dict[str, int] = {}
    for record in records:
        splits[record["split"]] = splits.get(record["split"], 0) + record.get("count", 0)
    skipped = tuple(Skipped(record["split"], *bad) for record in records for bad in record["skipped"])
    size = sum(record.get("bytes", 0) for record in records)
    made = sum("sha256" in book.records[part.path.name] for part in left)
    return Report(job.name, str(job.out), splits, len(mine), made, size, skipped, num_pending=missing, is_whole=False)


def _make(
    parts: Sequence[ShardTask],
    book: journal.Journal,
    total: int,
    *,
    job: PrepareJob,
    engine: Engine,
    workers: int | None,
    progress: Progress | None,
) -> None:
    """Make some shards and record them; `total` is the number of all shards of this run."""
    done, items = 0, sum(len(part.items) for part in parts)

    def advance(count: int) -> None:
        nonlocal done
        done += count
        if progress is not None:
            progress(done, items)

    try:
        for record in engine(make_shard, parts, workers=default_workers(job, workers, len(parts)), advance=advance):
            book.record(record)
    except KeyboardInterrupt as error:
        made = total - sum(book.is_pending(part.path.name) for part in parts)
        raise Interrupted(
            f"interrupted with {made} of {total} shards made", hint="run the same command again to resume"
        ) from error


def _manifest(job: PrepareJob, plan: DatasetIndex, records: Sequence[Mapping[str, Any]]) -> Manifest:
    splits = {name: _split([record for record in records if record["split"] == name]) for name in plan.splits}
    splits = {name: split for name, split in splits.items() if split.count}
    skipped = tuple(Skipped(record["split"], *bad) for record in records for bad in record["skipped"])
    if not splits:
        raise MissingError(
            f"none of the {len(skipped):,} items of `{job.source}` can be used"
            + "".join(f", and {setting} leaves out {left.count:,} others" for setting, left in plan.left_out.items())
            + f"; the first, `{skipped[0].name}`: {skipped[0].reason}",
            hint="name another `--source`; docs/data-sets.md says what is read",
        )
    return dataclasses.replace(
        manifest_without_shards(job, plan), splits=splits, skipped=skipped, left_out=dict(plan.left_out)
    )


def _split(records: Sequence[Mapping[str, Any]]) -> Split:
    whole = [record for record in records if record.get("count")]
    entries = tuple(
        manifest.ShardEntry(record["file"], record["count"], record["bytes"], record["sha256"]) for record in whole
    )
    if not whole:
        return Split(0, (), ChannelStats((), ()))
    pairs = sum(record["pairs"] for record in whole)
    mean = np.sum([record["sums"] for record in whole], axis=0) / pairs
    variance = np.sum([record["squares"] for record in whole], axis=0) / pairs - mean**2
    # Nine digits: the last ones of a sum of floats can differ between processors.
    mean, std = ([float(f"{x:.9g}") for x in row] for row in (mean, np.sqrt(np.maximum(variance, 0))))
    return Split(sum(entry.count for entry in entries), entries, ChannelStats(tuple(mean), tuple(std)))


def _report(job: PrepareJob, content: Manifest, *, num_written: int) -> Report:
    entries = [entry for split in content.splits.values() for entry in split.shards]
    counts = {name: split.count for name, split in content.splits.items()}
    size = sum(entry.bytes for entry in entries)
    return Report(
        job.name, str(job.out), counts, len(entries), num_written, size, content.skipped, left_out=content.left_out
    )
