"""What each preset is: its sentence, data, size, training FLOPs and the paper's figure, read in milliseconds.

The sentence and the paper's figure are in the first line of the preset's file, data and steps in its tables. Numbers that need
the networks are in `sizes.json` beside the presets, which `tools/preset_table.py` writes. Nothing here imports torch.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from inrflow_core.config import preset
from inrflow_core.config.toml import read_toml
from inrflow_core.storage import typed_json

SIZES = "sizes.json"
FIGURE = re.compile(r"\b(?:FID|FID-CLIP|FVD|MMD|COV|CLIP-S|TMD|accuracy) \d+(?:\.\d+)?")
"""A figure of a paper in the first line of a preset."""


@dataclass(frozen=True)
class Sizes:
    """The numbers of a preset that only its networks tell."""

    parameters: int
    forward_flops: float
    """Of one set with the pairs that training decodes, in the first stage."""
    training_flops: float
    """Of all steps of all stages, without recomputation."""


@dataclass(frozen=True)
class PresetSummary:
    """One row of the table of presets."""

    name: str
    what: str
    """The first line of its file."""
    domain: str
    method: str
    shards: str
    """The folder of its shards."""
    prepare: str | None
    """The command that makes them."""
    steps: tuple[tuple[int, int], ...]
    """Steps and sets a step, of each stage that has its own."""
    paper: str | None
    """The paper's figures for this model; None if the presets hold none."""
    sizes: Sizes | None
    """None for a preset that is not in `sizes.json`."""

    @property
    def dataset(self) -> str:
        """The data set that `prepare` names, else the folder of the shards."""
        return self.shards if self.prepare is None else self.prepare.removeprefix("inrflow prepare ").partition(" ")[0]


@cache
def all_sizes() -> dict[str, Sizes]:
    """The numbers of all presets, by name.

    Raises:
        MissingError, IntegrityError: `sizes.json` is absent or damaged.
    """
    path = preset.folder() / SIZES
    return typed_json.typed(typed_json.read_json(path), dict[str, Sizes], f"`{path}`")


def summary(name: str) -> PresetSummary:
    """The row of one preset.

    Raises:
        UsageError: no preset has this name.
    """
    path = preset.find_file(name)
    tables, what = read_toml(path), sentence(path)
    data = tables["data"]
    return PresetSummary(
        name,
        what,
        tables["domain"]["name"],
        tables["method"]["name"],
        data["path"],
        data.get("prepare"),
        _steps(tables["training"]),
        ", ".join(FIGURE.findall(what)) or None,
        all_sizes().get(name),
    )


def sentence(path: Path) -> str:
    """The first line of a preset's file, without its mark and full stop; empty if it is not a comment."""
    first = path.read_text(encoding="utf-8").partition("\n")[0]
    return first.removeprefix("#").strip().removesuffix(".") if first.startswith("#") else ""


def _steps(training: dict[str, Any]) -> tuple[tuple[int, int], ...]:
    """Steps and batch of each stage; a stage that the table does not name has those of all."""
    own = [table for table in training.values() if isinstance(table, dict) and "steps" in table]
    general = [training] if "steps" in training else []
    return tuple((each["steps"], each.get("batch", training.get("batch", 0))) for each in (*own, *general))
