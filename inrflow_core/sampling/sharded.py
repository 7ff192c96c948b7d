"""Sample into shards: many samples, several processes, resumed after a kill."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from inrflow_core import models
from inrflow_core.domains._contract import HasFrames
from inrflow_core.errors import Exit, InrflowError, Interrupted, UsageError
from inrflow_core.models import Model
from inrflow_core.runtime import distributed, memory
from inrflow_core.runtime.memory import is_out_of_memory
from inrflow_core.runtime.progress import SILENT, Log, Reporter, first_line
from inrflow_core.sample_files.sample_folder import SampleFolder
from inrflow_core.sample_files.sample_shard import SampleShard
from inrflow_core.sampling import optimize
from inrflow_core.sampling.options import options_for_labels
from inrflow_core.sampling.provenance import shared_settings
from inrflow_core.sampling.request import SampleRequest
from inrflow_core.sampling.write_samples import SampleSource
from inrflow_core.sets import Condition
from inrflow_core.shards import shard_dataset, shard_file
from inrflow_core.shards.schema import Header

WORKER_ENV = "INRFLOW_WORKER"
"""Set in a worker process: the id of the process that started it, without which it stops."""


@dataclass(frozen=True)
class SampleJob:
    """Samples into an .h5 file or a folder of shards, as plain values that can be sent to another process."""

    weights: Path
    """The weights file of the model, as `run.resolve_weights` returns it."""
    out: Path
    """An .h5 file, or a folder of shards."""
    request: SampleRequest
    origin: Mapping[str, str] = field(default_factory=dict)
    """As `provenance.provenance` returns it."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of `options.sampling_options`, but for `guide`."""
    guide: Path | None = None
    """The weights file of a model to guide with."""
    device: str | None = None
    """Default: a GPU if there is one."""
    threads: int | None = None
    """CPU threads of each process. Default: an equal share of the cores."""
    compile: bool = False

    def open_source(self, reporter: Reporter = SILENT, model: Model | None = None) -> SampleSource:
        """Load the model, unless the caller has it, and its guide; optimize both for inference.

        Raises:
            MissingError, IntegrityError: a weights file does not exist, or is damaged.
            UsageError: an option that the model does not have.
        """
        memory.retain_freed_pages()
        device = distributed.process_device(self.device)
        model = models.load(self.weights, device) if model is None else model
        guide = None if self.guide is None else models.load(self.guide, device)
        options = options_for_labels(model, self.request.labels, guide=guide, **self.options)
        model, options = optimize.optimize_for_inference(model, options, compile=self.compile)
        return SampleSource(model, self.request, options, reporter=reporter)


def sample_shards(
    job: SampleJob,
    *,
    workers: int = 1,
    overwrite: bool = False,
    reporter: Reporter = SILENT,
    source: SampleSource | None = None,
) -> list[Path]:
    """Draw the samples that an .h5 file or a folder of shards lacks; returns the file or the folder.

    Several calls may work at one folder, one after the other or at once, also in the processes of a launcher: each
    draws its share. The bytes do not depend on their number.

    Args:
        workers: processes on this machine that fill a folder together. What they left undone when they ended is done
            by this one. They send their errors to `reporter.warn`, which must therefore be a function of a module.
        source: what `job.open_source()` returns, if the caller has it already.

    Raises:
        UsageError: the output holds something else, or samples of other options, without `overwrite`.
        Interrupted: on Ctrl-C; the samples drawn so far are kept, and the same call resumes.
    """
    source = source or job.open_source(reporter)
    start = start_workers(job, workers - 1, reporter.warn)
    shard_arguments = (source.model, source.request, job.out, job.origin)
    try:
        if job.out.suffix:
            if not overwrite and is_already_sampled(job.out, source.request, job.origin):
                reporter.log(f"`{job.out}` holds all of its {len(source.request.seeds):,} samples already")
                return [job.out]
            is_whole = write_shard(source, open_sample_shard(*shard_arguments, overwrite=overwrite))
        else:
            is_whole = write_folder(source, open_sample_folder(*shard_arguments, overwrite=overwrite), start)
    except KeyboardInterrupt as error:
        raise Interrupted(
            f"interrupted; the samples in `{job.out}` are kept", hint="run the same command again to resume"
        ) from error
    if not is_whole:
        reporter.log(f"this process is done; the last one still sampling will finish `{job.out}`")
    return [job.out]


def write_shard(source: SampleSource, shard: SampleShard, *, title: str = "sampling") -> bool:
    """Draw this process's share of what a shard lacks; returns whether the shard is finished."""
    with ExitStack() as failed:
        failed.callback(shard.release)
        _draw(source, [(range(len(shard.seeds)), shard)], title)
        failed.pop_all()
    return shard.finish()


def write_folder(source: SampleSource, folder: SampleFolder, start: Callable[[], Sequence[Any]] = tuple) -> bool:
    """Draw this process's share of what a folder of shards lacks; returns whether the folder is finished.

    `start` starts processes that work at the same folder, and returns them.
    """
    if folder.is_finished():
        shard_dataset.ShardDataset(folder.folder)  # which checks that all of it is there
        source.reporter.log(f"`{folder.folder}` holds all of its {len(folder.seeds):,} samples already")
        return True
    others = start()
    for title in ("sampling", "sampling the rest"):
        parts = [(indices, shard) for indices, shard in folder.shards() if shard is not None]
        if parts:
            _draw(source, parts, title)
        for other in others:
            other.join()
    return WORKER_ENV in os.environ or folder.finish()


def start_workers(job: SampleJob, count: int, warn: Log) -> Callable[[], list[Any]]:
    """Return a function that starts `count` more processes at a job and returns them.

    They take GPUs in turn where there are some, and end with this process.
    """

    def start() -> list[Any]:
        spawn = multiprocessing.get_context("spawn")
        threads = job.threads or max(1, (os.cpu_count() or 1) // (count + 1))
        request = replace(job.request, condition=_on_cpu(job.request.condition))
        others = []
        for number in range(1, count + 1):
            own = replace(job, request=request, threads=threads, device=job.device or _device(number))
            others.append(spawn.Process(target=_work, args=(own, warn, os.getpid()), daemon=True))
        for other in others:
            other.start()
        if others:
            torch.set_num_threads(threads)  # this process's own share
        return others

    return start


def _work(job: SampleJob, warn: Log, parent: int) -> None:
    """What a worker process does: its share of a job, silent except for errors."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent too, which ends this process with it
    os.environ[WORKER_ENV] = str(parent)
    if job.threads is not None:
        torch.set_num_threads(job.threads)
    try:
        sample_shards(job)
    except (InrflowError, MemoryError, OSError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not is_out_of_memory(error):
            raise
        warn(f"a process of `--workers` stopped: {first_line(error)}")
        raise SystemExit(int(error.code if isinstance(error, InrflowError) else Exit.MEMORY)) from error


def _on_cpu(condition: Condition) -> Condition:
    """A condition as another process can receive it; one row that is repeated stays one."""
    return {
        name: value[:1].cpu().expand(value.shape) if len(value) and value.stride(0) == 0 else value.cpu()
        for name, value in condition.items()
    }


def _device(number: int) -> str | None:
    return f"cuda:{number % torch.cuda.device_count()}" if torch.cuda.is_available() else None


def _draw(source: SampleSource, parts: Sequence[tuple[range, SampleShard]], title: str) -> None:
    """Draw this process's share of some shards, and finish those that are then complete."""
    world = distributed.find(os.environ, "cpu")
    total, num_existing, own_pieces = 0, 0, []
    for indices, shard in parts:
        missing = shard.missing().tolist()
        total, num_existing = total + len(indices), num_existing + len(indices) - len(missing)
        own_pieces.append(rank_pieces(missing, len(indices), source.batch, rank=world.rank, size=world.size))
    if num_existing:
        source.reporter.log(f"{num_existing:,} of {total:,} samples exist already")
    count, done = sum(len(piece) for pieces in own_pieces for piece in pieces), 0
    with source.reporter.progress(title, "samples", count) as progress:
        for (indices, shard), pieces in zip(parts, own_pieces, strict=True):
            for piece in pieces:
                _draw_piece(source, indices, shard, piece)
                done += len(piece)
                progress(done, count)
            shard.finish()


def _draw_piece(source: SampleSource, indices: range, shard: SampleShard, piece: Sequence[int]) -> None:
    """Draw and save one piece of a shard, unless another process is drawing it."""
    _stop_without_parent()
    with shard.claim(piece) as is_mine:
        if not is_mine:
            return
        labels = source.request.labels
        for part, values in source.at([indices[row] for row in piece]):
            rows = piece[part]
            shard.write(rows, values, None if labels is None else [labels[indices[row]] for row in rows])


def _stop_without_parent() -> None:
    """End a worker process whose parent is gone."""
    if os.environ.get(WORKER_ENV, str(os.getppid())) != str(os.getppid()):
        raise SystemExit(0)


def is_already_sampled(
    out: Path, request: SampleRequest, origin: Mapping[str, str], *, overwrite: bool = False
) -> bool:
    """Whether `out` already has the samples of a request.

    Raises:
        UsageError: it holds others, and `overwrite` is off.
        IntegrityError: it is damaged.
    """
    if not out.is_file():
        return False
    existing = shard_file.ShardFile(out)
    labels = [-1] * len(request.seeds) if request.labels is None else list(request.labels)
    is_same = (
        existing.header.settings == shared_settings(origin)
        and existing.seeds is not None
        and existing.seeds.tolist() == list(request.seeds)
        and existing.labels.tolist() == labels
    )
    if not is_same and not overwrite:
        raise UsageError(f"`{out}` holds samples of other options", hint="add `--overwrite`, or choose another folder")
    return is_same


def open_sample_shard(
    model: Model, request: SampleRequest, out: Path, origin: Mapping[str, str], *, overwrite: bool = False
) -> SampleShard:
    """The shard `out` for the samples of a request, created or resumed.

    Raises:
        UsageError: it exists already, or was started with other settings.
    """
    settings = _shard_settings(model, request, origin)
    shard = SampleShard.create_or_resume(
        out, list(request.seeds), **settings, labels=request.labels, overwrite=overwrite
    )
    shard.condition = _recorded_cameras(model, request)
    return shard


def open_sample_folder(
    model: Model, request: SampleRequest, out: Path, origin: Mapping[str, str], *, overwrite: bool = False
) -> SampleFolder:
    """The folder `out` of shards for the samples of a request, created or resumed.

    Raises:
        UsageError: it holds something else, or was started with other settings.
    """
    settings = _shard_settings(model, request, origin)
    folder = SampleFolder.create_or_resume(out, request.seeds, **settings, labels=request.labels, overwrite=overwrite)
    folder.condition = _recorded_cameras(model, request)
    return folder


def _recorded_cameras(model: Model, request: SampleRequest) -> Mapping[str, np.ndarray]:
    """The cameras of samples that are views of scenes, a row for each seed; empty for others."""
    if not model.domain.HAS_CAMERAS:
        return {}
    return model.domain.condition_of_samples(request.size, request.condition, len(request.seeds))


def _shard_settings(model: Model, request: SampleRequest, origin: Mapping[str, str]) -> dict[str, Any]:
    """Header, shape and type of a shard of a request's samples."""
    spec = model.domain.output_spec(request.size)
    normalization = dict(model.metadata.get("normalization") or {})
    if isinstance(model.domain, HasFrames):
        rate = model.domain.playback_rate(request.size, model.frame_rate)
        normalization |= {} if rate is None else {"fps": rate}
    header = Header(
        domain=model.domain.NAME,
        dataset=f"samples of {model.preset.name}",
        split="samples",
        normalization=normalization,
        classes=tuple(model.metadata.get("classes") or ()),
        settings=shared_settings(origin),
    )
    return {"header": header, "shape": spec.shape, "dtype": spec.dtype}


def rank_pieces(missing: Sequence[int], total: int, batch: int, *, rank: int = 0, size: int = 1) -> list[list[int]]:
    """The pieces of `total` samples that one of `size` processes draws, without existing samples.

    Pieces are cut from the whole list, not from the missing samples, so that processes that start at different times
    never draw the same piece.
    """
    missing_indices = set(missing)
    pieces = (range(start, min(start + batch, total)) for start in range(rank * batch, total, size * batch))
    return [rest for piece in pieces if (rest := [index for index in piece if index in missing_indices])]
