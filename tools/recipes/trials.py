"""Trials: a recipe of a kind of data, a seed and a budget; their settings, their keys and the files of their results."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inrflow_core.config import preset
from inrflow_core.config.preset import Preset
from inrflow_core.config.toml import read_toml
from inrflow_core.errors import UsageError, did_you_mean
from inrflow_core.shards import manifest
from inrflow_core.storage import atomic_write, plain_file, typed_json
from tools.recipes.kinds import KINDS

RECIPES = Path(__file__).resolve().with_name("recipes.toml")
PRESETS = RECIPES.with_name("presets")
"""The paper recipe of each kind."""
PAPER = "paper"
"""The recipe that others are compared with: the preset of the kind without changes."""
LOSS_POINTS, METRIC_POINTS = 20, 5
"""Points of the curves of a run: held-out losses, and metrics of few samples."""
DIGITS = 12
OBJECTIVE = (
    *("path", "time", "time_mean", "time_std", "time_shift", "query_positions", "coupling", "align"),
    *("smooth_lddt", "smooth_lddt_ramp"),
)
"""Settings of [method] that the held-out loss depends on, beside the weights: losses compare at equal values alone."""

Tables = dict[str, Any]
"""Settings as the tables of a preset."""


@dataclass(frozen=True)
class Budget:
    """What a run may use, one of the two."""

    flops: float | None = None
    """Training FLOPs."""
    cpu_seconds: float | None = None
    """CPU seconds of training, at a rate that is measured before it."""


@dataclass(frozen=True)
class Trial:
    """A recipe on one kind of data, with one seed."""

    kind: str
    recipe: str
    seed: int
    changes: Mapping[str, Any]
    """The recipe's settings, by table."""
    budget: Budget
    shards: Path

    @property
    def tables(self) -> Tables:
        """The settings as written: those of the paper recipe with the recipe's changes and the seed."""
        seed = {"training": {"seed": self.seed}}
        return merged(merged(base_tables(self.kind), self.changes), seed)

    @property
    def key(self) -> str:
        """Identifies the run: other settings, data, budget or seed make another one."""
        return digest({"run": self.tables, **self._common})

    @property
    def group(self) -> str:
        """Identifies the runs that differ in the seed alone."""
        return digest({"run": merged(base_tables(self.kind), self.changes), **self._common})

    @property
    def paper_group(self) -> str:
        """The group of the paper recipe that this one is compared with."""
        return dataclasses.replace(self, changes={}).group

    @property
    def _common(self) -> dict[str, Any]:
        data = plain_file.file_digest(self.shards / manifest.NAME)
        return {"data": data, "budget": dataclasses.asdict(self.budget), "points": [LOSS_POINTS, METRIC_POINTS]}

    def folder(self, out: Path) -> Path:
        """The folder of the run."""
        return out / self.kind / f"{self.recipe}-{self.seed}-{self.key}"

    def preset(self, steps: int, *, has_curves: bool = True) -> Preset:
        """The settings of a run of `steps` steps, with the points of its curves or none.

        Raises:
            UsageError: the recipe names an unknown setting, or a value that it cannot have.
        """
        every = max(1, steps // (5 * LOSS_POINTS))
        curves = {"held_out_every": 5 * every, "save_every": 20 * every} if has_curves else {}
        schedule: Tables = {
            "data": {"path": str(self.shards)},
            "training": {"steps": steps, "log_every": every, **curves},
            "eval": {"every": 5 * LOSS_POINTS // METRIC_POINTS * every},
        }
        tables = merged(self.tables, schedule)
        if not has_curves:
            del tables["eval"]
        return preset.resolve(f"{self.kind}-{self.recipe}", tables)

    def objective(self) -> dict[str, Any]:
        """The settings that the held-out loss depends on beside the weights."""
        resolved = self.preset(1, has_curves=False)
        method = resolved.method.table()
        return {"domain": resolved.domain.table(), **{name: method[name] for name in OBJECTIVE if name in method}}


def base_tables(kind: str) -> Tables:
    """The settings of a kind's paper recipe."""
    return read_toml(PRESETS / f"{kind}.toml")


def read_recipes(path: Path = RECIPES) -> dict[str, dict[str, Tables]]:
    """The changes of every recipe by kind and name, `paper` first.

    Raises:
        UsageError: the file names an unknown kind, changes `paper`, or has a recipe that changes nothing.
    """
    tables = read_toml(path)
    for kind in tables:
        if kind not in KINDS:
            raise UsageError(f"`{path}` has recipes of `{kind}`", hint=did_you_mean(kind, list(KINDS)))
        for name, changes in tables[kind].items():
            if name == PAPER or not changes:
                problem = "changes the paper recipe" if name == PAPER else "changes nothing"
                raise UsageError(
                    f"[{kind}.{name}] of `{path}` {problem}", hint="give another name, and settings that differ"
                )
    return {kind: {PAPER: {}, **tables.get(kind, {})} for kind in KINDS}


def select(
    recipes: Mapping[str, Mapping[str, Tables]], kinds: Sequence[str], names: Sequence[str]
) -> dict[str, list[str]]:
    """The names of the requested recipes by kind; all of a kind without `names`, else `paper` and those that the kind has.

    Raises:
        UsageError: an unknown kind, or a recipe that no requested kind has.
    """
    for kind in kinds:
        if kind not in recipes:
            raise UsageError(f"unknown kind of data `{kind}`", hint=did_you_mean(kind, list(recipes)))
    known = list(dict.fromkeys(name for kind in kinds for name in recipes[kind]))
    for name in names:
        if name not in known:
            raise UsageError(f"no recipe of {', '.join(kinds)} is called `{name}`", hint=did_you_mean(name, known))
    return {kind: [name for name in recipes[kind] if not names or name in names] for kind in kinds}


def merged(tables: Mapping[str, Any], changes: Mapping[str, Any]) -> Tables:
    """Tables with changes, table by table."""
    result = dict(tables)
    for key, value in changes.items():
        inner = result.get(key)
        result[key] = merged(inner, value) if isinstance(inner, Mapping) and isinstance(value, Mapping) else value
    return result


def digest(value: Any) -> str:
    """The first digits of the SHA-256 of a plain value."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:DIGITS]


def beside(folder: Path, suffix: str) -> Path:
    """A file beside the folder of a run: dots in its name are part of it."""
    return folder.with_name(folder.name + suffix)


def write_result(path: Path, result: Any) -> None:
    """Write a plain value as JSON, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write.atomic_write(path) as partial:
        partial.write_text(json.dumps(result, indent=1) + "\n", encoding="ascii")


def read_result(path: Path) -> dict[str, Any] | None:
    """The table in a JSON file; None where there is no such file.

    Raises:
        IntegrityError: it is damaged.
    """
    if not path.is_file():
        return None
    return typed_json.read_table(path, hint="delete it, and run the same command again")
