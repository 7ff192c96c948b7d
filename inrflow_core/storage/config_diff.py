"""The first difference between two tables of settings, in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


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
