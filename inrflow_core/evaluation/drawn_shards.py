"""Shards of samples of runs under evaluation: existing ones are reused, and every process of a launcher draws its share."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from inrflow_core.evaluation.sampling_plan import SamplingWork
from inrflow_core.runtime import distributed
from inrflow_core.runtime.progress import Log
from inrflow_core.sample_files import sample_shard
from inrflow_core.sampling import optimize, sharded
from inrflow_core.sampling.write_samples import SampleSource

PAUSE = 0.5
"""Seconds between two checks for samples of other processes."""


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
        sharded.write_shard(_optimized(source, compile=work.sampling.compile), shard, title=title)
        await_samples(shard.finish, work.reporter.log)
    if is_main():
        sample_shard.write_digest(path)


def _optimized(source: SampleSource, *, compile: bool) -> SampleSource:
    """The source with its model and options as they are fastest."""
    model, options = optimize.optimize_for_inference(source.model, source.options, compile=compile)
    return replace(source, model=model, options=options)
