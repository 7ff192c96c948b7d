"""What a run of `prepare` has finished so far, so that a killed one goes on and two never write to one place.

`.journal.jsonl` lies in the folder of the shards while they are made: first what is being made, then one line for
each finished shard. It goes when the manifest comes.
"""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from inrflow_core import manifest
from inrflow_core.errors import IntegrityError, UsageError
from inrflow_core.manifest import Manifest, ShardEntry

NAME = ".journal.jsonl"
LOCK = ".lock"
SHARD = re.compile(r"\w[\w-]*-\d{5}\.h5")

Mode = Literal["resume", "overwrite", "repair"]


@dataclass
class Journal:
    """The finished shards of one folder."""

    folder: Path
    identity: Mapping[str, Any]
    records: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Lines of the journal by the shard's file name."""
    before: Manifest | None = None
    """The manifest of the same job that was there already."""
    damaged: set[str] = field(default_factory=set)
    """Its shards that must be made again."""

    def needs(self, name: str) -> bool:
        """Whether a shard is still to be made."""
        return name in self.damaged if self.before is not None else name not in self.records

    def note(self, record: dict[str, Any]) -> None:
        """Add a finished shard, durably.

        Raises:
            IntegrityError: it was to be repaired, and is not what the manifest says.
        """
        if self.before is not None:
            _check_same(self.folder, self.before, record)
        else:
            with (self.folder / NAME).open("a", encoding="ascii") as file:
                file.write(json.dumps(record) + "\n")
                file.flush()
                os.fsync(file.fileno())
        self.records[record["file"]] = record

    def close(self, told: Manifest) -> None:
        """Write the manifest; the journal is needed no more."""
        if told is not self.before:
            manifest.save(told, self.folder)
        (self.folder / NAME).unlink(missing_ok=True)


@contextmanager
def opened(folder: Path, identity: Mapping[str, Any], mode: Mode) -> Iterator[Journal]:
    """The journal of a folder, which nobody else writes to meanwhile; leaves no folder without shards behind.

    Raises:
        UsageError: another process is at work there, a file is in the way, or other shards are there and `mode` is not
            `overwrite`.
        IntegrityError: a shard is damaged, and `mode` is `resume`.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise UsageError(
            f"`{folder}` cannot be a folder: a file is in the way", hint="choose another `--out`"
        ) from error
    try:
        with (folder / LOCK).open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise UsageError(
                    f"another `inrflow prepare` is writing to `{folder}`", hint="wait for it, or choose another `--out`"
                ) from error
            for stale in folder.glob(".*.partial"):
                stale.unlink(missing_ok=True)
            try:
                yield _read(folder, json.loads(json.dumps(identity)), mode)
            finally:
                _clean(folder)
                (folder / LOCK).unlink(missing_ok=True)
    finally:
        if not any(folder.iterdir()):
            folder.rmdir()


def _clean(folder: Path) -> None:
    """Remove half-written files, and the journal of a run that finished no shard."""
    for partial in folder.glob(".*.partial"):
        partial.unlink(missing_ok=True)
    if not any(SHARD.fullmatch(path.name) for path in folder.iterdir()):
        (folder / NAME).unlink(missing_ok=True)


def _read(folder: Path, identity: Mapping[str, Any], mode: Mode) -> Journal:
    if mode == "overwrite":
        for path in list(folder.iterdir()):
            if SHARD.fullmatch(path.name) or path.name in (NAME, manifest.NAME):
                path.unlink()
    if (folder / manifest.NAME).exists():
        return _finished(folder, identity, mode)
    if (folder / NAME).exists():
        return _unfinished(folder, identity)
    others = sorted(path.name for path in folder.iterdir() if path.name != LOCK)
    if others:
        raise UsageError(
            f"`{folder}` is not empty: it holds `{others[0]}`, which `inrflow prepare` did not write",
            hint="choose another `--out`, or empty it",
        )
    (folder / NAME).write_text(json.dumps({"identity": identity}) + "\n", encoding="ascii")
    return Journal(folder, identity)


def _finished(folder: Path, identity: Mapping[str, Any], mode: Mode) -> Journal:
    """The folder of a finished run of the same job, with what of it is damaged."""
    told = manifest.load(folder)
    _check_identity(folder, json.loads(json.dumps(dataclasses.asdict(told))), identity)
    entries = [entry for split in told.splits.values() for entry in split.shards]
    if mode == "repair":
        damaged = {entry.file for entry, _ in manifest.problems(folder, told, entries)}
        return Journal(folder, identity, before=told, damaged=damaged)
    for entry in entries:
        manifest.check_size(folder, told, entry)
    return Journal(folder, identity, before=told)


def _unfinished(folder: Path, identity: Mapping[str, Any]) -> Journal:
    """The folder of a run that was stopped, with those of its shards that are what its journal says."""
    lines = (folder / NAME).read_text(encoding="ascii", errors="replace").splitlines()
    parsed = [line for line in map(_parsed, lines) if line is not None]
    head = parsed[0].get("identity") if parsed else None
    if head is None:
        (folder / NAME).write_text(json.dumps({"identity": identity}) + "\n", encoding="ascii")
        return Journal(folder, identity)
    _check_identity(folder, head, identity)
    if len(parsed) < len(lines):  # a kill in the middle of a line: the next one must not be glued to it
        whole = "".join(json.dumps(line) + "\n" for line in parsed)
        (folder / NAME).write_text(whole, encoding="ascii")
    records = {line["file"]: line for line in parsed[1:]}
    return Journal(folder, identity, {name: line for name, line in records.items() if _is_whole(folder, line)})


def _is_whole(folder: Path, record: Mapping[str, Any]) -> bool:
    if "sha256" not in record:  # every item of it was unreadable
        return True
    path = folder / record["file"]
    return path.is_file() and path.stat().st_size == record["bytes"] and manifest.digest(path) == record["sha256"]


def _parsed(line: str) -> dict[str, Any] | None:
    try:
        value = json.loads(line)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def difference(there: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    """The first thing in which two jobs differ, in words; None where they are the same.

    Only the version of inrflow may differ.
    """
    for name in [name for name in now if name != "version" and there.get(name) != now[name]]:
        one, other = there.get(name), now[name]
        if not (isinstance(one, dict) and isinstance(other, dict)):
            return f"`{name}`"
        for key in sorted({*one, *other}, key=str):
            if one.get(key) != other.get(key):
                return f"`{name}` `{key}`, {one.get(key)!r} there and {other.get(key)!r} here"
    return None


def _check_identity(folder: Path, there: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    found = difference(there, now)
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
