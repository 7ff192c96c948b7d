"""The job of one call of `prepare`: its settings, its shards and its report."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from inrflow_core import __version__, registry
from inrflow_core.datasets._contract import DatasetIndex, Item
from inrflow_core.datasets._homes import home_hint
from inrflow_core.errors import MissingError, UnreadableItemError
from inrflow_core.preparation import notes
from inrflow_core.shards import schema
from inrflow_core.shards.manifest import LeftOut, Manifest, Skipped
from inrflow_core.storage import typed_json
from inrflow_core.storage.plain_file import did_you_mean_path

MIN_ITEMS, MAX_ITEMS = 256, 4096
"""Examples of a shard; the shards of a small split may have fewer."""
MAX_SHARD_BYTES = 256 << 20
"""Bytes of the values and conditions of a shard, which a worker holds in memory until it is complete."""
SHARDS_OF_A_SPLIT = 16
"""A split has at least this number, where each then has `MIN_ITEMS` examples: work for as many workers."""


@dataclass(frozen=True)
class PrepareJob:
    """What to prepare, from where, to where."""

    name: str
    source: Path
    out: Path
    config: Any
    limit: int | None = None
    """At most this number of items of each split, evenly spaced."""

    @property
    def dataset(self) -> ModuleType:
        """The data set's file."""
        return registry.find("datasets", self.name)


@dataclass(frozen=True)
class Report:
    """What `prepare` did, or with a dry run would do."""

    dataset: str
    out: str
    splits: Mapping[str, int]
    shards: int
    num_written: int = field(metadata={"key": "made"})
    """Shards that this run wrote; the others were there already."""
    bytes: int
    skipped: tuple[Skipped, ...] = ()
    seconds: float | None = None
    """Predicted by a dry run."""
    num_pending: int = field(default=0, metadata={"key": "left"})
    """In a job array: shards of other runs that are not finished."""
    is_whole: bool = True
    """Whether the manifest is written. If not, the numbers are those of this run of a job array."""
    left_out: Mapping[str, LeftOut] = field(default_factory=dict)
    """What filters left out, by the setting."""
    notes: tuple[str, ...] = ()
    """What a user should know, as a setting without effect."""


@dataclass(frozen=True)
class ShardTask:
    """The items of one shard, with its path, header and shape."""

    name: str
    config: Any
    path: Path
    header: schema.Header
    items: Sequence[Item]
    shape: tuple[int, ...]
    dtype: str
    coordinates: np.ndarray | None
    is_ragged: bool


def resolve_job(
    name: str, source: Path | None = None, out: Path | None = None, config: Any = None, limit: int | None = None
) -> PrepareJob:
    """A job with default folders: from `data/NAME` (`INRFLOW_DATA` replaces `data`) to `shards/NAME`.

    The folder of a data set with a `resolution` is `shards/NAME-RESOLUTION`.
    """
    name = name.replace("_", "-")
    config = registry.find("datasets", name).Config() if config is None else config
    resolution = getattr(config, "resolution", None)
    folder = name if resolution is None else f"{name}-{resolution}"
    return PrepareJob(name, source or _default_source(name), out or Path("shards") / folder, config, limit)


def _default_source(name: str) -> Path:
    return Path(os.environ.get("INRFLOW_DATA") or "data") / name


def scan(job: PrepareJob) -> DatasetIndex:
    """The items that a job reads, with its `limit`.

    Raises:
        MissingError: the source does not exist, is empty, or has another layout.
    """
    if job.dataset.NEEDS_SOURCE and not job.source.exists():
        reads = f"docs/data-sets.md says what `inrflow prepare {job.name}` reads{home_hint(job.name)}"
        is_default = job.source == _default_source(job.name)
        what = "put the data set there, or name its place with `--source DIR`" if is_default else "check `--source`"
        raise MissingError(
            f"no data for `{job.name}`: `{job.source}` does not exist",
            hint=f"{what}; {reads}" if is_default else did_you_mean_path(job.source, f"{what}; {reads}"),
        )
    try:
        plan = job.dataset.scan(job.source, job.config)
    except UnreadableItemError as bad:
        raise MissingError(
            f"`{job.source}` cannot be looked through: {bad.reason}", hint="copy the damaged file again"
        ) from bad
    if not any(plan.splits.values()) and plan.left_out:
        reasons = ", ".join(f"{left.count:,} by {setting}" for setting, left in plan.left_out.items())
        raise MissingError(
            f"the settings leave out all items of `{job.source}`: {reasons}", hint="change these settings"
        )
    if not any(plan.splits.values()):
        raise MissingError(
            f"`{job.source}` holds no items of `{job.name}`", hint="look into it, or name another `--source`"
        )
    if job.limit is not None:
        splits = {name: evenly_spaced(items, job.limit) for name, items in plan.splits.items()}
        plan = dataclasses.replace(plan, splits=splits)
    found = (*plan.notes, *notes.on_share(job.config, plan), *notes.on_empty_classes(plan))
    return dataclasses.replace(plan, notes=found)


def evenly_spaced(items: Sequence[Item], count: int) -> Sequence[Item]:
    """`count` items, evenly spaced, so that every class is among them; all if there are fewer."""
    total = len(items)
    return items if total <= count else [items[index * total // count] for index in range(count)]


def plan_shards(job: PrepareJob, plan: DatasetIndex) -> list[ShardTask]:
    """The shards of all items; their number depends only on the number and size of the items."""
    parts = []
    for split, items in plan.splits.items():
        largest = max(1, min(MAX_ITEMS, MAX_SHARD_BYTES // max(1, items_bytes(plan, 1))))
        shard_size = min(largest, max(MIN_ITEMS, -(-len(items) // SHARDS_OF_A_SPLIT)))
        count = -(-len(items) // shard_size)
        header = schema.Header(job.dataset.DOMAIN, job.name, split, plan.normalization, plan.classes, _settings(job))
        for number in range(count):
            mine = items[number * len(items) // count : (number + 1) * len(items) // count]
            path = job.out / f"{split}-{number:05d}.h5"
            parts.append(
                ShardTask(
                    job.name, job.config, path, header, mine, plan.shape, plan.dtype, plan.coordinates, plan.is_ragged
                )
            )
    return parts


def manifest_without_shards(job: PrepareJob, plan: DatasetIndex) -> Manifest:
    """The part of a manifest that is known before the first item is read."""
    return Manifest(
        dataset=job.name,
        domain=job.dataset.DOMAIN,
        version=__version__,
        shape=(0, *plan.shape[1:]) if plan.is_ragged else plan.shape,
        dtype=plan.dtype,
        classes=plan.classes,
        normalization=dict(plan.normalization),
        settings=_settings(job),
        source=dataclasses.asdict(plan.fingerprint),
        splits={},
    )


def manifest_identity(job: PrepareJob, plan: DatasetIndex) -> dict[str, Any]:
    """That part as it is written to files: two jobs with the same identity write the same shards."""
    table = typed_json.to_plain(manifest_without_shards(job, plan))
    return {name: value for name, value in table.items() if name not in ("splits", "skipped", "left_out")}


def _settings(job: PrepareJob) -> dict[str, Any]:
    """The settings that decide the content of the shards, by their keys in files.

    A field with the metadata `is_path` is a path on this machine and is left out.
    """
    fields = [field for field in dataclasses.fields(job.config) if not field.metadata.get("is_path")]
    values = {field.metadata.get("key", field.name): getattr(job.config, field.name) for field in fields}
    settings = {name: value for name, value in values.items() if value is not None}
    return settings | ({} if job.limit is None else {"limit": job.limit})


def items_bytes(plan: DatasetIndex, items: int) -> int:
    """Bytes of the values and conditions of a number of items."""
    values = int(np.prod(plan.shape, dtype=np.int64)) * np.dtype(plan.dtype).itemsize
    return items * (values + plan.condition_bytes)
