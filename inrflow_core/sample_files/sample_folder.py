"""A folder of sample shards: many thousands of samples in shards of bounded size, with a manifest as data sets have.

Every shard is a `SampleShard` of consecutive seeds. The process that writes its last piece finishes it; the manifest is
written when all shards are finished. The content does not depend on which process drew what, or when: a job that was
killed and resumed writes the same bytes as an uninterrupted one, if its pieces and the processors are the same (another
`--batch`, less memory or another device may change the last bits of a value).
"""

from __future__ import annotations

import contextlib
import json
import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from inrflow_core import __version__
from inrflow_core.errors import IntegrityError, MissingError, UsageError
from inrflow_core.sample_files import sample_shard
from inrflow_core.sample_files.sample_shard import SampleShard
from inrflow_core.shards import manifest, shard_dataset, shard_file
from inrflow_core.shards.manifest import ChannelStats, Manifest, ShardEntry, Split
from inrflow_core.shards.schema import Header
from inrflow_core.shards.shard_file import ShardFile
from inrflow_core.storage import file_lock, plain_file, typed_json
from inrflow_core.storage.atomic_write import atomic_write, check_writable

JOB = ".job.json"
LOCK = ".lock"
SAMPLES_PER_SHARD = 4096
"""Samples of a shard, at most."""
SHARD_BYTES = 1 << 30
"""Bytes of a shard's values, at most, unless one sample has more."""
BLOCK = 256
"""Samples read at once for the statistics."""


def shard_size(shape: tuple[int, ...], dtype: str) -> int:
    """Samples of one shard of a folder: `SAMPLES_PER_SHARD`, or as many as fit in `SHARD_BYTES`."""
    return max(1, min(SAMPLES_PER_SHARD, SHARD_BYTES // (math.prod(shape) * np.dtype(dtype).itemsize)))


class SampleFolder:
    """A job that writes samples to a folder of shards."""

    def __init__(
        self, folder: Path, seeds: Sequence[int], header: Header, shape: tuple[int, ...], dtype: str, size: int
    ) -> None:
        self.folder, self.seeds, self.header, self.shape, self.dtype = folder, seeds, header, tuple(shape), dtype
        self.size = size
        self.labels: Sequence[int] | None = None
        self.condition: Mapping[str, np.ndarray] = {}
        """As `SampleShard.condition`, of all samples."""

    @staticmethod
    def create_or_resume(
        folder: Path,
        seeds: Sequence[int],
        header: Header,
        *,
        shape: tuple[int, ...],
        dtype: str,
        labels: Sequence[int] | None = None,
        overwrite: bool = False,
    ) -> SampleFolder:
        """Begin a folder of one sample of `shape` for each seed, or resume that of the same job.

        Raises:
            UsageError: the folder holds other files, or was begun with other seeds, labels or settings; with
                `overwrite` existing shards of samples are replaced.
        """
        self = SampleFolder(folder, seeds, header, shape, dtype, shard_size(shape, dtype))
        self.labels = labels
        check_writable(folder / "-" if folder.is_dir() else folder, overwrite=True)
        folder.mkdir(exist_ok=True)
        had_lock = (folder / LOCK).exists()
        with self._locked():
            self._refuse_strangers(had_lock=had_lock)
            self._begin(overwrite=overwrite)
        return self

    def shards(self) -> Iterator[tuple[range, SampleShard | None]]:
        """Each shard with the range of its seeds; None for a shard that is finished."""
        for number, start in enumerate(range(0, len(self.seeds), self.size)):
            rows = range(start, min(start + self.size, len(self.seeds)))
            yield rows, None if self._path(number).is_file() else self._shard(number, rows)

    def finish(self) -> bool:
        """Write the manifest; False, without an effect, while shards are missing.

        Raises:
            IntegrityError: a shard has changed since it was written.
        """
        files = self._files()
        if not all(file.is_file() for file in files):
            return False
        with self._locked():
            if self.is_finished():  # by another process, while this one waited
                return True
            manifest.save(self._manifest(files), self.folder)
            for file in files:
                sample_shard.remove_digest(file)
            for left in self.folder.glob("*.partial"):  # of a process that was killed while it finished a shard
                _remove(left)
        return True

    def is_finished(self) -> bool:
        """Whether the manifest and every shard exist, and no shard was drawn again since."""
        has_new = any(self.folder.glob(f"{shard_dataset.SAMPLES}-*.sha256"))
        return (self.folder / manifest.NAME).is_file() and not has_new and all(file.is_file() for file in self._files())

    def _files(self) -> list[Path]:
        return [self._path(number) for number in range(-(-len(self.seeds) // self.size))]

    def _path(self, number: int) -> Path:
        return self.folder / f"{shard_dataset.SAMPLES}-{number:05d}.h5"

    def _shard(self, number: int, rows: range) -> SampleShard | None:
        seeds = self.seeds[rows.start : rows.stop]
        labels = None if self.labels is None else self.labels[rows.start : rows.stop]
        try:
            shard = SampleShard.create_or_resume(
                self._path(number), seeds, self.header, shape=self.shape, dtype=self.dtype, labels=labels
            )
            shard.condition = {name: array[rows.start : rows.stop] for name, array in self.condition.items()}
            return shard
        except UsageError:
            if self._path(number).is_file():  # another process has just finished it
                return None
            raise

    def _locked(self) -> contextlib.AbstractContextManager[None]:
        """A lock: no other process begins or ends the job meanwhile."""
        return file_lock.lock(self.folder / LOCK)

    def _refuse_strangers(self, *, had_lock: bool) -> None:
        """Raise UsageError for a folder of other files; no lock is left there that was not there before."""
        strangers = sorted(path.name for path in self.folder.iterdir() if path.name != LOCK)
        if self._begun() is not None or not strangers:
            return
        if not had_lock:
            (self.folder / LOCK).unlink(missing_ok=True)
        raise UsageError(
            f"`{self.folder}` is not empty: it holds `{strangers[0]}`, which is not a file of samples",
            hint="name another folder, or empty it",
        )

    def _begin(self, *, overwrite: bool) -> None:
        whole = SampleShard(self.folder, np.asarray(self.seeds, np.int64), self.header, self.shape, self.dtype)
        job = {**whole.job(self.labels), "shard_size": self.size}
        begun = self._begun()
        differs = None if begun is None else typed_json.first_difference(begun, job)
        if differs is not None and not overwrite:
            raise UsageError(
                f"`{self.folder}` holds samples of another job: they differ in {differs}",
                hint="give the same options to resume it, add `--overwrite`, or name another folder",
            )
        if differs is not None:
            for path in self.folder.glob(f"{shard_dataset.SAMPLES}-*"):
                _remove(path)
            (self.folder / manifest.NAME).unlink(missing_ok=True)
        if begun is None or differs is not None:
            with atomic_write(self.folder / JOB) as beside:
                beside.write_text(json.dumps(job), encoding="ascii")

    def _begun(self) -> dict[str, Any] | None:
        try:
            return typed_json.read_table(self.folder / JOB)
        except (MissingError, IntegrityError):
            return None

    def _manifest(self, files: Sequence[Path]) -> Manifest:
        entries, sums, squares, pairs = [], np.zeros(self.shape[-1]), np.zeros(self.shape[-1]), 0
        before = self._entries()
        for file in files:
            sample_shard.matches_digest(file)
            shard = shard_file.ShardFile(file)
            entries.append(ShardEntry(file.name, len(shard), file.stat().st_size, plain_file.file_digest(file)))
            if before.get(file.name, entries[-1]) != entries[-1]:
                raise IntegrityError(
                    f"`{file}` has changed: the manifest has another digest",
                    hint="draw all samples again with `--overwrite`, or into another folder",
                )
            for block in _blocks(shard):
                sums, squares, pairs = sums + block.sum(0), squares + np.square(block).sum(0), pairs + len(block)
        mean = sums / pairs
        deviation = np.sqrt(np.maximum(squares / pairs - mean**2, 0))
        stats = ChannelStats(*(tuple(float(f"{x:.9g}") for x in row) for row in (mean, deviation)))
        return Manifest(
            dataset=self.header.dataset,
            domain=self.header.domain,
            version=__version__,
            shape=self.shape,
            dtype=self.dtype,
            classes=self.header.classes,
            normalization=self.header.normalization,
            settings=self.header.settings,
            source={},
            splits={shard_dataset.SAMPLES: Split(len(self.seeds), tuple(entries), stats)},
        )

    def _entries(self) -> dict[str, ShardEntry]:
        """The manifest's entries of the shards by name; empty without a manifest. A lost shard is drawn again."""
        if not (self.folder / manifest.NAME).is_file():
            return {}
        return {entry.file: entry for entry in manifest.load(self.folder).splits[shard_dataset.SAMPLES].shards}


def _remove(path: Path) -> None:
    """Delete a file or a whole folder, unless another process has done so."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _blocks(shard: ShardFile) -> Iterator[np.ndarray]:
    """The pairs of a shard's samples in float64, some at a time."""
    for start in range(0, len(shard), BLOCK):
        count = min(BLOCK, len(shard) - start)
        values = np.empty((count, *shard.item_shape), shard.values.dtype)
        shard.read(shard.values, start, values, count)
        yield values.reshape(-1, values.shape[-1]).astype(np.float64)
