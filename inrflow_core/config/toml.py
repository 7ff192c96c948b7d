"""Read and write TOML tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tomli

from inrflow_core.errors import UsageError


def read_toml(path: Path) -> dict[str, Any]:
    """The tables of a TOML file.

    Raises:
        UsageError: it is no TOML; names the file and the place.
    """
    try:
        return tomli.loads(path.read_text(encoding="utf-8"))
    except (tomli.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"`{path}` is not valid TOML: {error}", hint="mend the file at the place named") from error


def to_toml(tables: dict[str, dict[str, Any]]) -> str:
    """Plain tables as TOML text, in order; None is left out."""
    return "\n\n".join(block for name, table in tables.items() for block in _blocks(name, table)) + "\n"


def _blocks(name: str, table: dict[str, Any]) -> list[str]:
    """A table as text, and those inside it after it, as `[name.inner]`."""
    inner = {key: value for key, value in table.items() if isinstance(value, dict)}
    lines = [f"{key} = {_spell(value)}" for key, value in table.items() if value is not None and key not in inner]
    blocks = ["\n".join([f"[{name}]", *lines])]
    for key, value in inner.items():
        blocks += _blocks(f"{name}.{key}", value)
    return blocks


def parse_value(text: str) -> Any:
    try:
        return tomli.loads(f"value = {text}")["value"]
    except tomli.TOMLDecodeError:
        return text


def _spell(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_spell(item) for item in value) + "]"
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
        return f'"{escaped}"'
    return repr(value)
