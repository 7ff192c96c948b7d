"""Read our own JSON files: limited in size and depth, and typed, so that a damaged file is an error that names the key.

`read_json` returns plain values, `read_record` a dataclass whose annotations are the types of the keys. Both raise
IntegrityError with the file, the key, what was expected and what was found.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import types
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TypeVar

from inrflow_core.errors import IntegrityError, MissingError
from inrflow_core.storage.plain_file import open_plain_file, read_plain_file

MAX_BYTES = 64 << 20
"""Bytes of the largest file: enough for a manifest of a million shards."""
MAX_LINE = 1 << 24
"""Bytes of the longest line of a log."""
MAX_DEPTH = 64
"""Tables and lists inside each other; our own files have 6."""
MAX_INTEGER = 1 << 64

R = TypeVar("R")
"""A dataclass, or any other type that `typed` knows."""

PLAIN = (str, int, float, bool)
_NAMES = {
    int: "a whole number",
    float: "a number",
    str: "a text",
    bool: "true or false",
    dict: "a table",
    list: "a list",
    type(None): "nothing",
}


def read_json(path: Path, *, hint: str | None = None, max_bytes: int = MAX_BYTES) -> Any:
    """The plain value in a JSON file.

    Raises:
        MissingError: there is no such file.
        IntegrityError: it is not a plain file, too large, not UTF-8, not JSON, nested too deeply, or has a number out of
            range.
    """
    return parse_json(read_plain_file(path, max_bytes, hint=hint), f"`{path}`", hint=hint)


def read_record(path: Path, kind: type[R], *, hint: str | None = None, extra: bool = False) -> R:
    """A JSON file as `kind`; see `typed`.

    Raises:
        MissingError, IntegrityError: as `read_json` and `typed`.
    """
    return typed(read_json(path, hint=hint), kind, f"`{path}`", hint=hint, extra=extra)


def read_table(path: Path, *, hint: str | None = None) -> dict[str, Any]:
    """The table in a JSON file.

    Raises:
        MissingError, IntegrityError: as `read_json`, or it is not a table.
    """
    return typed(read_json(path, hint=hint), dict[str, Any], f"`{path}`", hint=hint)


def parse_json(content: bytes | str, where: str, *, hint: str | None = None) -> Any:
    """The plain value in JSON text; `where` names it in errors, as "`manifest.json`".

    Raises:
        IntegrityError: as `read_json`.
    """
    try:
        text = content if isinstance(content, str) else content.decode()
        value = json.loads(text, parse_int=_integer, parse_constant=_not_finite)
    except UnicodeDecodeError as error:
        raise IntegrityError(f"{where} is not UTF-8 text: {error}", hint=hint) from error
    except RecursionError as error:
        raise IntegrityError(f"{where} is nested more than {MAX_DEPTH} deep", hint=hint) from error
    except ValueError as error:
        raise IntegrityError(f"{where} is not JSON: {error}", hint=hint) from error
    if _depth(value) > MAX_DEPTH:
        raise IntegrityError(f"{where} is nested more than {MAX_DEPTH} deep", hint=hint)
    return value


def json_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The tables on the lines of a log, in order, one line at a time in memory; none where there is no log.

    A line that is not a whole table (a kill can cut one off) is skipped.

    Raises:
        IntegrityError: the log is not a plain file, or has a line of more than `MAX_LINE` bytes.
    """
    try:
        with open_plain_file(path) as file:
            for line in lines(file, path):
                table = parse_line(line)
                if table is not None:
                    yield table
    except MissingError:
        return


def lines(file: BinaryIO, path: Path) -> Iterator[bytes]:
    """The lines of an open log from its position on, with their ends, one at a time in memory.

    Raises:
        IntegrityError: a line has more than `MAX_LINE` bytes.
    """
    while line := file.readline(MAX_LINE + 1):
        if len(line) > MAX_LINE:
            raise IntegrityError(f"`{path}` has a line of more than {MAX_LINE:,} bytes")
        yield line


def parse_line(line: bytes | str) -> dict[str, Any] | None:
    """The table on one line of a log or a journal; None where it is not a whole one."""
    try:
        value = parse_json(line, "the line")
    except IntegrityError:
        return None
    return value if isinstance(value, dict) else None


def typed(value: Any, kind: Any, where: str, *, hint: str | None = None, extra: bool = False) -> Any:
    """A plain value as `kind`: a dataclass, dict[str, X], list[X], tuple[X, ...], Literal[...], X | None, or a plain type.

    Keys that a dataclass lacks are an error, or ignored with `extra`.

    Raises:
        IntegrityError: a key is missing or unknown, or a value has another type.
    """
    try:
        return _typed(value, kind, "", extra)
    except _Mismatch as error:
        raise IntegrityError(f"{where} is damaged: {error}", hint=hint) from error


def to_plain(value: Any) -> Any:
    """A dataclass as the table that `typed` reads, and what is inside it likewise; the inverse of `typed`.

    The metadata `key` of a field is its key in files, where that is an earlier name; `typed` reads both.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = dataclasses.fields(value)
        return {field.metadata.get("key", field.name): to_plain(getattr(value, field.name)) for field in fields}
    if isinstance(value, Mapping):
        return {name: to_plain(item) for name, item in value.items()}
    return [to_plain(item) for item in value] if isinstance(value, list | tuple) else value


class _Mismatch(Exception):
    """Key, what was expected and what was found."""


def _typed(value: Any, kind: Any, key: str, extra: bool) -> Any:
    if type(value) is kind and kind in PLAIN:
        return value
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return value
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in inner:
            return None
        return _typed(value, next(choice for choice in inner if choice is not type(None)), key, extra)
    if origin is typing.Literal:
        if value in inner and type(value) in {type(choice) for choice in inner}:
            return value
        raise _Mismatch(f"{_quoted(key)} must be one of {', '.join(map(repr, inner))}, and is {_shortened(value)}")
    if dataclasses.is_dataclass(kind):
        return _record(value, kind, key, extra)
    if kind is dict or origin in (dict, Mapping, types.MappingProxyType):
        table = _is(value, dict, key)
        return {name: _typed(item, inner[1] if inner else Any, f"{key}.{name}", extra) for name, item in table.items()}
    if kind in (list, tuple) or origin in (list, tuple):
        return _sequence(_is(value, list, key), origin or kind, inner, key, extra)
    if kind is float and type(value) is int:
        return float(value)
    return _is(value, kind, key)


def _sequence(value: list[Any], kind: Any, inner: tuple[Any, ...], key: str, extra: bool) -> Any:
    if kind is tuple and inner and inner[-1] is not Ellipsis:
        if len(value) != len(inner):
            raise _Mismatch(f"{_quoted(key)} must have {len(inner)} entries, and has {len(value)}")
        return tuple(
            _typed(item, one, f"{key}[{index}]", extra)
            for index, (item, one) in enumerate(zip(value, inner, strict=True))
        )
    return kind(_typed(item, inner[0] if inner else Any, f"{key}[{index}]", extra) for index, item in enumerate(value))


class _Layout(NamedTuple):
    """The fields of a dataclass, read once: that takes longer than to read a record."""

    types: dict[str, Any]
    """Of each field, by its name."""
    renamed: dict[str, str]
    """The name of a field by its key in files, where that is another; see `to_plain`."""
    required: list[str]
    """Fields without a default."""


@functools.cache
def _layout(kind: Any) -> _Layout:
    fields = dataclasses.fields(kind)
    missing = dataclasses.MISSING
    return _Layout(
        {field.name: typing.get_type_hints(kind)[field.name] for field in fields},
        {field.metadata["key"]: field.name for field in fields if "key" in field.metadata},
        [field.name for field in fields if field.default is missing and field.default_factory is missing],
    )


def _record(value: Any, kind: Any, key: str, extra: bool) -> Any:
    table, layout = _is(value, dict, key), _layout(kind)
    for other, name in layout.renamed.items():
        if other in table and name in table:
            raise _Mismatch(f"{_quoted(f'{key}.{other}')} and {_quoted(f'{key}.{name}')} are one key")
    table = {layout.renamed.get(name, name): item for name, item in table.items()}
    for name in () if extra else table.keys() - layout.types.keys():
        raise _Mismatch(f"{_quoted(f'{key}.{name}')} is not a key that belongs there")
    for name in layout.required:
        if name not in table:
            name = next((other for other, field in layout.renamed.items() if field == name), name)
            raise _Mismatch(f"{_quoted(f'{key}.{name}')} is missing")
    members = {
        name: _typed(item, layout.types[name], f"{key}.{name}", extra)
        for name, item in table.items()
        if name in layout.types
    }
    try:
        return kind(**members)
    except ValueError as error:
        raise _Mismatch(f"{_quoted(key)}: {error}") from error


def _is(value: Any, kind: Any, key: str) -> Any:
    if type(value) is kind:
        return value
    raise _Mismatch(f"{_quoted(key)} must be {_NAMES.get(kind, str(kind))}, and is {_shortened(value)}")


def _shortened(value: Any) -> str:
    text = f"{value!r}"
    return text if len(text) <= 40 else f"{text[:37]}..."


def _quoted(key: str) -> str:
    return f"`{key.removeprefix('.')}`" if key else "its content"


def _not_finite(name: str) -> float:
    raise ValueError(f"{name} is not a number of JSON")


def _integer(digits: str) -> int:
    number = int(digits) if len(digits) <= 20 else MAX_INTEGER
    if abs(number) >= MAX_INTEGER:
        raise ValueError(f"a whole number of {len(digits):,} digits, more than 64 bits hold")
    return number


def _depth(value: Any) -> int:
    """The depth of nested tables and lists."""
    depth, level = 0, [value]
    while level := [one for one in level if isinstance(one, dict | list)]:
        depth += 1
        if depth > MAX_DEPTH:
            break
        level = [item for one in level for item in (one.values() if isinstance(one, dict) else one)]
    return depth


def first_difference(there: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    """The first difference of two jobs, in words; None where they are equal. The version of inrflow may differ."""
    for name in [name for name in now if name != "version" and there.get(name) != now[name]]:
        one, other = there.get(name), now[name]
        if not (isinstance(one, dict) and isinstance(other, dict)):
            return f"`{name}`"
        for key in sorted({*one, *other}, key=str):
            if one.get(key) != other.get(key):
                return f"`{name}` `{key}`, {one.get(key)!r} there and {other.get(key)!r} here"
    return None
