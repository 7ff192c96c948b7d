"""Read and write TOML tables."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import tomli

from inrflow_core.errors import UsageError
from inrflow_core.storage.plain_file import read_plain_file

MAX_BYTES = 1 << 20
"""Bytes of the largest preset."""


def read_toml(path: Path) -> dict[str, Any]:
    """The tables of a TOML file.

    Raises:
        MissingError, IntegrityError: the file does not exist, is not a plain file, or is larger than MAX_BYTES.
        UsageError: it is not TOML; the message has file and position.
    """
    return parse_toml(read_plain_file(path, MAX_BYTES, hint="name a preset file"), f"`{path}`")


def parse_toml(content: bytes | str, where: str) -> dict[str, Any]:
    """The tables of TOML text; `where` names it in errors.

    Raises:
        UsageError: it is not UTF-8, not TOML, nested too deeply, or has a number of thousands of digits.
    """
    hint = "fix the file at that position"
    try:
        return tomli.loads(content if isinstance(content, str) else content.decode("utf-8-sig"))
    except (
        ValueError,
        RecursionError,
    ) as error:  # of these are TOMLDecodeError, UnicodeDecodeError and too many digits
        raise UsageError(f"{where} is not valid TOML: {error}", hint=hint) from error


def to_toml(tables: dict[str, dict[str, Any]]) -> str:
    """Plain tables as TOML text, in order; None is left out."""
    return "\n\n".join(block for name, table in tables.items() for block in _blocks(name, table)) + "\n"


def _blocks(name: str, table: dict[str, Any]) -> list[str]:
    """A table as text, followed by the tables inside it as `[name.inner]`."""
    inner = {key: value for key, value in table.items() if isinstance(value, dict)}
    lines = [f"{key} = {spell(value)}" for key, value in table.items() if value is not None and key not in inner]
    blocks = ["\n".join([f"[{name}]", *lines])]
    for key, value in inner.items():
        blocks += _blocks(f"{name}.{key}", value)
    return blocks


def parse_value(text: str) -> Any:
    """A TOML value; text that is not TOML is a string."""
    try:
        return tomli.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):
        return text


def spell(value: Any) -> str:
    """A value as TOML text."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(spell(item) for item in value) + "]"
    if isinstance(value, str):
        # A JSON text, which is one of TOML but for DEL; bytes that are not UTF-8 (of a file name) become `?`.
        text = json.dumps(value.encode(errors="replace").decode(), ensure_ascii=False)
        return text.replace("\x7f", "\\u007f")
    return repr(value)
