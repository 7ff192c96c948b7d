"""What a conditioner is: what samples are drawn from, what a user gives for it, and what it reads of the shards.

A conditioner is a file in `conditioners/` with a frozen dataclass `Config` of settings and the members of the Protocol.
"""

from __future__ import annotations

from typing import Any, Protocol

from inrflow_core.sets import ConditionSpec


class Conditioner(Protocol):
    """The module of a conditioner."""

    NOUN: str
    """What samples are drawn from, for messages: `images`."""
    GIVEN_AS: tuple[str, ...]
    """Names in a condition, one of which a user must give; none where samples can be drawn without."""
    OPTION_HINT: str
    """The options that give it."""
    FROM_REFERENCE: bool
    """Whether the items of a reference give what samples are drawn from."""
    REFERENCE_METRICS: tuple[str, ...]
    """What samples of a reference's items are evaluated by, beside the metrics of their domain."""
    HAS_VIEWS: bool
    """Whether the shards keep several views of it for each set, of which one is read."""

    @staticmethod
    def required_conditions(config: Any) -> tuple[str, ...]:
        """Conditions of the shards that are read with the sets, beside those of the domain; labels always are."""
        ...

    @staticmethod
    def spec(config: Any) -> ConditionSpec:
        """What a network must know of the condition to be built."""
        ...

    @staticmethod
    def build(config: Any, width: int) -> Any:
        """The torch module that makes a `ConditionEmbedding` of a condition."""
        ...
