"""What runs of `prepare` have finished so far, so that a killed one goes on and none undoes another's work.

`.journal.jsonl` lies in the folder of the shards while they are made: first what is being made, then one line for
each finished shard. Each piece of a job array writes its lines into a file of its own beside it. All go when the
manifest comes. Who writes alone holds `.lock` alone; pieces hold it together, and each its own lock.
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
from inrflow_core.storage import atomic_write, checksum, file_lock, typed_json
from inrflow_core.storage.config_diff import first_difference
from inrflow_core.storage.plain_file import read_plain_file

NAME = ".journal.jsonl"
JOURNALS, LOCKS = ".journal*.jsonl", ".lock*"
"""The files of all pieces too."""
HALVES = ".*.partial"
"""Files that are being written."""
LONGEST = 1 << 30
"""Bytes of the largest journal."""
PATIENCE = 2.0
"""Seconds to wait for the folder: a piece that ends has it for itself for a moment."""
NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}
"""What a file system says that gives a file one name alone, as object stores that are mounted."""
SHARD = re.compile(r"\w[\w-]*-\d{5}\.h5")

Mode = Literal["resume", "overwrite", "repair"]


@dataclass(frozen=True)
class JournalHead:
    """The first line: what is being made."""

    identity: dict[str, Any]


@dataclass(frozen=True)
class ShardRecord:
    """The line of a finished shard; one without readable items has no file, so that the last three are missing."""

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
    """The manifest of the same job that was there already."""
    damaged: set[str] = field(default_factory=set)
    """Its shards that must be made again."""
    file: str = NAME
    """Where new lines go."""

    def is_pending(self, name: str) -> bool:
        """Whether a shard is still to be made."""
        return name in self.damaged if self.previous is not None else name not in self.records

    def record(self, record: dict[str, Any]) -> None:
        """Add a finished shard, durably.

        Raises:
            IntegrityError: it was to be repaired, and is not what the manifest says.
            OutOfMemory: the disk is full; the line is not there then.
        """
        if self.previous is not None:
            _check_same(self.folder, self.previous, record)
        else:
            path = self.folder / self.file
            with path.open("ab", buffering=0) as file:
                atomic_write.append_all_or_nothing(file, path, (json.dumps(record) + "\n").encode("ascii"))
                os.fsync(file.fileno())
        self.records[record["file"]] = record

    def close(self, told: Manifest) -> None:
        """Write the manifest; the journals are needed no more."""
        if told is not self.previous:
            manifest.save(told, self.folder)
        _remove(self.folder, JOURNALS)


@contextmanager
def open_journal(folder: Path, identity: Mapping[str, Any], mode: Mode) -> Iterator[Journal]:
    """The journal of a folder, which nobody else writes to meanwhile; leaves no folder without shards behind.

    Raises:
        LockedByAnotherRun: another process is at work there.
        UsageError: a file is in the way, or other shards are there and `mode` is not `overwrite`.
        IntegrityError: a shard is damaged, and `mode` is `resume`.
    """
    try:
        with _held(folder / LOCK, _writing(folder), patience=PATIENCE) as is_alone:
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
    """The journal of a folder to which other pieces write meanwhile; `share` names the shards of this one.

    Of the finished shards only those of the share are looked at.

    Raises:
        LockedByAnotherRun: another process has the same piece, or has the folder for itself.
        UsageError: a file is in the way, or other shards are there or being made.
        IntegrityError: the manifest is there, and a shard is not.
    """
    twice = f"piece {piece} of `{folder}` is being made by another `inrflow prepare`"
    try:
        with _held(folder / piece.lock, twice):
            try:
                with _held(folder / LOCK, _writing(folder), "together", patience=PATIENCE):
                    yield _read(folder, identity, piece=piece, share=share)
            finally:
                _tidy(folder)
                (folder / piece.lock).unlink(missing_ok=True)
    finally:
        _leave(folder)


def completed_shards(folder: Path) -> set[str]:
    """The names of all shards that some run has noted as finished."""
    return {line["file"] for path in folder.glob(JOURNALS) for line in _lines(path)[0] if "file" in line}


def recorded_dataset(folder: Path, name: str) -> str:
    """The name that a folder's manifest or journal gives to the data set `name`; `name` where it holds no shards of it.

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
def _held(path: Path, busy: str, kind: Literal["alone", "together"] = "alone", patience: float = 0.0) -> Iterator[bool]:
    with contextlib.ExitStack() as stack:
        try:
            is_held = stack.enter_context(file_lock.try_lock(path, kind, patience=patience))
        except (FileExistsError, NotADirectoryError) as error:
            raise UsageError(
                f"`{path.parent}` cannot be a folder: a file is in the way", hint="choose another `--out`"
            ) from error
        except BlockingIOError as error:
            raise LockedByAnotherRun(busy, hint="wait for it, or choose another `--out`") from error
        yield is_held


def _writing(folder: Path) -> str:
    return f"another `inrflow prepare` is writing to `{folder}`"


def _tidy(folder: Path) -> None:
    """After a piece: leave nothing behind where nothing was made, unless another is at work."""
    with contextlib.suppress(LockedByAnotherRun), _held(folder / LOCK, _writing(folder)) as is_alone:
        if is_alone and ((folder / manifest.NAME).exists() or not completed_shards(folder)):
            _clean(folder)


def _clean(folder: Path) -> None:
    """Remove half-written files and locks, and the journals of runs that finished no shard. By who writes alone."""
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
    for path in list(folder.iterdir()):
        if SHARD.fullmatch(path.name) or path.name == manifest.NAME:
            path.unlink()
    _remove(folder, JOURNALS)


def _read(
    folder: Path,
    identity: Mapping[str, Any],
    *,
    mode: Mode = "resume",
    piece: ArrayTask | None = None,
    share: Collection[str] | None = None,
) -> Journal:
    # In this order: another piece may begin, and then make a shard, at any moment.
    others = sorted(path.name for path in folder.iterdir() if not any(map(path.match, (LOCKS, HALVES, JOURNALS))))
    if (folder / manifest.NAME).exists():
        return _finished(folder, identity, mode)
    if not (folder / NAME).exists():
        if others:
            raise UsageError(
                f"`{folder}` is not empty: it holds `{others[0]}`, which `inrflow prepare` did not write",
                hint="choose another `--out`, or empty it",
            )
        _begin(folder, identity)
    return _unfinished(folder, identity, piece, share)


def _begin(folder: Path, identity: Mapping[str, Any], *, anew: bool = False) -> None:
    """Write what is being made, whole or not at all; of several that do, the first is believed."""
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
    """Give a whole file its name, unless another has it already."""
    try:
        os.link(beside, path)
    except FileExistsError:
        pass
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        if not path.exists():
            beside.replace(path)  # of two that begin in the same moment the last is believed


def _write(path: Path, lines: Sequence[Mapping[str, Any]]) -> None:
    """A whole journal: a kill leaves the old one or the new one."""
    with atomic_write.atomic_write(path) as beside:
        beside.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="ascii")


def _finished(folder: Path, identity: Mapping[str, Any], mode: Mode) -> Journal:
    """The folder of a finished run of the same job, with what of it is damaged."""
    told = manifest.load(folder)
    _check_identity(folder, typed_json.to_plain(told), identity)
    entries = [entry for split in told.splits.values() for entry in split.shards]
    if mode == "repair":
        damaged = {entry.file for entry, _ in manifest.find_damaged(folder, told, entries)}
        return Journal(folder, identity, previous=told, damaged=damaged)
    for entry in entries:
        manifest.check_size(folder, told, entry)
    return Journal(folder, identity, previous=told)


def _unfinished(
    folder: Path, identity: Mapping[str, Any], piece: ArrayTask | None, share: Collection[str] | None
) -> Journal:
    """The folder of runs that were stopped or are at work, with those shards that are what their journal says.

    With a `share` those outside it are believed: who makes the manifest looks at all.
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
    if is_torn:  # a kill in the middle of a line: the next one must not be glued to it
        _write(mine, parsed)
    records = {
        line["file"]: line for path in sorted(folder.glob(JOURNALS)) for line in _lines(path)[0] if "file" in line
    }
    asked = [line for name, line in records.items() if share is None or name in share]
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        broken = {
            line["file"]
            for line, is_whole in zip(asked, pool.map(lambda line: _is_whole(folder, line), asked), strict=True)
            if not is_whole
        }
    kept = {name: line for name, line in records.items() if name not in broken}
    return Journal(folder, identity, kept, file=mine.name)


def _lines(path: Path) -> tuple[list[dict[str, Any]], bool]:
    """The whole lines of a journal, and whether there is another; nothing where there is no journal."""
    try:
        lines = read_plain_file(path, LONGEST).splitlines()
    except MissingError:
        return [], False
    parsed = [line for line in map(typed_json.parse_line, lines) if line is not None]
    for line in parsed:
        kind = ShardRecord if "file" in line else JournalHead
        typed_json.typed(
            line, kind, f"a line of `{path}`", hint="remove it: its shards are then made again", extra=True
        )
    return parsed, len(parsed) < len(lines)


def _is_whole(folder: Path, record: Mapping[str, Any]) -> bool:
    if "sha256" not in record:  # every item of it was unreadable
        return True
    path = folder / record["file"]
    return path.is_file() and path.stat().st_size == record["bytes"] and checksum.file_digest(path) == record["sha256"]


def _check_identity(folder: Path, there: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    found = first_difference(there, now)
    if found is not None:
        raise UsageError(
            f"`{folder}` holds shards that were made otherwise: they differ in {found}",
            hint="choose another `--out`, or replace them with `--overwrite`",
        )


def _check_same(folder: Path, before: Manifest, record: Mapping[str, Any]) -> None:
    entries: dict[str, ShardEntry] = {e.file: e for split in before.splits.values() for e in split.shards}
    if record.get("sha256") != entries[record["file"]].sha256:
        raise IntegrityError(
            f"`{folder / record['file']}` was made again and is not what it was: its digest differs from the manifest's",
            hint="the raw files or a library have changed; prepare everything again with `--overwrite`",
        )
