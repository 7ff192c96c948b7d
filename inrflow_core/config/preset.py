"""Presets: TOML into the typed settings of each part.

A preset is a TOML file with one table per part. `[domain]`, `[method]`, `[network]` and `[sampler]` name their part and
hold the settings of that part's `Config`; a method of several networks has a table `[network.NAME]` for each. `[data]`,
`[training]` and `[eval]` have one `Config` each. The dataclass fields define the settings: an unknown key, a wrong type
and an impossible value are errors that name the table, the key and what is allowed. Presets inherit nothing from each
other.
"""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Generic, TypeVar

from inrflow_core import registry
from inrflow_core.config import from_data, training
from inrflow_core.config.toml import parse_value, read_toml
from inrflow_core.config.typed import NONE, present_name, present_names, settings, unset_by_name
from inrflow_core.errors import MissingError, UsageError, did_you_mean
from inrflow_core.storage.plain_file import did_you_mean_path

NAMED = {
    "domain": "domains",
    "method": "methods",
    "network": "networks",
    "condition": "conditioners",
    "sampler": "samplers",
}
"""Tables that choose a part by its `name`, and the package that holds such parts."""
OPTIONAL = {"condition", "sampler", "eval"}
"""Tables that a preset can lack; `[sampler]` only where the method samples without one."""
FIXED = {"data": training.DataConfig, "training": training.Config, "eval": training.EvalConfig}
"""Tables that name no part, and their `Config`."""
MOST_SIZE = 1 << 20
"""The largest whole number among the settings of a network or a condition."""
MOST_WEIGHTS = 1 << 37
"""The most weights of a network: 137 billion, half a TB."""
S = TypeVar("S")
"""A frozen dataclass of settings."""


@dataclass(frozen=True)
class Part:
    """A part that a preset names: its kind (a package of inrflow_core), its name, its typed settings and its module."""

    kind: str
    name: str
    config: Any
    module: ModuleType = dataclasses.field(init=False, repr=False, compare=False)
    """Found by kind and name; it is not pickled."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "module", registry.find(self.kind, self.name))

    def __reduce__(self) -> tuple[type[Part], tuple[str, str, Any]]:
        return Part, (self.kind, self.name, self.config)

    @classmethod
    def from_table(cls, kind: str, name: str, values: dict[str, Any], table: str) -> Part:
        """The part with a name, or an earlier name, with the settings of a table.

        Raises:
            UsageError: there is no such part, or a setting is unknown or wrong.
        """
        return cls(kind, registry.canonical(kind, name), settings(registry.find(kind, name).Config, values, table))

    def table(self) -> dict[str, Any]:
        """The name and every setting that is not None, as a plain table."""
        return {"name": self.name} | _plain(self.config)


@dataclass(frozen=True)
class Table(Generic[S]):
    """The typed settings of a table that names no part."""

    config: S


@dataclass(frozen=True)
class Preset:
    """A resolved preset: all settings of a run, typed."""

    name: str
    data: Table[training.DataConfig]
    domain: Part
    method: Part
    networks: dict[str, Part]
    """By the names in the method's `NETWORKS`; for most methods the one name `network`."""
    condition: Part | None
    sampler: Part | None
    """None where the method samples without one (`USES_SAMPLER = False`)."""
    training: Table[training.Config]
    eval: Table[training.EvalConfig] | None = None

    @property
    def network(self) -> Part:
        """The network of a method with one network."""
        (part,) = self.networks.values()
        return part

    @property
    def stages(self) -> tuple[Any, ...]:
        """The stages of the method with the settings of [method]."""
        return _stages(self.method)

    def with_network_settings(self, **changes: Any) -> Preset:
        """The preset with changed settings, in each network that has all of these settings."""
        networks = {
            name: dataclasses.replace(part, config=dataclasses.replace(part.config, **changes))
            if all(hasattr(part.config, key) for key in changes)
            else part
            for name, part in self.networks.items()
        }
        return dataclasses.replace(self, networks=networks)

    def table(self) -> dict[str, dict[str, Any]]:
        """Every setting, defaults included, as plain tables; `resolve` is the inverse."""
        networks = {name: part.table() for name, part in self.networks.items()}
        tables: dict[str, dict[str, Any]] = {
            "domain": self.domain.table(),
            "method": self.method.table(),
            "network": networks if len(networks) > 1 else self.network.table(),
        }
        for name, part in (("condition", self.condition), ("sampler", self.sampler)):
            if part is not None:
                tables[name] = part.table()
        for name, table in (("data", self.data), ("training", self.training), ("eval", self.eval)):
            if table is not None:
                tables[name] = _plain(table.config)
        tables["training"] |= tables["training"].pop("stages")
        return tables


def folder() -> Path:
    """The folder of the presets: in the checkout, or inside the wheel."""
    core = Path(__file__).parent.parent
    inside = core / "presets"
    return inside if inside.is_dir() else core.parent / "presets"


def names() -> list[str]:
    """Names of all presets that come with inrflow."""
    return sorted(path.stem for path in folder().glob("*.toml"))


def load(name_or_file: str, overrides: list[str] | tuple[str, ...] = ()) -> Preset:
    """The preset with a name, or in a .toml file, with `table.key=value` overrides applied.

    Raises:
        UsageError: no such preset, or a setting that is unknown, wrong, or to be taken from shards (`from_data`).
        MissingError: the file does not exist.
    """
    return resolve(*read(name_or_file, overrides))


def read(name_or_file: str, overrides: list[str] | tuple[str, ...] = ()) -> tuple[str, dict[str, Any]]:
    """The name of a preset, and its tables with overrides applied, before their settings are checked.

    A file may begin with `name = "..."`, as the preset.toml of a run does; else its name is that of the preset.

    Raises:
        UsageError: no such preset, a name that is not one, or a text that is not an override.
        MissingError: the file does not exist.
    """
    path = Path(name_or_file)
    if path.suffix != ".toml":
        path = find_file(name_or_file)
    elif not path.is_file():
        named = f"presets that come with inrflow are named without `.toml`: {nearest_presets(path.stem)}"
        raise MissingError(f"the preset file `{path}` does not exist", hint=did_you_mean_path(path, named))
    tables = read_toml(path)
    name = os.fsencode(path.stem).decode(errors="replace")  # bytes that no text can hold are replaced
    if not isinstance(tables.get("name", ""), dict):
        name = check_name(tables.pop("name", name), path)
    return name, override(tables, overrides)


def find_file(name: str) -> Path:
    """The file of the preset with a name that comes with inrflow.

    Raises:
        UsageError: there is none; the hint names the three nearest.
    """
    if name not in names():
        raise UsageError(f"no preset is called `{name}`", hint=nearest_presets(name))
    return folder() / f"{name}.toml"


def nearest_presets(name: str) -> str:
    """A hint with the three presets whose names are nearest."""
    return f"{did_you_mean(name, names(), most=3)} `inrflow presets` lists all"


def check_name(name: Any, path: Path) -> str:
    """The name in a preset's file: runs are written to a folder of this name.

    Raises:
        UsageError: it is not a text, or cannot be the name of a folder.
    """
    if not isinstance(name, str) or not name or name in (".", "..") or set(name) & {"/", "\\", "\0"}:
        raise UsageError(f"`name` in `{path}` is {name!r}", hint="give a text that can be the name of a folder")
    return name


def override(tables: dict[str, Any], overrides: list[str] | tuple[str, ...]) -> dict[str, Any]:
    """Tables with `table.key=value` applied, the value written as in TOML; a bare word is a string, `none` unsets.

    `network.NAME.key=value` reaches a table inside a table. `table=none` removes a table that a preset can lack.

    Raises:
        UsageError: a text is not an override.
    """
    result = _copied(tables)
    for text in overrides:
        address, equals, value = text.partition("=")
        table, *inner, key = address.strip().split(".") if "." in address else (address.strip(), "")
        if table in OPTIONAL and not key and value.strip() == "none":
            result.pop(table, None)
            continue
        if not (equals and table and all(inner) and key):
            raise UsageError(
                f"`{text}` is not an override", hint="write `--set table.key=value`, as in `--set training.batch=64`"
            )
        target = result.setdefault(table, {})
        for name in inner:
            target = target.setdefault(name, {}) if isinstance(target, dict) else target
        if not isinstance(target, dict):
            where = ".".join((table, *inner))
            raise UsageError(f"`{where}` is not a table of a preset", hint=did_you_mean(table, [*NAMED, *FIXED]))
        key = present_name(key, table)
        if value.strip() == NONE and not (table in FIXED and unset_by_name(FIXED[table], key)):
            target.pop(key, None)
        else:
            target[key] = parse_value(value.strip())
    return result


def resolve(name: str, tables: dict[str, Any]) -> Preset:
    """Plain tables into typed settings.

    Raises:
        UsageError: an unknown table, part or key, a wrong type, an impossible value, a missing table.
    """
    check_tables(tables)
    from_data.check_resolved(tables)
    parts: dict[str, Any] = {}
    for table in NAMED:
        if table == "network":
            parts["networks"] = _networks(tables, parts["method"])
        elif _is_left_out(table, tables, parts.get("method")):
            parts[table] = None
        else:
            parts[table] = _part(table, _table(tables, table))
    for table, config in FIXED.items():
        is_left_out = table in OPTIONAL and table not in tables
        parts[table] = None if is_left_out else _settings_of(table, config, tables, parts["method"])
    preset = Preset(name, **parts)
    check = getattr(preset.method.module, "check_stages", None)
    if check is not None:
        config = preset.training.config
        check(preset.method.config, {stage.name: config.for_stage(stage.name).steps for stage in preset.stages})
    return preset


def check_tables(tables: dict[str, Any]) -> None:
    """Raise UsageError unless every table is one of a preset and every named part exists; imports no part.

    Raises:
        UsageError: an unknown table or part.
    """
    allowed = {*NAMED, *FIXED}
    for table, values in tables.items():
        if table not in allowed:
            raise UsageError(f"a preset has no table [{table}]", hint=did_you_mean(table, allowed))
        name = values.get("name") if table in NAMED and isinstance(values, dict) else None
        if isinstance(name, str):
            registry.path(NAMED[table], name)


def _settings_of(table: str, config: type[Any], tables: dict[str, Any], method: Part) -> Table[Any]:
    """The settings of a table that names no part; `[training]` contains a table for each stage of the method."""
    values = _table(tables, table)
    if table == "training":
        return Table(training.parse(values, {stage.name: list(stage.optimizers) for stage in _stages(method)}))
    return Table(settings(config, values, table))


def _stages(method: Part) -> tuple[Any, ...]:
    """The stages of a method, which may depend on its settings."""
    find = getattr(method.module, "stages", None)
    return method.module.STAGES if find is None else find(method.config)


def _part(table: str, values: dict[str, Any]) -> Part:
    """The part that `[table]`, or `[network.NAME]`, names, with its settings."""
    kind = NAMED[table.partition(".")[0]]
    name = values.pop("name", None)
    if not isinstance(name, str):
        raise UsageError(f"[{table}] has no `name`", hint=f"add `name`, one of {', '.join(registry.names(kind))}")
    part = Part.from_table(kind, name, values, table)
    if kind in ("networks", "conditioners"):
        _check_sizes(part.config, table)
    return part


def _check_sizes(config: Any, table: str) -> None:
    """Raise UsageError if a network cannot be as large as it says: nothing of such a size is ever allocated."""
    for name, number in vars(config).items():
        if isinstance(number, int) and number > MOST_SIZE:
            raise UsageError(
                f"[{table}] `{name}` is {number:,}: at most {MOST_SIZE:,}",
                hint="fix the preset, or override with `--set`",
            )
    if (least := getattr(config, "least_weights", 0)) > MOST_WEIGHTS:
        raise UsageError(
            f"the network of [{table}] has at least {least:,} weights: at most {MOST_WEIGHTS:,} can be trained",
            hint="fix the preset, or override with `--set`",
        )


def _networks(tables: dict[str, Any], method: Part) -> dict[str, Part]:
    """The networks of a method: from `[network]` where it has one, else from a table `[network.NAME]` for each."""
    names = method.module.NETWORKS
    values = _table(tables, "network")
    expected = ", ".join(f"[network.{name}]" for name in names)
    inner = [key for key, value in values.items() if isinstance(value, dict)]
    if not inner and len(names) == 1:
        return {names[0]: _part("network", values)}
    if not inner:
        raise UsageError(f"the method `{method.name}` has {len(names)} networks", hint=f"write the tables {expected}")
    for key in values:
        if key not in inner:
            raise UsageError(
                f"[network] has `{key}` beside [network.{inner[0]}]", hint=f"write the tables {expected} alone"
            )
        if key not in names:
            raise UsageError(
                f"the method `{method.name}` has no network `{key}`, as in [network.{key}]",
                hint=did_you_mean(key, names),
            )
    for name in names:
        if name not in values:
            raise UsageError(
                f"[network.{name}] is missing", hint=f"the method `{method.name}` has the tables {expected}"
            )
    return {name: _part(f"network.{name}", dict(values[name])) for name in names}


def _is_left_out(table: str, tables: dict[str, Any], method: Part | None) -> bool:
    """Whether a preset may lack a table that names a part, and lacks it.

    Raises:
        UsageError: it has a sampler, and its method samples without one.
    """
    if table == "sampler" and method is not None:
        if method.module.USES_SAMPLER:
            return False
        if table in tables:
            raise UsageError(f"the method `{method.name}` samples without a sampler", hint="leave [sampler] out")
    return table in OPTIONAL and table not in tables


def _copied(values: dict[str, Any], address: str = "") -> dict[str, Any]:
    """A copy of nested tables, with the present names of settings."""
    return {
        name: _copied(value, f"{address}.{name}".strip(".")) if isinstance(value, dict) else value
        for name, value in present_names(values, address).items()
    }


def _plain(config: Any) -> dict[str, Any]:
    """The settings as a plain table, without those that are None by default."""
    table = dict(dataclasses.asdict(config))
    return _with_none(type(config), table)


def _with_none(kind: type[Any], table: dict[str, Any]) -> dict[str, Any]:
    """A table with `none` for each setting that is unset although its default is not None, and without the other unset ones."""
    result = {}
    for key, value in table.items():
        if isinstance(value, dict):
            result[key] = _with_none(kind, value)  # a stage's or an optimizer's own settings
        elif value is not None:
            result[key] = value
        elif unset_by_name(kind, key):
            result[key] = NONE
    return result


def _table(tables: dict[str, Any], name: str) -> dict[str, Any]:
    table = tables.get(name, {})
    if not isinstance(table, dict):
        raise UsageError(f"`{name}` is not a table", hint=f"write [{name}] on a line of its own")
    return dict(table)
