"""The journal of finished shards: a killed `prepare` resumes, and several runs do not overwrite each other's work.

`.journal.jsonl` is in the folder of the shards until the manifest is written: first the identity of the job, then one
line for each finished shard. Each run of a job array writes its own journal beside it. A single run holds `.lock`
alone; runs of a job array share it, and each holds its own lock.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import secrets
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from inrflow_core import registry
from inrflow_core.errors import IntegrityError, MissingError, UsageError
from inrflow_core.preparation.job_array import LOCK, ArrayTask
from inrflow_core.shards import manifest
from inrflow_core.shards.manifest import Manifest, ShardEntry
from inrflow_core.shards.shard_dataset import SAMPLES
from inrflow_core.shards.shard_file import is_shard
from inrflow_core.storage import atomic_write, file_lock, plain_file, typed_json
from inrflow_core.storage.plain_file import read_plain_file
from inrflow_core.storage.typed_json import first_difference

NAME = ".journal.jsonl"
JOURNALS, LOCKS = ".journal*.jsonl", ".lock*"
"""Patterns that include the files of job arrays."""
HALVES = ".*.partial"
"""Partly written files."""
LONGEST = 1 << 30
"""Bytes of the largest journal."""
PATIENCE = 2.0
"""Seconds to wait for the lock: a run of a job array holds it alone for a moment when it ends."""
NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}
"""Errors of file systems without hard links, such as mounted object stores."""
SHARD = re.compile(r"\w[\w-]*-\d{5}\.h5")

Mode = Literal["resume", "overwrite", "repair"]


@dataclass(frozen=True)
class JournalHead:
    """The first line: the identity of the job."""

    identity: dict[str, Any]


HINT = "remove it: its shards are then made again"
WRITTEN = {"count", "bytes", "sha256"}
"""What the line of a shard with readable items has beside."""


@dataclass(frozen=True)
class ShardRecord:
    """The line of a finished shard; without readable items there is no file, and the last three are missing."""

    file: str
    split: str
    skipped: tuple[tuple[str, str], ...]
    sums: tuple[float, ...]
    squares: tuple[float, ...]
    pairs: int
    count: int = 0
    bytes: int = 0
    sha256: str = ""


class LockedByAnotherRun(UsageError):
    """Another run is writing there."""


@dataclass
class Journal:
    """The finished shards of one folder."""

    folder: Path
    identity: Mapping[str, Any]
    records: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Lines of the journal by the shard's file name."""
    previous: Manifest | None = None
    """The manifest of an earlier, finished run of the same job."""
    damaged: set[str] = field(default_factory=set)
    """Shards in that manifest that must be made again."""
    file: str = NAME
    """The journal that gets new lines."""

    def is_pending(self, name: str) -> bool:
        """Whether a shard must still be made."""
        return name in self.damaged if self.previous is not None else name not in self.records

    def record(self, record: dict[str, Any]) -> None:
        """Add a finished shard, durably.

        Raises:
            IntegrityError: it was repaired, and does not have the digest in the manifest.
            OutOfMemory: the disk is full; the line is not written.
        """
        if self.previous is not None:
            _check_same(self.folder, self.previous, record)
        else:
            path = self.folder / self.file
            with path.open("ab", buffering=0) as file:
                atomic_write.append_all_or_nothing(file, path, (json.dumps(record) + "\n").encode("ascii"))
                os.fsync(file.fileno())
        self.records[record["file"]] = record

    def close(self, content: Manifest) -> None:
        """Write the manifest and delete the journals."""
        if content is not self.previous:
            manifest.save(content, self.folder)
        _remove(self.folder, JOURNALS)


@contextmanager
def open_journal(folder: Path, identity: Mapping[str, Any], mode: Mode) -> Iterator[Journal]:
    """The journal of a folder, held alone; deletes the folder if it has no shards in the end.

    Raises:
        LockedByAnotherRun: another process writes there.
        UsageError: a file is in the way, or other shards are there and `mode` is not `overwrite`.
        IntegrityError: a shard is damaged, and `mode` is `resume`.
    """
    try:
        with _lock_folder(folder / LOCK, _writing(folder), patience=PATIENCE) as is_alone:
            if is_alone:
                _remove(folder, HALVES)
            try:
                if mode == "overwrite":
                    _empty(folder)
                yield _read(folder, identity, mode=mode)
            finally:
                _clean(folder)
    finally:
        _leave(folder)


@contextmanager
def open_shared_journal(
    folder: Path, identity: Mapping[str, Any], piece: ArrayTask, share: Collection[str]
) -> Iterator[Journal]:
    """The journal of a folder that runs of a job array share; `share` has the names of this run's shards.

    Only finished shards of the share are checked.

    Raises:
        LockedByAnotherRun: another process has the same index, or holds the folder alone.
        UsageError: a file is in the way, or other shards are there or being made.
        IntegrityError: the manifest exists and a shard does not.
    """
    twice = f"piece {piece} of `{folder}` is being made by another `inrflow prepare`"
    try:
        with _lock_folder(folder / piece.lock, twice):
            try:
                with _lock_folder(folder / LOCK, _writing(folder), "together", patience=PATIENCE):
                    yield _read(folder, identity, piece=piece, share=share)
            finally:
                _tidy(folder)
                (folder / piece.lock).unlink(missing_ok=True)
    finally:
        _leave(folder)


def completed_shards(folder: Path) -> set[str]:
    """The names of all finished shards, of every run."""
    return {line["file"] for path in folder.glob(JOURNALS) for line in _lines(path)[0] if "file" in line}


def recorded_dataset(folder: Path, name: str) -> str:
    """The name of a data set in the manifest or journal of a folder; `name` where the folder has no shards of it.

    A part may have an earlier name (`registry.ALIASES`): a resumed or repaired folder keeps the one in its shards.

    Raises:
        IntegrityError: the manifest is damaged.
    """
    if (folder / manifest.NAME).exists():
        recorded = manifest.load(folder).dataset
    else:
        lines, _ = _lines(folder / NAME)
        identity = lines[0].get("identity") if lines else None
        recorded = identity.get("dataset") if isinstance(identity, dict) else None
    if not isinstance(recorded, str):
        return name
    present = (registry.canonical("datasets", one) for one in (recorded, name))
    return recorded if len(set(present)) == 1 else name


@contextmanager
def _lock_folder(
    path: Path, busy: str, kind: Literal["alone", "together"] = "alone", patience: float = 0.0
) -> Iterator[bool]:
    with contextlib.ExitStack() as stack:
        try:
            is_locked = stack.enter_context(file_lock.try_lock(path, kind, patience=patience))
        except (FileExistsError, NotADirectoryError) as error:
            raise UsageError(
                f"`{path.parent}` cannot be a folder: a file is in the way", hint="choose another `--out`"
            ) from error
        except BlockingIOError as error:
            raise LockedByAnotherRun(busy, hint="wait for it, or choose another `--out`") from error
        yield is_locked


def _writing(folder: Path) -> str:
    return f"another `inrflow prepare` is writing to `{folder}`"


def _tidy(folder: Path) -> None:
    """After a run of a job array: clean up where nothing was made, unless another run is active."""
    with contextlib.suppress(LockedByAnotherRun), _lock_folder(folder / LOCK, _writing(folder)) as is_alone:
        if is_alone and ((folder / manifest.NAME).exists() or not completed_shards(folder)):
            _clean(folder)


def _clean(folder: Path) -> None:
    """Delete partly written files and locks, and the journals of runs without a finished shard; needs the lock alone."""
    _remove(folder, HALVES)
    if (folder / manifest.NAME).exists() or not any(SHARD.fullmatch(path.name) for path in folder.iterdir()):
        _remove(folder, JOURNALS)
    _remove(folder, LOCKS)


def _leave(folder: Path) -> None:
    with contextlib.suppress(OSError):  # it is not empty, or another has removed it
        folder.rmdir()


def _remove(folder: Path, pattern: str) -> None:
    for path in folder.glob(pattern):
        path.unlink(missing_ok=True)


def _empty(folder: Path) -> None:
    """Delete the shards of any job, with its manifest and journals.

    Raises:
        UsageError: something else is there; then nothing is deleted.
    """
    recorded = b"".join(
        read_plain_file(path, LONGEST) for path in (folder / manifest.NAME, *folder.glob(JOURNALS)) if path.is_file()
    )
    others = _others(folder)
    for path in others:
        if not _is_own(path, recorded):
            raise _not_empty(path)
    for path in others:
        path.unlink()
    _remove(folder, JOURNALS)


def _others(folder: Path) -> list[Path]:
    """Everything in the folder but locks, partly written files and journals."""
    return sorted(path for path in folder.iterdir() if not any(map(path.match, (LOCKS, HALVES, JOURNALS))))


def _is_own(path: Path, recorded: bytes) -> bool:
    """Whether a file is a manifest or a shard of `inrflow prepare`, and not of samples; a damaged shard is one if a record
    names it.
    """
    if path.name.startswith(f"{SAMPLES}-"):
        return False
    if path.name == manifest.NAME:
        return f'"{manifest.FORMAT}"'.encode() in recorded
    return SHARD.fullmatch(path.name) is not None and (f'"{path.name}"'.encode() in recorded or is_shard(path))


def _not_empty(path: Path) -> UsageError:
    return UsageError(
        f"`{path.parent}` is not empty: it holds `{path.name}`, which `inrflow prepare` did not write",
        hint="choose another `--out`, or empty it",
    )


def _read(
    folder: Path,
    identity: Mapping[str, Any],
    *,
    mode: Mode = "resume",
    piece: ArrayTask | None = None,
    share: Collection[str] | None = None,
) -> Journal:
    # In this order: another run can start, and then make a shard, at any moment.
    others = _others(folder)
    if (folder / manifest.NAME).exists():
        return _finished(folder, identity, mode)
    if not (folder / NAME).exists():
        if others:
            raise _not_empty(others[0])
        _begin(folder, identity)
    return _unfinished(folder, identity, piece, share)


def _begin(folder: Path, identity: Mapping[str, Any], *, anew: bool = False) -> None:
    """Write the identity of the job atomically; of several runs that do, the first wins."""
    beside = folder / f".{NAME}.{secrets.token_hex(4)}.partial"
    _write(beside, [{"identity": identity}])
    try:
        if anew:
            beside.replace(folder / NAME)
        else:
            _link(beside, folder / NAME)
    finally:
        beside.unlink(missing_ok=True)


def _link(beside: Path, path: Path) -> None:
    """Rename a complete file, unless the name exists already."""
    try:
        os.link(beside, path)
    except FileExistsError:
        pass
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        if not path.exists():
            beside.replace(path)  # of two runs that start at the same moment the last wins


def _write(path: Path, lines: Sequence[Mapping[str, Any]]) -> None:
    """Write a journal atomically: a kill leaves the old one or the new one."""
    with atomic_write.atomic_write(path) as beside:
        beside.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="ascii")


def _finished(folder: Path, identity: Mapping[str, Any], mode: Mode) -> Journal:
    """The journal of a finished run of the same job, with its damaged shards."""
    previous = manifest.load(folder)
    _check_identity(folder, typed_json.to_plain(previous), identity)
    entries = [entry for split in previous.splits.values() for entry in split.shards]
    if mode == "repair":
        damaged = {entry.file for entry, _ in manifest.find_damaged(folder, previous, entries)}
        return Journal(folder, identity, previous=previous, damaged=damaged)
    for entry in entries:
        manifest.check_size(folder, previous, entry)
    return Journal(folder, identity, previous=previous)


def _unfinished(
    folder: Path, identity: Mapping[str, Any], piece: ArrayTask | None, share: Collection[str] | None
) -> Journal:
    """The journal of stopped or active runs, with those finished shards that match their digests.

    With a `share`, shards outside it are not checked: the run that writes the manifest checks all.
    """
    first, _ = _lines(folder / NAME)
    head = first[0].get("identity") if first else None
    if head is None:
        _begin(folder, identity, anew=True)
        return Journal(folder, identity, file=NAME if piece is None else piece.journal)
    _check_identity(folder, head, identity)
    if piece is not None and head.get("version") != identity["version"]:
        raise UsageError(
            f"`{folder}` was begun by inrflow {head.get('version')}, and this is {identity['version']}",
            hint="use one version on all machines",
        )
    mine = folder / (NAME if piece is None else piece.journal)
    parsed, is_torn = _lines(mine)
    if is_torn:  # a kill in the middle of a line: the next line must not continue it
        _write(mine, parsed)
    records = {
        line["file"]: line for path in sorted(folder.glob(JOURNALS)) for line in _lines(path)[0] if "file" in line
    }
    checked = [line for name, line in records.items() if share is None or name in share]
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        broken = {
            line["file"]
            for line, is_whole in zip(checked, pool.map(lambda line: _is_whole(folder, line), checked), strict=True)
            if not is_whole
        }
    intact = {name: line for name, line in records.items() if name not in broken}
    return Journal(folder, identity, intact, file=mine.name)


def _lines(path: Path) -> tuple[list[dict[str, Any]], bool]:
    """The whole lines of a journal, and whether another line is cut off; empty without a journal."""
    try:
        lines = read_plain_file(path, LONGEST).splitlines()
    except MissingError:
        return [], False
    parsed = [line for line in map(typed_json.parse_line, lines) if line is not None]
    for line in parsed:
        kind = ShardRecord if "file" in line else JournalHead
        typed_json.typed(line, kind, f"a line of `{path}`", hint=HINT, extra=True)
        if kind is ShardRecord and len(WRITTEN & line.keys()) not in (0, len(WRITTEN)):
            raise IntegrityError(f"a line of `{path}` has only some of {', '.join(sorted(WRITTEN))}", hint=HINT)
    return parsed, len(parsed) < len(lines)


def _is_whole(folder: Path, record: Mapping[str, Any]) -> bool:
    if "sha256" not in record:  # every item of it was unreadable
        return True
    path = folder / record["file"]
    return (
        path.is_file() and path.stat().st_size == record["bytes"] and plain_file.file_digest(path) == record["sha256"]
    )


def _check_identity(folder: Path, there: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    difference = first_difference(there, now)
    if difference is not None:
        raise UsageError(
            f"`{folder}` holds shards of another job: they differ in {difference}",
            hint="choose another `--out`, or replace them with `--overwrite`",
        )


def _check_same(folder: Path, before: Manifest, record: Mapping[str, Any]) -> None:
    entries: dict[str, ShardEntry] = {e.file: e for split in before.splits.values() for e in split.shards}
    if record.get("sha256") != entries[record["file"]].sha256:
        raise IntegrityError(
            f"`{folder / record['file']}` was made again and is not what it was: its digest differs from the manifest's",
            hint="the raw files or a library have changed; prepare everything again with `--overwrite`",
        )
