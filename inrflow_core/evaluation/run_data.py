"""The data that runs under evaluation were trained on: what their presets name, and what their folders record."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from inrflow_core import models
from inrflow_core.config.training import DataConfig
from inrflow_core.errors import MissingError, UsageError
from inrflow_core.evaluation import sampling_plan
from inrflow_core.runs import run
from inrflow_core.shards import manifest
from inrflow_core.storage import plain_file, typed_json

RECORD = "environment.json"
HINT = "add `--reference PATH` with the data to compare with"


@dataclass(frozen=True)
class TrainingData:
    """What environment.json of a run says of its data."""

    data: str
    """Digest of the manifest."""
    shards: str | None = None
    """Folder that `--data` of the training named: absolute, or relative to the run's; None for that of the preset."""


def common_data(runs: Sequence[Path], *, needs_classes: bool) -> DataConfig:
    """The data that all runs were trained on, else raises UsageError; classes may differ unless the reference `needs_classes`."""
    first, *others = map(_data_of, runs)
    first = next((one for one in (first, *others) if os.path.exists(one.path) and _is_same(first, one)), first)
    for source, other in zip(runs[1:], others, strict=True):
        if not _is_same(first, other) or (needs_classes and other.classes != first.classes):
            classes = f" ({', '.join(first.classes) or 'all'}; {', '.join(other.classes) or 'all'})"
            raise UsageError(
                f"the runs `{runs[0]}` and `{source}` were trained on different data: `{first.path}` and `{other.path}`"
                f"{classes if first.classes != other.classes else ''}",
                hint="name classes of both with `--classes`"
                if _is_same(first, other)
                else "add `--reference PATH`, or evaluate them one after the other",
            )
    return first


def default_reference(runs: Sequence[Path], *, needs_classes: bool) -> tuple[Path, bool]:
    """The shards that all runs were trained on, and whether all of them record so.

    Raises:
        UsageError: they were trained on different data, or the shards are others than at the training.
        MissingError: the shards do not exist.
    """
    config = common_data(runs, needs_classes=needs_classes)
    path = Path(config.path)
    if not path.exists():
        if (record := _record_of(runs[0])) is not None and record.shards:
            what = f"the shards `{path}`, which `{runs[0]}` was trained on, do not exist"
            raise MissingError(what, hint="if they were moved, name their folder with `--reference PATH`")
        prepare = f"make them with `{config.prepare}`, or " if config.prepare else ""
        what = f"the shards `{path}`, which the preset of `{sampling_plan.run_name(runs[0])}` names, do not exist"
        raise MissingError(what, hint=f"{prepare}{HINT}")
    checked = [_is_training_data(source, path) for source in runs]  # of every run, to refuse other data
    return path, all(checked)


def _data_of(source: Path) -> DataConfig:
    """The data of a run, with the shards that its training named in place of those of its preset.

    Where those do not exist any more and the preset's are the same data, the preset's.
    """
    config = models.read_metadata(run.resolve_weights(source))[0].data.config
    folder, record = _run_folder(source), _record_of(source)
    if folder is None or record is None or not record.shards:
        return config
    recorded = [os.path.normpath(one / record.shards) for one in (folder, Path(os.path.realpath(folder)))]
    found = [path for path in (*recorded, config.path) if _digest(Path(path)) == record.data]
    return replace(config, path=found[0] if found else recorded[0])


def _is_same(one: DataConfig, other: DataConfig) -> bool:
    """Whether two runs name one folder of shards, or two that hold the same."""
    digest = _digest(Path(one.path))
    return one.path == other.path or (digest is not None and digest == _digest(Path(other.path)))


def _is_training_data(source: Path, shards: Path) -> bool:
    """Whether the shards are those of the run's record by their digest; False without a record, as of a weights file.

    Raises:
        UsageError: they are others.
    """
    record, present = _record_of(source), _digest(shards)
    if record is None or present is None or record.data == present:
        return None not in (record, present)
    what = f"`{shards}` does not hold the data that the run `{source}` was trained on"
    raise UsageError(f"{what}: its manifest was {record.data[:8]}..., this one is {present[:8]}...", hint=HINT)


def _digest(shards: Path) -> str | None:
    """The digest of the manifest of a folder of shards; None without one."""
    file = shards / manifest.NAME
    return plain_file.file_digest(file) if file.is_file() else None


def _record_of(source: Path) -> TrainingData | None:
    folder = _run_folder(source)
    return None if folder is None else typed_json.read_record(folder / RECORD, TrainingData, hint=HINT, extra=True)


def _run_folder(source: Path) -> Path | None:
    """The folder of a run, of one of its checkpoints or of a file of one; None where it has no record."""
    path = Path(os.path.abspath(source))
    folders = [path, *(one.parent.parent for one in (path, path.parent) if one.parent.name == "checkpoints")]
    found = (one for one in folders if (one / "preset.toml").is_file() and (one / RECORD).is_file())
    return next((one if source.is_absolute() else Path(os.path.relpath(one)) for one in found), None)
