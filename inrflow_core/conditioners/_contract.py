"""The contract of a conditioner's file: settings, the conditions of the shards, and the module that embeds them.

`FrozenConditioner` is what conditioners with a frozen network share.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from inrflow_core.feature_networks import _contract
from inrflow_core.sets import Condition, ConditionEmbedding, ConditionSpec, CoordValueSet


@runtime_checkable
class Conditioner(Protocol):
    """The module that `build` returns."""

    dropout: float
    """Share of sets that train without condition, from 0 to below 1; above 0 there is a `null_condition`."""

    def forward(self, condition: Condition, dropped: Bool[Tensor, " B"] | None = None) -> ConditionEmbedding:
        """The embedding of a condition; where `dropped` is True, that of none."""
        ...

    def dummy_batch(self, sets: CoordValueSet) -> Condition:
        """A condition of the sets with the right shapes and no meaning, for planning."""
        ...


@runtime_checkable
class DroppableConditioner(Conditioner, Protocol):
    """A conditioner whose `dropout` can be above 0."""

    def null_condition(self, count: int) -> ConditionEmbedding:
        """The embedding of `count` dropped conditions."""
        ...


@runtime_checkable
class ConditionerPart(Protocol):
    """A conditioner's module."""

    NOUN: str
    """What samples are conditioned on, for messages: `images`."""
    GIVEN_AS: tuple[str, ...]
    """Names in a condition, one of which a user must give; empty where a model samples without one."""
    OPTION_HINT: str
    """The options that give it."""
    FROM_REFERENCE: bool
    """Whether the items of a reference provide the conditions."""
    REFERENCE_METRICS: tuple[str, ...]
    """Metrics of samples conditioned on a reference's items, beside those of their domain."""
    HAS_VIEWS: bool
    """Whether each set has several conditions, of which training draws one for each step."""
    Config: Any

    def required_conditions(self, config: Any) -> tuple[str, ...]:
        """Conditions of the shards that are read with the sets, beside the domain's; labels are always read."""
        ...

    def spec(self, config: Any) -> ConditionSpec:
        """What the network must know of the embedding to be built."""
        ...

    def build(self, config: Any, width: int) -> Conditioner:
        """The module; `width` is the size of the vector and of the tokens that the network takes."""
        ...


class FrozenConditioner(nn.Module):
    """A conditioner with an embedder of its settings' `embedder` and `weights`, loaded when it is first needed."""

    config: Any

    def __init__(self) -> None:
        super().__init__()
        self._embedder: list[Any] = []  # in a list: it is not a submodule, and not among the weights

    @property
    def is_ready(self) -> bool:
        """Whether the embedder is loaded."""
        return bool(self._embedder)

    def use(self, embedder: Any) -> None:
        """Compute with this embedder, which is loaded already."""
        self._embedder[:] = [embedder]

    def embedder(self, device: torch.device) -> Any:
        """The embedder, loaded if needed; raises what `_contract.load` raises."""
        if not self._embedder:
            folder = None if self.config.weights is None else Path(self.config.weights)
            self.use(_contract.load(self.config.embedder, folder, device))
        return self._embedder[0]
