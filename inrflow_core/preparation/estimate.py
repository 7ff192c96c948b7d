"""Estimate the time and disk space of `prepare` from a few items read in advance."""

from __future__ import annotations

import dataclasses
import os
import shutil
import time

from inrflow_core.datasets._contract import DatasetIndex
from inrflow_core.errors import OutOfMemory, UnreadableItemError
from inrflow_core.preparation.job import PrepareJob, Report, evenly_spaced, items_bytes, plan_shards, scan
from inrflow_core.preparation.job_array import ArrayTask
from inrflow_core.runtime.progress import format_bytes
from inrflow_core.shards.manifest import Skipped


def estimate(job: PrepareJob, *, workers: int | None = None, piece: ArrayTask | None = None) -> Report:
    """The report of a dry run, from a scan and the time of a few items; writes nothing.

    Raises:
        MissingError: nothing to read.
    """
    plan = scan(job)
    parts = plan_shards(job, plan)
    parts = parts if piece is None else piece.of(parts)
    items = [item for part in parts for item in part.items]
    probed, skipped = evenly_spaced(items, 16), []
    start = time.perf_counter()
    for item in probed:
        try:
            job.dataset.read(item, job.config)
        except UnreadableItemError as bad:
            skipped.append(Skipped("", item.name, bad.reason))
    each = (time.perf_counter() - start) / max(1, len(probed))
    counts: dict[str, int] = {}
    for part in parts:
        counts[part.header.split] = counts.get(part.header.split, 0) + len(part.items)
    seconds = each * len(items) / default_workers(job, workers, len(parts))
    size = items_bytes(plan, len(items))
    report = Report(job.name, str(job.out), counts, len(parts), 0, size, tuple(skipped), seconds)
    return dataclasses.replace(report, left_out=plan.left_out, notes=plan.notes)


def default_workers(job: PrepareJob, workers: int | None, tasks: int) -> int:
    """Worker processes for `tasks` shards: `workers`, by default one per core; one where the scan has read everything."""
    if workers is None and not job.dataset.IS_READ_BY_SCAN:
        workers = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, min(workers or 1, tasks))


def check_disk(job: PrepareJob, plan: DatasetIndex) -> None:
    """Raise OutOfMemory unless the disk has space for the missing shards."""
    written = [path for path in job.out.glob("*.h5") if path.is_file()] if job.out.is_dir() else []
    needed = items_bytes(plan, sum(map(len, plan.splits.values()))) - sum(path.stat().st_size for path in written)
    folder = next(path for path in (job.out.absolute(), *job.out.absolute().parents) if path.exists())
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise OutOfMemory(
            f"the shards need {format_bytes(needed)} more, and {format_bytes(free)} are free at `{job.out}`",
            hint=f"free {format_bytes(needed - free)} or more, name another place with `--out`, or prepare fewer items with `--limit`",
        )
