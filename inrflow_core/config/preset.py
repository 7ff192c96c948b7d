"""Presets: TOML into the typed settings of each part.

A preset is a flat TOML file with one table per part. `[domain]`, `[method]`, `[network]` and `[sampler]` name their
part and hold the settings of that part's `Config`; `[data]`, `[training]` and `[eval]` have one `Config` each. A
setting is what the dataclass field says it is: an unknown key, a wrong type and an impossible value are errors that
name the table, the key and what is allowed. Nothing is inherited between presets.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Generic, TypeVar

from inrflow_core import registry
from inrflow_core.config import data, evaluation, training
from inrflow_core.config.toml import parse_value, read_toml
from inrflow_core.config.typed import present_name, present_names, settings
from inrflow_core.errors import MissingError, UsageError, did_you_mean

NAMED = {
    "domain": "domains",
    "method": "methods",
    "network": "networks",
    "condition": "conditioners",
    "sampler": "samplers",
}
OPTIONAL = {"condition", "eval"}
FIXED = {"data": data.Config, "training": training.Config, "eval": evaluation.Config}
"""Tables that choose a part by its `name` (the optional ones may be left out), and tables with one part each."""
S = TypeVar("S")
"""A frozen dataclass of settings."""


@dataclass(frozen=True)
class Part:
    """A part that a preset names: its kind (a package of inrflow_core), its present name and its typed settings."""

    kind: str
    name: str
    config: Any

    @property
    def module(self) -> ModuleType:
        """The file that holds the part, imported when it is first needed; it is not pickled."""
        return registry.find(self.kind, self.name)


@dataclass(frozen=True)
class Table(Generic[S]):
    """The typed settings of a table that names no part."""

    config: S


@dataclass(frozen=True)
class Preset:
    """A resolved preset: everything that a run needs to know, typed."""

    name: str
    data: Table[data.Config]
    domain: Part
    method: Part
    network: Part
    condition: Part | None
    sampler: Part
    training: Table[training.Config]
    eval: Table[evaluation.Config] | None = None

    def table(self) -> dict[str, dict[str, Any]]:
        """Every setting, defaults included, as plain tables; `resolve` of it gives this preset back."""
        tables: dict[str, dict[str, Any]] = {}
        for name in (*NAMED, *FIXED):
            part: Part | Table[Any] | None = getattr(self, name)
            if part is None:
                continue
            named = {"name": part.name} if isinstance(part, Part) else {}
            tables[name] = named | {k: v for k, v in dataclasses.asdict(part.config).items() if v is not None}
        return tables


def folder() -> Path:
    """Where the presets of this installation lie: in the checkout, or inside the wheel."""
    core = Path(__file__).parent.parent
    inside = core / "presets"
    return inside if inside.is_dir() else core.parent / "presets"


def names() -> list[str]:
    """Names of all presets that come with inrflow."""
    return sorted(path.stem for path in folder().glob("*.toml"))


def load(name_or_file: str, overrides: list[str] | tuple[str, ...] = ()) -> Preset:
    """The preset of that name, or of a .toml file, with `table.key=value` overrides applied.

    Raises:
        UsageError: no such preset, or a setting that is unknown or wrong.
        MissingError: the file does not exist.
    """
    path = Path(name_or_file)
    if path.suffix == ".toml":
        if not path.is_file():
            raise MissingError(
                f"the preset file `{path}` does not exist",
                hint=f"presets that come with inrflow are named without `.toml`: {did_you_mean(path.stem, names())}",
            )
    elif name_or_file not in names():
        raise UsageError(f"no preset is called `{name_or_file}`", hint=did_you_mean(name_or_file, names()))
    else:
        path = folder() / f"{name_or_file}.toml"
    return resolve(path.stem, override(read_toml(path), overrides))


def override(tables: dict[str, Any], overrides: list[str] | tuple[str, ...]) -> dict[str, Any]:
    """Tables with `table.key=value` applied, the value written as in TOML; a bare word is a string, `none` unsets.

    `table=none` leaves out a table that a preset need not have.

    Raises:
        UsageError: a text is no such override.
    """
    result = {name: present_names(table, name) if isinstance(table, dict) else table for name, table in tables.items()}
    for text in overrides:
        address, equals, value = text.partition("=")
        table, dot, key = address.strip().partition(".")
        if table in OPTIONAL and not dot and value.strip() == "none":
            result.pop(table, None)
            continue
        if not (equals and dot and table and key):
            raise UsageError(
                f"`{text}` is not an override", hint="write `--set table.key=value`, as in `--set training.batch=64`"
            )
        target = result.setdefault(table, {})
        if not isinstance(target, dict):
            raise UsageError(f"`{table}` is not a table of a preset", hint=did_you_mean(table, [*NAMED, *FIXED]))
        key = present_name(key, table)
        if value.strip() == "none":
            target.pop(key, None)
        else:
            target[key] = parse_value(value.strip())
    return result


def resolve(name: str, tables: dict[str, Any]) -> Preset:
    """Plain tables into typed settings.

    Raises:
        UsageError: an unknown table, part or key, a wrong type, an impossible value, a missing table.
    """
    allowed = {*NAMED, *FIXED}
    for table in tables:
        if table not in allowed:
            raise UsageError(f"a preset has no table [{table}]", hint=did_you_mean(table, allowed))
    parts: dict[str, Any] = {}
    for table, kind in NAMED.items():
        if table in OPTIONAL and table not in tables:
            parts[table] = None
            continue
        values = _table(tables, table)
        part = values.pop("name", None)
        if not isinstance(part, str):
            raise UsageError(f"[{table}] names no part", hint=f"add `name`, one of {', '.join(registry.names(kind))}")
        parts[table] = Part(
            kind, registry.canonical(kind, part), settings(registry.find(kind, part).Config, values, table)
        )
    for table, config in FIXED.items():
        if table in OPTIONAL and table not in tables:
            parts[table] = None
            continue
        parts[table] = Table(settings(config, _table(tables, table), table))
    return Preset(name, **parts)


def _table(tables: dict[str, Any], name: str) -> dict[str, Any]:
    table = tables.get(name, {})
    if not isinstance(table, dict):
        raise UsageError(f"`{name}` is not a table", hint=f"write [{name}] on a line of its own")
    return dict(table)
