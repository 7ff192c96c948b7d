"""Plain values into frozen dataclasses of settings, with keys, types and ranges checked."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from typing import Any, Literal, TypeVar, cast

from inrflow_core.errors import UsageError, did_you_mean

S = TypeVar("S")
"""A frozen dataclass of settings."""
NONE = "none"
"""The value, in a preset, of a setting that is unset although its default is not None: TOML has no null."""

EARLIER_NAMES = {
    "method": {"copies": "noise_draws_per_example", "time_deviation": "time_std"},
    "network": {
        "reread": "cross_attend_every",
        "reread_apart": "separate_cross_attention",
        "levels": "decoder_levels",
        "top_frequency": "max_frequency",
    },
    "shapenet": {"normalisation": "normalization"},
    "mesh-folder": {"colours": "colors"},
}
"""Earlier names of settings, by table of a preset or by data set, as presets, weights files, fields and commands of users may have them."""


def present_name(key: str, table: str) -> str:
    """The present name of a setting of `[table]`, or of `[table.NAME]`."""
    return EARLIER_NAMES.get(table.partition(".")[0], {}).get(key, key)


def present_names(values: dict[str, Any], table: str) -> dict[str, Any]:
    """The values of a table, with the present names of settings as keys.

    Raises:
        UsageError: a setting is there under both names.
    """
    for key in values:
        if present_name(key, table) != key and present_name(key, table) in values:
            raise UsageError(
                f"[{table}] has `{key}` and `{present_name(key, table)}`, which are one setting",
                hint=f"leave out `{key}`",
            )
    return {present_name(key, table): value for key, value in values.items()}


def settings(
    kind: type[S], values: dict[str, Any], table: str, *, hint: str = "fix the preset, or override with `--set`"
) -> S:
    """A frozen dataclass from plain values: keys, types and (by its `__post_init__`) values are checked.

    Raises:
        UsageError: an unknown or missing key, a wrong type, or what `__post_init__` raised as ValueError, with the `hint`.
    """
    values = present_names(values, table)
    hints = typing.get_type_hints(kind)
    fields = {f.name: f for f in dataclasses.fields(cast(Any, kind))}
    for key in values:
        if key not in fields:
            raise UsageError(f"[{table}] has no setting `{key}`", hint=did_you_mean(key, fields))
    for key, f in fields.items():
        if key not in values and f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING:
            raise UsageError(f"[{table}] needs the setting `{key}`", hint=f"add `{key}`, {_type_name(hints[key])}")
    typed = {key: _typed(value, hints[key], f"[{table}] `{key}`") for key, value in values.items()}
    try:
        return kind(**typed)
    except ValueError as error:
        raise UsageError(f"[{table}] {error}", hint=hint) from error


def unset_by_name(kind: type[Any], key: str) -> bool:
    """Whether `none` in a preset turns a setting off: it can be None, or is a list that may be empty, and neither by default."""
    field = next((f for f in dataclasses.fields(kind) if f.name == key), None)
    if field is None or field.default is dataclasses.MISSING or not field.default:
        return False
    return bool(field.metadata.get("may_be_empty")) or type(None) in typing.get_args(typing.get_type_hints(kind)[key])


def _typed(value: Any, hint: Any, where: str, *, or_none: bool = False) -> Any:
    """`value` as the annotated type; UsageError names what is allowed, with `or_none` also `none`."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if value == NONE and str not in arguments:
            return None
        for choice in arguments:
            if choice is not type(None):
                return _typed(value, choice, where, or_none=str not in arguments)
    if origin is Literal:
        if value in arguments and type(value) in {type(a) for a in arguments}:
            return value
        raise UsageError(f"{where} is {value!r}", hint=did_you_mean(str(value), [str(a) for a in arguments]))
    if origin is tuple and value == NONE:
        return ()
    if origin is tuple and isinstance(value, list | tuple):
        return tuple(_typed(item, arguments[0], where) for item in value)
    if hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        if not math.isfinite(value):
            raise UsageError(f"{where} is {value}", hint="give a finite number")
        return float(value)
    if hint in (int, float, str, bool) and type(value) is hint:
        return value
    raise UsageError(f"{where} is {value!r}", hint=f"give {_type_name(hint)}{f' or `{NONE}`' if or_none else ''}")


def _type_name(hint: Any) -> str:
    plain = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}
    if hint in plain:
        return plain[hint]
    arguments = [a for a in typing.get_args(hint) if a is not type(None)]
    if typing.get_origin(hint) is Literal:
        return "one of " + ", ".join(f"`{a}`" for a in arguments)
    if typing.get_origin(hint) is tuple:
        return f"a list, each {_type_name(arguments[0])}"
    return _type_name(arguments[0]) if arguments else str(hint)
