"""Settings of presets that the shards decide: `resolution = "data"`.

They are numbers before anything else reads a preset: a run's `preset.toml`, weights files and samples never have them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from inrflow_core.errors import UsageError

VALUE = "data"
AT_MOST = re.compile(r"data, at most ([1-9]\d{0,8})")
"""For numbers of points: all stored points, or this number where there are more."""
EXAMPLES = {
    "domain.resolution": "64",
    "domain.channels": "3",
    "domain.num_points": "256",
    "condition.classes": "10",
    "data.held_out": "val",
}
"""The settings that can be taken from the shards, and a value for hints."""
Facts = Mapping[str, int | str | None]
"""What shards say of these settings, by `table.key`: 0 classes are none, and a split for the held-out loss may be absent."""


def unresolved(tables: Mapping[str, Any]) -> list[str]:
    """The settings, as `table.key`, that are still to be taken from the shards."""
    return [address for address in EXAMPLES if _is_from_data(_value(tables, address))]


def check_resolved(tables: Mapping[str, Any]) -> None:
    """Check that no setting is still to be taken from the shards.

    Raises:
        UsageError: one is.
    """
    missing = unresolved(tables)
    if missing:
        table, key = missing[0].split(".")
        raise UsageError(
            f'[{table}] `{key}` is "{_value(tables, missing[0])}", and no shards are at hand to take it from',
            hint=hint_to_set(missing),
        )


def hint_to_set(addresses: list[str]) -> str:
    """How to set such settings without shards."""
    return " ".join(f"`--set {address}={EXAMPLES[address]}`" for address in addresses)


def resolved(tables: Mapping[str, Any], facts: Facts) -> dict[str, Any]:
    """Tables of a preset with the facts in place of `"data"`.

    Without classes [condition] is left out, and without a split for it the held-out loss.

    Raises:
        UsageError: the shards do not say such a thing.
    """
    result = {name: dict(table) if isinstance(table, Mapping) else table for name, table in tables.items()}
    for address in unresolved(tables):
        table, key = address.split(".")
        if address not in facts:
            raise UsageError(
                f'[{table}] `{key}` is "{_value(tables, address)}", and the shards have no such number',
                hint=hint_to_set([address]),
            )
        fact, most = facts[address], AT_MOST.fullmatch(str(_value(tables, address)))
        if address == "condition.classes" and not fact:
            del result["condition"]
        elif address == "data.held_out" and fact is None:
            del result["data"]["held_out"]
            result["training"] = _without_held_out_loss(result.get("training", {}))
        else:
            result[table][key] = min(int(fact or 0), int(most[1])) if most else fact
    return result


def _without_held_out_loss(training: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: _without_held_out_loss(value) if isinstance(value, Mapping) else value
        for key, value in training.items()
        if key != "held_out_every"
    }


def _value(tables: Mapping[str, Any], address: str) -> Any:
    table, key = address.split(".")
    values = tables.get(table)
    return values.get(key) if isinstance(values, Mapping) else None


def _is_from_data(value: Any) -> bool:
    return isinstance(value, str) and (value == VALUE or AT_MOST.fullmatch(value) is not None)
