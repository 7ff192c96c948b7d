"""Many samples into shards: drawn in pieces, by any number of processes, and gone on with after a kill."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inrflow_cli import console
from inrflow_core.errors import Interrupted

if TYPE_CHECKING:
    import numpy as np

    from inrflow_core.models import Model
    from inrflow_core.runtime.query_budget import QueryBudget
    from inrflow_core.sample_files.sample_folder import SampleFolder
    from inrflow_core.sample_files.sample_shard import SampleShard
    from inrflow_core.sampling.reference_inputs import ReferenceSamplingPlan
    from inrflow_core.sampling.request import SampleRequest

WORKER_ENV = "INRFLOW_WORKER"
"""Set in a process that `--workers` started: the number of the process that did, without which it stops."""


@dataclass(frozen=True)
class SampleSource:
    """What draws the samples of a list of seeds, by their place in it."""

    model: Model
    request: SampleRequest
    how: Any
    room: QueryBudget
    planned: ReferenceSamplingPlan | None = None
    """Where each sample's condition comes from, if it is made when the sample is drawn."""

    def samples(self, places: Sequence[int]) -> Iterator[tuple[slice, np.ndarray]]:
        """The samples at some places, some at a time: which of the places, and their values."""
        from inrflow_core.sampling import reference_inputs, sample

        request = self.request
        if self.planned is None:
            told = {name: value[list(places)] for name, value in request.condition.items()}
        else:
            told = reference_inputs.condition(self.model, self.planned, places)
        part = replace(
            request,
            seeds=[request.seeds[place] for place in places],
            labels=None if request.labels is None else [request.labels[place] for place in places],
            condition=told,
            batch=self.batch,
        )
        return sample.iter_samples(self.model, part, self.how, room=self.room)

    @property
    def batch(self) -> int:
        """Samples of a piece."""
        from inrflow_core.sampling.request import default_batch_size

        return self.request.batch or default_batch_size(self.model, self.request)


def write(
    source: SampleSource,
    out: Path,
    origin: Mapping[str, str],
    *,
    overwrite: bool,
    helpers: Callable[[], Sequence[Any]] = tuple,
) -> list[Path]:
    """Draw this process's share of what an .h5 file or a folder of shards lacks; returns the file or the folder.

    `helpers` starts processes at the same folder; what they left undone when they ended is done here.
    """
    from inrflow_core.sampling import sharded

    wanted = (source.model, source.request, out, origin)
    try:
        if out.suffix:
            is_whole = write_shard(source, sharded.open_sample_shard(*wanted, overwrite=overwrite))
        else:
            is_whole = write_folder(source, sharded.open_sample_folder(*wanted, overwrite=overwrite), helpers)
    except KeyboardInterrupt as error:
        raise Interrupted(
            f"interrupted; the samples that `{out}` has are kept", hint="the same command goes on from there"
        ) from error
    if not is_whole:
        console.info(f"`{out}` waits for what other processes draw; the last of them finishes it")
    return [out]


def write_shard(source: SampleSource, shard: SampleShard, *, title: str = "sampling") -> bool:
    """Draw what a shard lacks, as far as it is this process's share; whether the shard is finished."""
    with ExitStack() as failed:
        failed.callback(shard.leave)
        _draw(source, [(range(len(shard.seeds)), shard)], title)
        failed.pop_all()
    return shard.finish()


def write_folder(source: SampleSource, folder: SampleFolder, helpers: Callable[[], Sequence[Any]]) -> bool:
    """The same of a folder of shards that is begun."""
    from inrflow_core.shards import shard_dataset

    if folder.is_finished():
        shard_dataset.ShardDataset(folder.folder)  # which checks that all of it is there
        console.info(f"`{folder.folder}` holds all of its {len(folder.seeds):,} samples already")
        return True
    others = helpers()
    for title in ("sampling", "sampling what is left"):
        parts = [(places, shard) for places, shard in folder.parts() if shard is not None]
        if parts:
            _draw(source, parts, title)
        for other in others:
            other.join()
    return WORKER_ENV in os.environ or folder.finish()


def start_workers(command: Callable[..., None], options: Mapping[str, Any], count: int) -> Callable[[], list[Any]]:
    """What starts `count` more processes that run a command with the same options, each with its share of the CPU.

    They take GPUs in turn where there are some, are at the work until it is done, and stop when this process is gone.
    """

    def start() -> list[Any]:
        import torch

        spawn = multiprocessing.get_context("spawn")
        threads = options["threads"] or max(1, (os.cpu_count() or 1) // (count + 1))
        others = []
        for number in range(1, count + 1):
            own = {**options, "workers": 1, "threads": threads, "json": False, "overwrite": False}
            own |= {"save_field": None, "half_field": False}  # which this process has kept
            own["device"] = options["device"] or _device(number)
            others.append(spawn.Process(target=_work, args=(command, own, os.getpid()), daemon=True))
        for other in others:
            other.start()
        if others:
            torch.set_num_threads(threads)  # this process's own share
        return others

    return start


def _draw(source: SampleSource, parts: Sequence[tuple[range, SampleShard]], title: str) -> None:
    """Draw this process's share of some shards, and show how far it is; finish those that nothing lacks."""
    from inrflow_core.runtime import distributed
    from inrflow_core.sampling import sharded

    here = distributed.find(os.environ, "cpu")
    total, there, mine = 0, 0, []
    for places, shard in parts:
        missing = shard.missing().tolist()
        total, there = total + len(places), there + len(places) - len(missing)
        mine.append(sharded.rank_pieces(missing, len(places), source.batch, rank=here.rank, size=here.size))
    if there:
        console.info(f"{there:,} of {total:,} samples are there already")
    count = sum(len(piece) for pieces in mine for piece in pieces)
    with console.progress(count, "samples", title=title) as shown:
        for (places, shard), pieces in zip(parts, mine, strict=True):
            for piece in pieces:
                _draw_piece(source, places, shard, piece)
                shown.advance(len(piece))
            shard.finish()


def _draw_piece(source: SampleSource, places: range, shard: SampleShard, piece: Sequence[int]) -> None:
    """Draw and keep one piece of a shard, unless another process has it in hand."""
    _stop_alone()
    with shard.claimed(piece) as is_mine:
        if not is_mine:
            return
        labels = source.request.labels
        for part, values in source.samples([places[row] for row in piece]):
            rows = piece[part]
            shard.write(rows, values, None if labels is None else [labels[places[row]] for row in rows])


def _work(command: Callable[..., None], options: Mapping[str, Any], parent: int) -> None:
    """What a process of `--workers` does: the command, silently but for its errors."""
    from inrflow_cli import app
    from inrflow_core.errors import InrflowError

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent too, which ends this process with it
    os.environ[WORKER_ENV] = str(parent)
    console.stderr().quiet = True
    try:
        command(**options)
    except (InrflowError, MemoryError, OSError, RuntimeError) as error:
        known = app.known_error(error)
        if known is None:
            raise
        console.stderr().quiet = False
        console.warn(f"a process of `--workers` stopped: {known.message}")
        raise SystemExit(int(known.code)) from error


def _stop_alone() -> None:
    """End a process of `--workers` whose parent is gone."""
    if os.environ.get(WORKER_ENV, str(os.getppid())) != str(os.getppid()):
        raise SystemExit(0)


def _device(number: int) -> str | None:
    import torch

    return f"cuda:{number % torch.cuda.device_count()}" if torch.cuda.is_available() else None
