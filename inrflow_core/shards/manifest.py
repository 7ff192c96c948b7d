"""The manifest of a folder of shards: its content and the digest of each shard.

It is plain JSON, and the same command writes the same bytes on every machine: it contains no path, host or time.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from inrflow_core.errors import IntegrityError, MissingError
from inrflow_core.runtime.progress import Progress
from inrflow_core.storage import typed_json
from inrflow_core.storage.atomic_write import atomic_write
from inrflow_core.storage.plain_file import file_digest

NAME = "manifest.json"
FORMAT = "inrflow-shards"
SCHEMA = 1
SHARD_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*\.h5")
REPAIR_COMMAND = "prepare the data set again with `--overwrite`"


@dataclass(frozen=True)
class ShardEntry:
    """One shard of a split."""

    file: str
    count: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class ChannelStats:
    """Mean and standard deviation of the stored values per channel."""

    mean: tuple[float, ...]
    std: tuple[float, ...] = field(metadata={"key": "deviation"})


@dataclass(frozen=True)
class Split:
    """One split: its shards in order, the number of examples, and the statistics of their values."""

    count: int
    shards: tuple[ShardEntry, ...]
    statistics: ChannelStats


@dataclass(frozen=True)
class Skipped:
    """An unreadable item and the reason."""

    split: str
    name: str
    reason: str


@dataclass(frozen=True)
class LeftOut:
    """The items that one setting leaves out."""

    count: int
    names: tuple[str, ...]
    """The first of them."""


@dataclass(frozen=True)
class Manifest:
    """The content of `manifest.json`."""

    dataset: str
    domain: str
    version: str
    """The version of inrflow that wrote it."""
    shape: tuple[int, ...]
    """Shape of one example's values; the first number is 0 if examples differ in size."""
    dtype: str
    classes: tuple[str, ...]
    normalization: Mapping[str, Any] = field(metadata={"key": "normalisation"})
    settings: Mapping[str, Any]
    """The data set's settings and `limit`."""
    source: Mapping[str, Any]
    """Fingerprint of the raw files: digest of their names and sizes, number, bytes."""
    splits: Mapping[str, Split]
    skipped: tuple[Skipped, ...] = field(default=())
    left_out: Mapping[str, LeftOut] = field(default_factory=dict)
    """What filters left out, by the setting; not in the file where it is empty."""


def save(manifest: Manifest, folder: Path) -> None:
    """Write `manifest.json`, whole or not at all; its last entry is the digest of the rest."""
    table = {"format": FORMAT, "schema": SCHEMA, **typed_json.to_plain(manifest)}
    if not manifest.left_out:
        del table["left_out"]
    table["digest"] = _own_digest(table)
    with atomic_write(folder / NAME) as beside:
        beside.write_text(json.dumps(table, indent=1, ensure_ascii=True) + "\n", encoding="ascii")


def load(folder: Path) -> Manifest:
    """The manifest of a folder of shards.

    Raises:
        MissingError: there is no such folder, or it holds no manifest.
        IntegrityError: it is not a manifest, has another schema, does not match its digest, or its numbers contradict each
            other.
    """
    path = folder / NAME
    if not path.is_file():
        state = "holds no finished shards: it has no `manifest.json`" if folder.is_dir() else "does not exist"
        raise MissingError(
            f"`{folder}` {state}", hint="make shards with `inrflow prepare NAME` (`inrflow prepare --list` names them)"
        )
    table = typed_json.read_json(path, hint=REPAIR_COMMAND)
    if not isinstance(table, dict) or table.pop("format", None) != FORMAT:
        raise IntegrityError(f"`{path}` is not a manifest of shards", hint=REPAIR_COMMAND)
    schema, stated = table.pop("schema", None), table.pop("digest", None)
    if schema != SCHEMA:
        raise IntegrityError(
            f"`{path}` has schema {schema!r}, this inrflow reads {SCHEMA}", hint="prepare the data set again"
        )
    if stated != _own_digest({"format": FORMAT, "schema": schema, **table}):
        raise IntegrityError(f"`{path}` is damaged: its content does not match its digest", hint=REPAIR_COMMAND)
    loaded = typed_json.typed(table, Manifest, f"`{path}`", hint=REPAIR_COMMAND)
    if not loaded.shape or min(loaded.shape) < 0:
        raise IntegrityError(f"`{path}` is damaged: the shape of a set is {list(loaded.shape)}", hint=REPAIR_COMMAND)
    for name, split in loaded.splits.items():
        counts = [entry.count for entry in split.shards]
        if split.count != sum(counts) or min(counts, default=0) < 0:
            raise IntegrityError(
                f"`{path}` is damaged: the split `{name}` has {split.count:,} examples, and its shards have "
                f"{', '.join(f'{count:,}' for count in counts[:5])}{', ...' if len(counts) > 5 else ''}",
                hint=REPAIR_COMMAND,
            )
        for entry in split.shards:
            if not SHARD_NAME.fullmatch(entry.file):
                raise IntegrityError(
                    f"`{path}` is damaged: {entry.file!r} is not a name of a shard", hint=REPAIR_COMMAND
                )
    return loaded


def repair_hint(folder: Path, content: Manifest) -> str:
    """The hint for a damaged shard: the command that writes it again."""
    if set(content.splits) == {"samples"}:
        if (folder / NAME).is_file():
            return f"delete that shard, and repeat the `inrflow sample ... {folder}` that wrote the others"
        return "sample again with `inrflow sample --overwrite`, or remove its .sha256 to use it as it is"
    return f"prepare that shard again with `inrflow prepare {content.dataset} --source DIR --out {folder} --repair`"


def check_size(folder: Path, content: Manifest, entry: ShardEntry) -> None:
    """Raise IntegrityError unless a shard exists with its size.

    Raises:
        IntegrityError: it is missing, or has another size.
    """
    path = folder / entry.file
    if not path.is_file():
        raise IntegrityError(f"`{path}` is gone: the manifest lists it", hint=repair_hint(folder, content))
    size = path.stat().st_size
    if size != entry.bytes:
        raise IntegrityError(
            f"`{path}` is damaged: it has {size} bytes, the manifest says {entry.bytes}",
            hint=repair_hint(folder, content),
        )


def check(folder: Path, content: Manifest, entry: ShardEntry) -> None:
    """Raise IntegrityError unless a shard has its digest in the manifest; reads all of it.

    Raises:
        IntegrityError: it is missing or damaged.
    """
    check_size(folder, content, entry)
    got = file_digest(folder / entry.file)
    if got != entry.sha256:
        raise IntegrityError(
            f"`{folder / entry.file}` is damaged: its digest is {got[:8]}..., the manifest says {entry.sha256[:8]}...",
            hint=repair_hint(folder, content),
        )


def find_damaged(
    folder: Path, content: Manifest, entries: Sequence[ShardEntry], progress: Progress | None = None
) -> Iterator[tuple[ShardEntry, IntegrityError]]:
    """The damaged shards among `entries`, each with its error; reads several at once. `progress` counts bytes."""

    def problem(entry: ShardEntry) -> IntegrityError | None:
        try:
            check(folder, content, entry)
        except IntegrityError as error:
            return error
        return None

    total, done = sum(entry.bytes for entry in entries), 0
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        for entry, reason in zip(entries, pool.map(problem, entries), strict=True):
            done += entry.bytes
            if progress is not None:
                progress(done, total)
            if reason is not None:
                yield entry, reason


def _own_digest(table: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(table, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
