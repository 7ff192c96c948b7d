"""The preset of a training command, with the settings that its shards decide."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from inrflow_core import registry
from inrflow_core.config import from_data, preset
from inrflow_core.config.preset import Preset
from inrflow_core.domains._contract import domain_class
from inrflow_core.errors import MissingError, UsageError
from inrflow_core.runtime.progress import Log, no_log
from inrflow_core.shards import manifest
from inrflow_core.shards.manifest import Manifest
from inrflow_core.storage.plain_file import did_you_mean_path

HELD_OUT = ("val", "test")
"""Splits for the held-out loss, in this order."""


def load(
    name_or_file: str, overrides: list[str] | tuple[str, ...] = (), data: Path | None = None, *, log: Log = no_log
) -> Preset:
    """The preset with overrides, and with `"data"` replaced by what the shards in `data`, or in the preset's folder, say.

    `log` gets these settings as one line.

    Raises:
        UsageError: no such preset, a setting that is wrong, or shards of another domain.
        MissingError: the preset's file does not exist; or it takes settings from shards that do not exist.
        IntegrityError: the manifest of the shards is damaged.
    """
    name, tables = preset.read(name_or_file, overrides)
    preset.check_tables(tables)
    settings = from_data.unresolved(tables)
    if settings:
        facts = _facts(name, tables, settings, data)
        tables = from_data.resolved(tables, facts)
        log("from the shards: " + ", ".join(_described(address, tables, facts) for address in settings))
    return preset.resolve(name, tables)


def _described(address: str, tables: dict[str, Any], facts: from_data.Facts) -> str:
    """A setting that the shards decide, in words."""
    if address == "condition.classes" and "condition" not in tables:
        return "no classes, so that the model has no condition"
    if address == "data.held_out" and facts[address] is None:
        return "no split to hold out, so that there is no held-out loss"
    table, key = address.split(".")
    return f"{address} = {tables[table][key]}"


def _facts(name: str, tables: dict[str, Any], settings: list[str], data: Path | None) -> from_data.Facts:
    table = tables.get("data")
    table = table if isinstance(table, dict) else {}
    folder = Path(str(table.get("path", ""))) if data is None else data
    if not (folder / manifest.NAME).is_file():
        state = "it has no manifest.json" if folder.is_dir() else "it does not exist"
        named = ", ".join(f"`{address}`" for address in settings)
        command = f"make them with `{table['prepare']}`, " if table.get("prepare") else ""
        hint = f"{command}name another place with `--data`, or set the numbers: {from_data.hint_to_set(settings)}"
        raise MissingError(
            f"the preset `{name}` takes {named} from its shards, and looked for them in `{folder}`: {state}",
            hint=hint if data is None else did_you_mean_path(data, hint),
        )
    content = manifest.load(folder)
    domain = tables.get("domain")
    learned = domain.get("name") if isinstance(domain, dict) else None
    if content.domain != learned:
        raise UsageError(
            f"the shards in `{folder}` hold {_noun(content.domain)}, and the preset `{name}` learns {_noun(learned)}",
            hint="give other shards with `--data`, or choose another preset",
        )
    return _facts_of(content, table.get("classes") or ())


def _facts_of(content: Manifest, classes: Any) -> dict[str, int | str | None]:
    """What a manifest says, with the classes that the preset selects."""
    facts: dict[str, int | str | None] = {
        "condition.classes": len(classes or content.classes),
        "data.held_out": next((split for split in HELD_OUT if split in content.splits), None),
    }
    if len(content.shape) > 1:  # (N C), or (H W C)
        facts |= {"domain.num_points": content.shape[-2], "domain.channels": content.shape[-1]}
    if len(content.shape) > 2:
        facts |= {"domain.resolution": content.shape[-3]}
    return facts


def _noun(domain: Any) -> str:
    """What a domain's functions are; the name itself of an unknown one."""
    return domain_class(domain).NOUN if domain in registry.names("domains") else str(domain)
