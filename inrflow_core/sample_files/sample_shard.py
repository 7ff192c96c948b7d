"""A shard of samples that grows in pieces: resumable after a kill, and written by many processes at once.

Until it is complete, `out.h5` is a folder `out.h5.partial/` with one small file for each piece, renamed into place when
written: a kill loses the current piece alone, and no process waits for another. `finish` combines the pieces into one
shard.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from inrflow_core.errors import IntegrityError, MissingError, UsageError
from inrflow_core.shards import shard_dataset, writer
from inrflow_core.shards.schema import Header, ShardColumns
from inrflow_core.storage import array_file, file_lock, plain_file, typed_json
from inrflow_core.storage.atomic_write import atomic_write, check_writable

JOB = "job.json"
CLAIMS_FOLDER = ".claims"
FINISHING = ".finishing"
"""Marks the folder of an unfinished shard whose file is being written under the final name."""


class SampleShard:
    """A job that writes samples to one shard, by their index in the list of seeds."""

    def __init__(self, path: Path, seeds: np.ndarray, header: Header, shape: tuple[int, ...], dtype: str) -> None:
        self.path, self.seeds, self.header, self.shape, self.dtype = path, seeds, header, shape, dtype
        self.folder = path.with_name(f"{path.name}.partial")
        self.condition: Mapping[str, np.ndarray] = {}
        """What each sample is conditioned on, a row for each seed: every process of a job sets the same."""

    @staticmethod
    def create_or_resume(
        path: Path,
        seeds: Sequence[int],
        header: Header,
        *,
        shape: tuple[int, ...],
        dtype: str,
        labels: Sequence[int] | None = None,
        overwrite: bool = False,
    ) -> SampleShard:
        """Begin a shard of one sample of `shape` for each seed, or resume the unfinished one of the same job.

        `labels` are those of its samples: pieces of other labels must not be combined in one shard.

        Raises:
            UsageError: `path` exists, or an unfinished one was begun with other seeds, labels or settings;
                with `overwrite` both are replaced.
            IntegrityError: the record of what an unfinished one was begun with is damaged.
        """
        check_writable(path, overwrite=overwrite or is_finishing(path))
        self = SampleShard(path, np.asarray(seeds, dtype=np.int64), header, tuple(shape), dtype)
        job = self.job(labels)
        begun = self._begun(overwrite=overwrite)
        differs = None if begun is None else typed_json.first_difference(begun, job)
        if differs is not None and not overwrite:
            raise UsageError(
                f"`{self.folder}` is an unfinished shard of another job: it differs in {differs}",
                hint="give the same options to resume it, add `--overwrite`, or name another file",
            )
        if differs is not None:
            shutil.rmtree(self.folder)
        self.folder.mkdir(exist_ok=True)
        if begun is None or differs is not None:
            self._begin(job)
        if not overwrite and path.exists() and not is_finishing(path):
            self.release()  # a new folder: another process has finished the shard meanwhile
            check_writable(path)
        return self

    def missing(self) -> np.ndarray:
        """Indices of the samples that no piece holds yet, in order."""
        is_sampled = np.zeros(len(self.seeds), dtype=bool)
        for _, indices in self._pieces():
            is_sampled[indices] = True
        return np.flatnonzero(~is_sampled)

    def write(self, indices: Sequence[int], values: np.ndarray, labels: Sequence[int] | None = None) -> None:
        """Write the samples at some indices of the list of seeds; they are on the disk when this returns."""
        selected = np.asarray(indices, dtype=np.int64)
        assert values.shape == (len(selected), *self.shape) and values.dtype == self.dtype
        numbers = np.full(len(selected), -1) if labels is None else np.asarray(labels)
        try:
            with atomic_write(self._piece(selected)) as beside, beside.open("wb") as file:
                np.savez(file, indices=selected, labels=numbers.astype(np.int64), values=values)
        except FileNotFoundError:
            if not self.is_finished():  # another process has written these samples and all others
                raise

    @contextlib.contextmanager
    def claim(self, indices: Sequence[int]) -> Iterator[bool]:
        """Whether this process is to draw the samples at some indices; other processes then skip them.

        The claim is a lock on as many bytes of one file; a killed process loses it. On a file system without locks every
        claim is granted, and of samples that are drawn twice one copy is kept.
        """
        selected = np.asarray(indices, dtype=np.int64)
        try:
            file = (self.folder / CLAIMS_FOLDER).open("w")
        except FileNotFoundError:  # others have finished the shard
            yield False
            return
        with file:
            first, count = int(selected.min()), int(selected.max() - selected.min()) + 1
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, count, first)
            except (BlockingIOError, PermissionError):
                yield False
                return
            except OSError as error:
                if error.errno not in file_lock.UNSUPPORTED:
                    raise
            yield self.folder.exists() and not self._holds(selected)

    def is_finished(self) -> bool:
        """Whether a process has finished the shard."""
        return self.path.exists() and not self.folder.exists()

    def release(self) -> None:
        """Delete the folder of pieces if none was written."""
        if not any(self.folder.glob("*.npz")):
            shutil.rmtree(self.folder, ignore_errors=True)

    def finish(self) -> bool:
        """Combine the pieces into the shard; False, without an effect, while some are missing.

        The process that writes the last piece makes the shard; later calls return True.
        """
        if self.is_finished():
            return True
        try:
            with file_lock.lock(self.folder / ".lock"):
                if not self.folder.exists():  # another process finished it while this one waited
                    return True
                if len(self.missing()):
                    return False
                self._combine()
        except (FileNotFoundError, MissingError):  # another process has just finished it
            if not self.is_finished():
                raise
        return True

    def _combine(self) -> None:
        """Write the shard and delete the pieces."""
        order = {int(index): (piece, row) for piece, indices in self._pieces() for row, index in enumerate(indices)}
        labels = self._labels(order)
        shape = (len(self.seeds), *self.shape)
        names = [f"seed-{seed}" for seed in self.seeds]
        columns = ShardColumns(labels, names=names, seeds=self.seeds, condition=self.condition)
        (self.folder / FINISHING).touch()
        remove_digest(self.path)
        entry = writer.write(self.path, self.header, self._values(order), columns, shape=shape, dtype=self.dtype)
        write_digest(self.path, entry.sha256)
        # Renamed first: other processes may be writing into it, and must not find a folder that is partly deleted.
        aside = self.folder.with_name(f".{self.folder.name}")
        shutil.rmtree(aside, ignore_errors=True)
        self.folder.rename(aside)
        shutil.rmtree(aside, ignore_errors=True)

    def job(self, labels: Sequence[int] | None) -> dict[str, Any]:
        """What two equal jobs share: seeds, labels, shape, type and header."""
        content = {
            "seeds": _digested(self.seeds),
            "labels": None if labels is None else _digested(np.asarray(labels, dtype=np.int64)),
            "shape": list(self.shape),
            "dtype": self.dtype,
            **typed_json.to_plain(self.header),
        }
        return typed_json.to_plain(content)

    def _begin(self, job: dict[str, Any]) -> None:
        """Record the job; several processes, also on several machines, may do so at once."""
        with tempfile.TemporaryDirectory(prefix=".", suffix=".partial", dir=self.folder) as scratch:
            whole = Path(scratch) / JOB
            with atomic_write(whole) as beside:
                beside.write_text(json.dumps(job), encoding="ascii")
            whole.replace(self.folder / JOB)

    def _begun(self, *, overwrite: bool) -> dict[str, Any] | None:
        path = self.folder / JOB
        try:
            return typed_json.read_table(path)
        except MissingError:
            return None
        except IntegrityError as error:
            if overwrite:
                return {}
            raise IntegrityError(
                f"`{path}` is damaged, so the origin of the pieces beside it is unknown: {error.message}",
                hint="add `--overwrite` to draw them all again, or name another file",
            ) from error

    def _piece(self, indices: np.ndarray) -> Path:
        """The file of the samples at some indices."""
        return self.folder / f"{indices[0]:09d}-{hashlib.sha256(indices.tobytes()).hexdigest()[:12]}.npz"

    def _holds(self, indices: np.ndarray) -> bool:
        """Whether the samples at some indices exist, in one piece or (after an out-of-memory error) in several."""
        if self._piece(indices).exists():
            return True
        if not any(self.folder.glob(f"{indices[0]:09d}-*.npz")):
            return False
        return not np.isin(indices, self.missing()).any()

    def _pieces(self) -> Iterator[tuple[Path, np.ndarray]]:
        """Every intact piece with the indices of its samples; a damaged one is deleted, to be drawn again."""
        for path in sorted(self.folder.glob("*.npz")):
            try:
                indices, labels = (array_file.read_array(path, name) for name in ("indices", "labels"))
            except (MissingError, IntegrityError):
                path.unlink(missing_ok=True)
                continue
            are_numbers = indices.dtype == labels.dtype == np.int64
            if not are_numbers or indices.ndim != 1 or not len(indices) or labels.shape != indices.shape:
                path.unlink(missing_ok=True)
            elif indices.min() >= 0 and indices.max() < len(self.seeds):
                yield path, indices

    def _labels(self, order: dict[int, tuple[Path, int]]) -> np.ndarray:
        labels = np.full(len(self.seeds), -1, dtype=np.int64)
        for path in {path for path, _ in order.values()}:
            labels[_read(path, "indices")] = _read(path, "labels")
        return labels

    def _values(self, order: dict[int, tuple[Path, int]]) -> Iterator[np.ndarray]:
        """Values in the order of the seeds, one at a time; one piece is in memory at once."""
        current, values = None, np.empty(0)
        for index in range(len(self.seeds)):
            path, row = order[index]
            if path != current:
                current, values = path, self._read_values(path)
            yield values[row : row + 1]

    def _read_values(self, path: Path) -> np.ndarray:
        """The values of a piece; one of another shape or type is deleted, as a damaged one is."""
        values = _read(path, "values")
        if values.shape == (len(_read(path, "indices")), *self.shape) and values.dtype == self.dtype:
            return values
        path.unlink(missing_ok=True)
        raise IntegrityError(
            f"`{path}` is damaged: it has values of shape {list(values.shape)} and type {values.dtype}",
            hint="it is removed; the same command draws its samples again",
        )


def is_finishing(path: Path) -> bool:
    """Whether a process was killed after it wrote a shard and before it deleted the pieces; the same command resumes."""
    return (path.with_name(f"{path.name}.partial") / FINISHING).exists()


def write_digest(path: Path, digest: str | None = None) -> None:
    """Write the digest of a finished shard of samples beside it."""
    with atomic_write(_digest_file(path)) as beside:
        beside.write_text(f"{digest or plain_file.file_digest(path)}\n", encoding="ascii")


def remove_digest(path: Path) -> None:
    """Delete that digest, before another shard replaces this one."""
    _digest_file(path).unlink(missing_ok=True)


def matches_digest(path: Path, *, overwrite: bool = False) -> bool:
    """Whether a shard of samples has the digest that is recorded beside it, if any; False only with `overwrite`.

    Raises:
        IntegrityError: it is damaged, and `overwrite` is off.
    """
    if not _digest_file(path).is_file() or _digest_file(path).read_text(
        encoding="ascii", errors="replace"
    ).strip() == plain_file.file_digest(path):
        return True
    if overwrite:
        return False
    raise IntegrityError(
        f"`{path}` is damaged: its digest is not that in `{_digest_file(path).name}`",
        hint="delete both, or add `--overwrite`: the same command draws the samples again",
    )


def _digest_file(path: Path) -> Path:
    return path.with_name(f"{path.name}{shard_dataset.SEAL}")


def _read(path: Path, name: str) -> np.ndarray:
    """An array of a piece.

    Raises:
        MissingError: another process has finished the shard.
        IntegrityError: it is damaged, and was deleted: the same command draws its samples again.
    """
    try:
        return array_file.read_array(path, name)
    except IntegrityError as error:
        path.unlink(missing_ok=True)
        raise IntegrityError(
            f"`{path}` is damaged: {error.__cause__ or error.message}",
            hint="it was deleted; the same command draws its samples again",
        ) from error


def _digested(numbers: np.ndarray) -> dict[str, Any]:
    return {"count": len(numbers), "digest": hashlib.sha256(numbers.tobytes()).hexdigest()[:16]}
