"""The data that runs under evaluation were trained on: what their presets name, and what their folders record."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from inrflow_core import models
from inrflow_core.config.training import DataConfig
from inrflow_core.errors import UsageError
from inrflow_core.runs import run
from inrflow_core.shards import manifest
from inrflow_core.storage import plain_file, typed_json


@dataclass(frozen=True)
class TrainingData:
    """What environment.json of a run says of its data."""

    data: str
    """Digest of the manifest."""


def common_data(runs: Sequence[Path], *, needs_classes: bool) -> DataConfig:
    """The data that the presets of all runs name; their classes may differ unless the reference `needs_classes` of theirs.

    Raises:
        UsageError: they name different data.
    """
    one_of_them = "add `--reference PATH`, or evaluate them one after the other"
    first, *others = (models.read_metadata(run.resolve_weights(source))[0].data.config for source in runs)
    for source, other in zip(runs[1:], others, strict=True):
        if other.path != first.path or (needs_classes and other.classes != first.classes):
            raise UsageError(
                f"the runs `{runs[0]}` and `{source}` were trained on different data: `{first.path}` and `{other.path}`"
                + (
                    f" ({', '.join(first.classes) or 'all'}; {', '.join(other.classes) or 'all'})"
                    * (first.classes != other.classes)
                ),
                hint="name classes of both with `--classes`" if other.path == first.path else one_of_them,
            )
    return first


def is_training_data(source: Path, shards: Path) -> bool:
    """Whether the shards are those of the run's record by their digest; False without a record, as of a weights file.

    Raises:
        UsageError: they are others.
    """
    record = source / "environment.json"
    if not record.is_file() or not (shards / manifest.NAME).is_file():
        return False
    recorded = typed_json.read_record(record, TrainingData, hint="add `--reference PATH`", extra=True).data
    present = plain_file.file_digest(shards / manifest.NAME)
    if recorded != present:
        raise UsageError(
            f"`{shards}` does not hold the data that the run `{source}` was trained on: its manifest was "
            f"{recorded[:8]}..., this one is {present[:8]}...",
            hint="add `--reference PATH` with the data to compare with",
        )
    return True
