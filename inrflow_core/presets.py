"""Presets: TOML into the typed settings of each part.

A preset is a flat TOML file with one table per part. `[domain]`, `[method]`, `[network]` and `[sampler]` name their
part and hold the settings of that part's `Config`; `[data]`, `[training]` and `[eval]` have one `Config` each. A
setting is what the dataclass field says it is: an unknown key, a wrong type and an impossible value are errors that
name the table, the key and what is allowed. Nothing is inherited between presets.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

import tomli

from inrflow_core import registry
from inrflow_core.errors import MissingError, UsageError, did_you_mean

NAMED = {
    "domain": "domains",
    "method": "methods",
    "network": "networks",
    "condition": "conditioners",
    "sampler": "samplers",
}
OPTIONAL = {"condition", "eval"}
FIXED = {"data": ("training", "loader"), "training": ("training", "settings"), "eval": ("training", "evaluation")}
"""Tables that choose a part by its `name` (the optional ones may be left out), and tables with one part each."""


S = TypeVar("S")
"""A frozen dataclass of settings."""


@dataclass(frozen=True)
class Part:
    """One table of a preset: the part's name (None where there is only one) and its typed settings."""

    name: str | None
    config: Any


@dataclass(frozen=True)
class Preset:
    """A resolved preset: everything that a run needs to know, typed."""

    name: str
    data: Part
    domain: Part
    method: Part
    network: Part
    condition: Part | None
    sampler: Part
    training: Part
    eval: Part | None = None

    def table(self) -> dict[str, dict[str, Any]]:
        """Every setting, defaults included, as plain tables; `resolve` of it gives this preset back."""
        tables: dict[str, dict[str, Any]] = {}
        for name in (*NAMED, *FIXED):
            part: Part | None = getattr(self, name)
            if part is None:
                continue
            named = {} if part.name is None else {"name": part.name}
            tables[name] = named | {k: v for k, v in dataclasses.asdict(part.config).items() if v is not None}
        return tables


def folder() -> Path:
    """Where the presets of this installation lie: in the checkout, or inside the wheel."""
    inside = Path(__file__).parent / "presets"
    return inside if inside.is_dir() else Path(__file__).parent.parent / "presets"


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


def read_toml(path: Path) -> dict[str, Any]:
    """The tables of a TOML file.

    Raises:
        UsageError: it is no TOML; names the file and the place.
    """
    try:
        return tomli.loads(path.read_text(encoding="utf-8"))
    except (tomli.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"`{path}` is not valid TOML: {error}", hint="mend the file at the place named") from error


def override(tables: dict[str, Any], overrides: list[str] | tuple[str, ...]) -> dict[str, Any]:
    """Tables with `table.key=value` applied, the value written as in TOML; a bare word is a string, `none` unsets.

    `table=none` leaves out a table that a preset need not have.

    Raises:
        UsageError: a text is no such override.
    """
    result = {name: dict(table) if isinstance(table, dict) else table for name, table in tables.items()}
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
        if value.strip() == "none":
            target.pop(key, None)
        else:
            target[key] = _toml_value(value.strip())
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
        parts[table] = Part(part, settings(registry.find(kind, part).Config, values, table))
    for table, (kind, part) in FIXED.items():
        if table in OPTIONAL and table not in tables:
            parts[table] = None
            continue
        parts[table] = Part(None, settings(registry.find(kind, part).Config, _table(tables, table), table))
    return Preset(name, **parts)


def settings(kind: type[S], values: dict[str, Any], table: str) -> S:
    """A frozen dataclass from plain values: keys, types and (by its `__post_init__`) values are checked.

    Raises:
        UsageError: an unknown or missing key, a wrong type, or what `__post_init__` raised as ValueError.
    """
    hints = typing.get_type_hints(kind)
    fields = {f.name: f for f in dataclasses.fields(cast(Any, kind))}
    for key in values:
        if key not in fields:
            raise UsageError(f"[{table}] has no setting `{key}`", hint=did_you_mean(key, fields))
    for key, f in fields.items():
        if key not in values and f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING:
            raise UsageError(f"[{table}] needs the setting `{key}`", hint=f"add `{key}`, {_spelled(hints[key])}")
    typed = {key: _typed(value, hints[key], f"[{table}] `{key}`") for key, value in values.items()}
    try:
        return kind(**typed)
    except ValueError as error:
        raise UsageError(f"[{table}] {error}", hint="mend the preset, or override with `--set`") from error


def to_toml(tables: dict[str, dict[str, Any]]) -> str:
    """Plain tables as TOML text, in order; None is left out."""
    blocks = []
    for name, table in tables.items():
        lines = [f"{key} = {_spell(value)}" for key, value in table.items() if value is not None]
        blocks.append("\n".join([f"[{name}]", *lines]))
    return "\n\n".join(blocks) + "\n"


def _table(tables: dict[str, Any], name: str) -> dict[str, Any]:
    table = tables.get(name, {})
    if not isinstance(table, dict):
        raise UsageError(f"`{name}` is not a table", hint=f"write [{name}] on a line of its own")
    return dict(table)


def _toml_value(text: str) -> Any:
    try:
        return tomli.loads(f"value = {text}")["value"]
    except tomli.TOMLDecodeError:
        return text


def _typed(value: Any, hint: Any, where: str) -> Any:
    """`value` as the annotated type, or an error that says what is allowed."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        for choice in arguments:
            if choice is not type(None):
                return _typed(value, choice, where)
    if origin is Literal:
        if value in arguments and type(value) in {type(a) for a in arguments}:
            return value
        raise UsageError(f"{where} is {value!r}", hint=did_you_mean(str(value), [str(a) for a in arguments]))
    if origin is tuple and isinstance(value, list | tuple):
        return tuple(_typed(item, arguments[0], where) for item in value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint in (int, float, str, bool) and type(value) is hint:
        return value
    raise UsageError(f"{where} is {value!r}", hint=f"give {_spelled(hint)}")


def _spelled(hint: Any) -> str:
    plain = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}
    if hint in plain:
        return plain[hint]
    arguments = [a for a in typing.get_args(hint) if a is not type(None)]
    if typing.get_origin(hint) is Literal:
        return "one of " + ", ".join(f"`{a}`" for a in arguments)
    if typing.get_origin(hint) is tuple:
        return f"a list, each {_spelled(arguments[0])}"
    return _spelled(arguments[0]) if arguments else str(hint)


def _spell(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_spell(item) for item in value) + "]"
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
        return f'"{escaped}"'
    return repr(value)
