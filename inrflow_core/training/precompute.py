"""Precomputed inputs of a stage, such as latents: computed once for every set and stored in the run folder as shards.

RUN/precomputed/latents-0123456789abcdef/     digits of the digest of weights and data
    train-00000.h5, ...                       shards whose values are what `Method.precompute` returned, float16
    manifest.json                             their digests, statistics of `Method.measured_channels`; written last

A shard is written completely or not at all: a killed run continues with the next one.
"""

from __future__ import annotations

import hashlib
import math
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from jaxtyping import Float16, Float32, Float64, Int64
from torch import Tensor

from inrflow_core import __version__
from inrflow_core.errors import Diverged, IntegrityError
from inrflow_core.methods._contract import PRECOMPUTED_DTYPE, Stage
from inrflow_core.numerics import keyed_random
from inrflow_core.runtime import process_group
from inrflow_core.runtime.distributed import World
from inrflow_core.sets import CoordValueSet, Queries, TrainBatch
from inrflow_core.shards import manifest, writer
from inrflow_core.shards.manifest import ChannelStats, Manifest, ShardEntry, Split
from inrflow_core.shards.schema import Header, ShardColumns
from inrflow_core.shards.shard_dataset import ShardDataset
from inrflow_core.shards.shard_file import ShardFile
from inrflow_core.storage import plain_file
from inrflow_core.training.loader import Loader

FOLDER = "precomputed"
FORMAT = 2
"""Of the content of shards and manifest: a folder of another one is not read."""
DIGITS = 16
"""Digits of the key in a folder's name."""
TRAIN, HELD_OUT = "train", "held-out"
SETS_AT_ONCE = 16
"""Sets that pass `Method.precompute` together, at most; the same for any number of processes."""
SHARD_BYTES, SHARD_SETS = 1 << 26, 4096
"""A shard holds at most this many bytes and sets."""
SEED_WORD = 3
"""Separates the seeds of precomputed sets from those of training steps."""
SECONDS_BETWEEN_LINES = 30.0


@dataclass(frozen=True)
class PrecomputeJob:
    """The precomputation of a stage's inputs: method, sets, and the folder of the run."""

    method: Any
    stage: Stage
    loaders: dict[str, Loader]
    """The sets of each split, `TRAIN` and perhaps `HELD_OUT`."""
    run: Path
    data: str
    """Digest of the manifest of the data."""
    seed: int
    """Of the run."""
    world: World
    autocast: torch.autocast
    sets_at_once: int
    say: Callable[[str], None]

    @property
    def folder(self) -> Path:
        """The folder of the shards; it differs for other weights or data."""
        return self.run / FOLDER / f"{self.stage.reads}-{_key(self.method, self.stage, self.data)[:DIGITS]}"


class PrecomputedLoader(Loader):
    """The sets of a loader with precomputed values; of the data, labels and what the condition network reads are read alone."""

    def __init__(self, source: Loader, precomputed: ShardDataset, split: str) -> None:
        vars(self).update(vars(source))
        self._precomputed, self._split = precomputed, split

    def sets(
        self,
        examples: Int64[np.ndarray, " B"],
        seeds: Int64[Tensor, " B"],
        *,
        augment: bool,
        out: np.ndarray | None = None,
        with_values: bool = True,
    ) -> CoordValueSet:
        """The sets of some examples with these seeds, never augmented."""
        assert with_values
        values = torch.from_numpy(self._precomputed.read(self._split, examples, out=out).values)
        return CoordValueSet(
            Queries(None, torch.arange(values.shape[1])), values, seeds, self.condition(examples, seeds)
        )

    def train_batch(self, sets: CoordValueSet) -> TrainBatch:
        """The precomputed values as context and as queries: they have no pairs of the domain."""
        return TrainBatch.from_sets(sets)

    def buffer(self, count: int) -> np.ndarray | None:
        """An array for `out` of `count` sets."""
        return self._precomputed.buffer(self._split, count)


def open_precomputed(job: PrecomputeJob) -> dict[str, Loader]:
    """The loaders of a stage; computes the shards that the run folder lacks. Call it on every process.

    A damaged shard is reported and computed again. The method gets the statistics by `begin_precomputed`.
    """
    folder, is_main = job.folder, job.world.is_main
    if is_main:
        _remove_damaged(job, folder)
    process_group.barrier(job.world)
    if not (folder / manifest.NAME).is_file():
        for number, (split, loader) in enumerate(job.loaders.items()):
            _write_shards(job, folder, split, loader, number)
        process_group.barrier(job.world)
        if is_main:
            _write_manifest(job, folder)
        process_group.barrier(job.world)
    opened = ShardDataset(folder)
    job.method.begin_precomputed(job.stage.reads, opened.manifest.splits[TRAIN].statistics)
    return {split: PrecomputedLoader(loader, opened, split) for split, loader in job.loaders.items()}


def _key(method: Any, stage: Stage, data: str) -> str:
    """The SHA-256 of the weights that a stage does not train, of the data's digest, and of how values are stored."""
    digest = hashlib.sha256(f"{data} {SHARD_SETS} {SHARD_BYTES} {FORMAT} {PRECOMPUTED_DTYPE}".encode())
    trained = {name for names in stage.optimizers.values() for name in names}
    for name, network in method.networks().items():
        if name in trained:
            continue
        for key, tensor in network.state_dict().items():
            digest.update(f"{name}.{key}{tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def prune(folder: Path) -> None:
    """Remove the shards of other weights under the same name; call it when checkpoints need `folder` alone."""
    name = folder.name[: -DIGITS - 1]
    for other in folder.parent.glob(f"{name}-{'[0-9a-f]' * DIGITS}"):
        if other != folder:
            shutil.rmtree(other)


def _remove_damaged(job: PrecomputeJob, folder: Path) -> None:
    """Remove damaged shards, so that they are computed again; creates the folder if needed."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / manifest.NAME).is_file():
        return
    try:
        stored = manifest.load(folder)
        entries = [entry for split in stored.splits.values() for entry in split.shards]
        damaged = [(entry, problem) for entry, problem in manifest.find_damaged(folder, stored, entries)]
        is_whole = set(stored.splits) >= set(job.loaders)
    except IntegrityError as error:
        job.say(f"{error.message}: computing `{job.stage.reads}` again")
        shutil.rmtree(folder)
        folder.mkdir()
        return
    for entry, problem in damaged:
        job.say(f"{problem.message}: computing it again")
        (folder / entry.file).unlink(missing_ok=True)
    if damaged or not is_whole:
        (folder / manifest.NAME).unlink()


def _write_shards(job: PrecomputeJob, folder: Path, split: str, loader: Loader, number: int) -> None:
    """Compute this process's share of the shards of a split that are not there yet; `number` is the split's."""
    header = Header(loader.shards.domain, job.stage.reads, split)
    example = next(_pieces(job, loader, range(1), number))
    count = max(1, min(SHARD_SETS, SHARD_BYTES // example.nbytes))
    missing = [
        (folder / _file(split, shard), range(start, min(start + count, len(loader))))
        for shard, start in enumerate(range(0, len(loader), count))
        if shard % job.world.size == job.world.rank and not (folder / _file(split, shard)).is_file()
    ]
    num_sets, done = sum(len(positions) for _, positions in missing), 0
    started = reported = time.monotonic()
    for path, positions in missing:
        columns = ShardColumns(np.full(len(positions), -1))
        shape = (len(positions), *example.shape[1:])
        writer.write(
            path, header, _pieces(job, loader, positions, number), columns, shape=shape, dtype=example.dtype.name
        )
        now, done = time.monotonic(), done + len(positions)
        if job.world.is_main and now - reported > SECONDS_BETWEEN_LINES:
            reported, rate = now, done / (now - started)
            job.say(_progress(job, done, num_sets, rate))


def _progress(job: PrecomputeJob, done: int, num_sets: int, rate: float) -> str:
    """Progress of this call as text: the main process's share times the number of processes."""
    size = job.world.size
    return (
        f"`{job.stage.reads}`: {size * done:,} of {size * num_sets:,} sets, {size * rate:,.0f}/s, "
        f"{(num_sets - done) / rate:,.0f} s left"
    )


def _pieces(job: PrecomputeJob, loader: Loader, positions: range, split: int) -> Iterator[np.ndarray]:
    """The precomputed values of the examples at `positions`, some at a time, as they are stored.

    Raises:
        Diverged: a value is not finite, or too large to be stored.
    """
    job.method.eval()
    for start in range(positions.start, positions.stop, job.sets_at_once):
        part = np.arange(start, min(start + job.sets_at_once, positions.stop), dtype=np.int64)
        seed = keyed_random.derive_seed(job.seed, SEED_WORD, split)
        seeds = keyed_random.derive_seeds(seed, 0, torch.from_numpy(part))
        sets = loader.sets(part, seeds, augment=False).to(job.world.device)
        with torch.no_grad(), job.autocast:
            values = job.method.precompute(job.stage.reads, sets).float()
        assert values.ndim == 3 and len(values) == len(part), (
            f"`precompute` returned {tuple(values.shape)}, not (B, N, C)"
        )
        stored = values.to(PRECOMPUTED_DTYPE)
        if not stored.isfinite().all():
            _raise_out_of_range(job.stage.reads, values, stored, start)
        yield stored.cpu().numpy()


def _raise_out_of_range(
    name: str, values: Float32[Tensor, "B N C"], stored: Float16[Tensor, "B N C"], first: int
) -> NoReturn:
    """Raise Diverged for the first of some sets whose values cannot be stored; `first` is the number of the first of all."""
    row = int((~stored.flatten(1).isfinite().all(1)).nonzero()[0])
    largest = float(values[row].abs().max())
    if math.isfinite(largest):
        limit = torch.finfo(PRECOMPUTED_DTYPE).max
        what = f"are as large as {largest:.3g}: they are stored as float16, up to {limit:,.0f}"
    else:
        what = "are not finite"
    raise Diverged(
        f"`{name}` of set {first + row} {what}",
        hint="train the stage before again with a lower `learning_rate`, into another `--out`",
    )


def _write_manifest(job: PrecomputeJob, folder: Path) -> None:
    """Read all shards once for their digests and statistics, and write the manifest."""
    written = {split: [_read(job, path) for path in sorted(folder.glob(_file(split, None)))] for split in job.loaders}
    first = written[TRAIN][0]
    manifest.save(
        Manifest(
            dataset=job.stage.reads,
            domain=job.loaders[TRAIN].shards.domain,
            version=__version__,
            shape=first.shape,
            dtype=first.dtype,
            classes=(),
            normalization={},
            settings={},
            source={"weights": _key(job.method, job.stage, ""), "data": job.data},
            splits={
                split: Split(len(job.loaders[split]), tuple(shard.entry for shard in shards), _statistics(shards))
                for split, shards in written.items()
            },
        ),
        folder,
    )


@dataclass(frozen=True)
class _WrittenShard:
    """A shard on disk: its entry in the manifest, shape and type of one set, and sums over what is measured, by channel."""

    entry: ShardEntry
    shape: tuple[int, ...]
    dtype: str
    count: int
    total: Float64[np.ndarray, " S"]
    squares: Float64[np.ndarray, " S"]


def _read(job: PrecomputeJob, path: Path) -> _WrittenShard:
    """Read a shard once, `SETS_AT_ONCE` sets at a time."""
    shard = ShardFile(path, hint="delete it: training computes it again")
    count, total, squares = 0, np.float64(0), np.float64(0)
    for start in range(0, len(shard), SETS_AT_ONCE):
        values = np.empty((min(SETS_AT_ONCE, len(shard) - start), *shard.item_shape), shard.values.dtype)
        shard.read(shard.values, start, values, len(values))
        measured = (
            job.method.measured_channels(job.stage.reads, torch.from_numpy(values).float()).flatten(0, 1).double()
        )
        count += len(measured)
        total = total + measured.sum(0).numpy()
        squares = squares + measured.square().sum(0).numpy()
    entry = ShardEntry(path.name, len(shard), path.stat().st_size, plain_file.file_digest(path))
    return _WrittenShard(
        entry, shard.item_shape, shard.values.dtype.name, count, np.asarray(total), np.asarray(squares)
    )


def _statistics(shards: Sequence[_WrittenShard]) -> ChannelStats:
    """Mean and standard deviation of each measured channel over all shards."""
    count = sum(shard.count for shard in shards)
    mean = sum(shard.total for shard in shards) / count
    variance = sum(shard.squares for shard in shards) / count - mean**2
    return ChannelStats(tuple(mean.tolist()), tuple(np.sqrt(np.maximum(variance, 0)).tolist()))


def _file(split: str, number: int | None) -> str:
    """The file name of a shard, or the pattern of all shards of a split."""
    return f"{split}-{'*' if number is None else f'{number:05d}'}.h5"
