"""Shards of samples of runs under evaluation: existing ones are reused, and every process of a launcher draws its share."""

from __future__ import annotations

import dataclasses
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from inrflow_core.evaluation.sampling_plan import SamplingWork
from inrflow_core.runtime import distributed
from inrflow_core.runtime.progress import Log
from inrflow_core.sample_files import sample_shard
from inrflow_core.sampling import optimize, sharded
from inrflow_core.sampling.write_samples import SampleSource
from inrflow_core.storage import atomic_write, typed_json

PAUSE = 0.5
"""Seconds between two checks for samples of other processes."""


@dataclass(frozen=True)
class Speed:
    """How long it took to draw some samples."""

    samples: int
    seconds: float


def is_main() -> bool:
    """Whether this process evaluates the samples; the others only draw."""
    return distributed.find(os.environ, "cpu").rank == 0


def await_samples(is_complete: Callable[[], bool], log: Log) -> None:
    """In the main process, return when the samples of all processes exist; in the others at once."""
    is_done = is_complete()
    if not is_done and is_main():
        log("waiting for the samples of other processes")
    while not is_done and is_main():
        time.sleep(PAUSE)
        is_done = is_complete()


def complete_shard(
    path: Path,
    source: SampleSource,
    origin: Mapping[str, str],
    work: SamplingWork,
    *,
    condition: Mapping[str, np.ndarray],
    title: str,
) -> None:
    """Draw what the shard `path` lacks of the samples of a source, and write its digest.

    `condition` has a row for each sample, as the shard stores it; `title` names the work for the progress.

    Raises:
        UsageError: it holds samples of other options, and `work.overwrite` is off.
        IntegrityError: it is damaged.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    is_drawn = sharded.is_already_sampled(path, source.request, origin, overwrite=work.overwrite)
    if not is_drawn or not sample_shard.matches_digest(path, overwrite=work.overwrite):
        if is_main():
            sample_shard.remove_digest(path)
        shard = sharded.open_sample_shard(source.model, source.request, path, origin, overwrite=work.overwrite)
        shard.condition = condition
        optimized = _optimized(source, compile=work.sampling.compile)
        with timed(path, len(shard.missing())):
            sharded.write_shard(optimized, shard, title=title)
        await_samples(shard.finish, work.reporter.log)
    if is_main():
        sample_shard.write_digest(path)


@contextmanager
def timed(path: Path, count: int) -> Iterator[None]:
    """Record the time of a block that draws `count` samples of the shard or folder `path`, in one process, beside it."""
    start = time.perf_counter()
    yield
    if count and distributed.find(os.environ, "cpu").size == 1:
        speed = Speed(count, time.perf_counter() - start)
        with atomic_write.atomic_write(_speed_file(path)) as beside:
            beside.write_text(json.dumps(dataclasses.asdict(speed)))


def speed_of(path: Path) -> float | None:
    """Samples per second of the process that drew a shard or folder last; None if none is recorded."""
    file = _speed_file(path)
    if not file.is_file():
        return None
    hint = "delete it: it says how fast samples were drawn, and no more"
    speed = typed_json.typed(typed_json.read_json(file, hint=hint), Speed, f"`{file}`", hint=hint)
    return speed.samples / speed.seconds if speed.seconds > 0 else None


def _speed_file(path: Path) -> Path:
    return path.with_name(f"{path.name}.speed.json")


def _optimized(source: SampleSource, *, compile: bool) -> SampleSource:
    """The source with its model and options as they are fastest."""
    model, options = optimize.optimize_for_inference(source.model, source.options, compile=compile)
    return replace(source, model=model, options=options)
