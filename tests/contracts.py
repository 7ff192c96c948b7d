"""Whether a part has what the Protocol of its package says: members, and functions that take the same arguments."""

from __future__ import annotations

import inspect
from typing import Any


def check(part: Any, protocol: Any) -> None:
    """Fail with what `part` lacks of a runtime-checkable Protocol, or takes otherwise."""
    members = _members(protocol)
    lacking = sorted(name for name in members if not hasattr(part, name))
    assert not lacking, f"{part} lacks {lacking} of {protocol.__name__}"
    for name in members:
        declared = inspect.getattr_static(protocol, name, None)
        if not inspect.isfunction(declared):
            continue
        own = inspect.signature(getattr(part, name))
        expected = [p for p in inspect.signature(declared).parameters.values() if p.name != "self"]
        names = [p.name for p in own.parameters.values()]
        assert [p.name for p in expected] == names[: len(expected)], f"{part}.{name} takes {names}"
        further = [p.name for p in list(own.parameters.values())[len(expected) :] if p.default is p.empty]
        assert not further, f"{part}.{name} needs {further}, which {protocol.__name__} does not say"


def _members(protocol: Any) -> set[str]:
    """Names that a Protocol and the Protocols under it declare."""
    declared = [base for base in protocol.__mro__ if getattr(base, "_is_protocol", False)]
    own = {name for base in declared for name in (*base.__dict__, *base.__dict__.get("__annotations__", {}))}
    return {name for name in own if not name.startswith("_")}
