"""The contract of a conditioner's file: settings, the conditions of the shards, and the module that embeds them.

`FrozenConditioner` is what conditioners with a frozen network share.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from inrflow_core import registry
from inrflow_core.feature_networks import _contract
from inrflow_core.proteins.structure import Structure
from inrflow_core.sets import Condition, ConditionEmbedding, ConditionSpec, CoordValueSet


@runtime_checkable
class Conditioner(Protocol):
    """The module that `build` returns."""

    dropout: float
    """Share of sets that train without condition, from 0 to below 1; above 0 there is a `null_condition`."""

    def forward(self, condition: Condition, dropped: Bool[Tensor, " B"] | None = None) -> ConditionEmbedding:
        """Embed a condition; sets where `dropped` is True get the embedding of no condition."""
        ...

    def dummy_batch(self, sets: CoordValueSet) -> Condition:
        """A placeholder condition with the right shapes, for planning."""
        ...


@runtime_checkable
class DroppableConditioner(Conditioner, Protocol):
    """A conditioner whose `dropout` can be above 0."""

    def null_condition(self, count: int) -> ConditionEmbedding:
        """The embedding of `count` dropped conditions."""
        ...


class StoredFeatures(NamedTuple):
    """Features in the shards that an embedder made."""

    name: str
    """The condition in the shards that stores them."""
    shape: tuple[int, ...]
    """Shape of the features of one view, or of one group, of a set."""


@dataclass(frozen=True)
class ModelEmbedder:
    """The embedder that a model was trained with."""

    model_name: str
    """The model, for messages."""
    weights: Path | None
    """The folder of weights that the user names."""
    device: str
    load: Callable[[], Any]
    """Load the embedder; MissingError without its weights, IntegrityError if they are not those of the training."""


@runtime_checkable
class ConditionerPart(Protocol):
    """A conditioner's module."""

    NOUN: str
    """What samples are conditioned on, for messages: `images`."""
    GIVEN_AS: tuple[str, ...]
    """Keys of a condition, one of which a user must provide; empty if the model also samples without a condition."""
    OPTIONS: tuple[str, ...]
    """Options of `inrflow sample` that provide the condition."""
    OPTION_HINT: str
    """These options with an example of each."""
    FROM_REFERENCE: bool
    """Whether the items of a reference provide the conditions."""
    REFERENCE_METRICS: tuple[str, ...]
    """Metrics of samples conditioned on a reference's items, beside those of their domain."""
    VIEWS: str | None
    """The condition of the shards that has several views of each set, such as images or texts, of which training samples one at
    each step; None if a set has one condition."""
    Config: Any

    def required_conditions(self, config: Any) -> tuple[str, ...]:
        """Conditions to read from the shards, in addition to the domain's; labels are always read."""
        ...

    def stored_features(self, config: Any) -> StoredFeatures | None:
        """The features to read from the shards; None if the conditioner computes them or has none."""
        ...

    def num_classes(self, config: Any) -> int | None:
        """The number of classes; None for conditions other than class labels."""
        ...

    def input_from_options(self, options: Mapping[str, Any]) -> Any:
        """The input of the function that `make_encoder` returns, from the values of `OPTIONS` and related options.

        The names of options have no dashes. Raises UsageError if the conditioner takes no such input.
        """
        ...

    def provenance(self, options: Mapping[str, Any]) -> dict[str, str]:
        """The entries that record this input in the provenance of samples."""
        ...

    def input_from_structure(self, structure: Structure) -> Any:
        """The input from a reference protein; raises UsageError if a structure has no such condition."""
        ...

    def make_encoder(self, config: Any, embedder: ModelEmbedder) -> Callable[[Any], Condition]:
        """Return a function from an input to a condition of one row, or of one for each of several texts; it loads the
        embedder once.

        Raises:
            UsageError: the conditioner takes no such input, or the embedder's features have another shape.
            MissingError, IntegrityError: as `ModelEmbedder.load`.
        """
        ...

    def sample_entries(self, value: Any) -> Sequence[Mapping[str, str]]:
        """For each row of the condition of an input what the file of a sample names beside the provenance of all; empty for
        nothing."""
        ...

    def input_notes(self, value: Any) -> Sequence[str]:
        """What a person may have overlooked in an input, such as an image without an object; empty for nothing."""
        ...

    def spec(self, config: Any) -> ConditionSpec:
        """The kinds and sizes of the embedding, which the network is built for."""
        ...

    def build(self, config: Any, width: int) -> Conditioner:
        """The module; `width` is the size of the vector and of the tokens that the network takes."""
        ...


class FrozenConditioner(nn.Module):
    """A conditioner with a frozen embedder: that of the settings `embedder` and `weights`, loaded on first use."""

    config: Any

    def __init__(self) -> None:
        super().__init__()
        self._embedder: list[Any] = []  # in a list, so that it is neither a submodule nor saved

    @property
    def is_ready(self) -> bool:
        """Whether the embedder is loaded."""
        return bool(self._embedder)

    def use(self, embedder: Any) -> None:
        """Use an embedder that is already loaded."""
        self._embedder[:] = [embedder]

    def embedder(self, device: torch.device) -> Any:
        """The embedder, loaded if needed; raises what `_contract.load` raises."""
        if not self._embedder:
            folder = None if self.config.weights is None else Path(self.config.weights)
            self.use(_contract.load(self.config.embedder, folder, device))
        return self._embedder[0]


def conditioner_part(name: str) -> ConditionerPart:
    """The conditioner of that name; raises UsageError if there is none."""
    part: Any = registry.find("conditioners", name)
    return part


def conditioner_of_option(option: str) -> str | None:
    """The conditioner that an option of `inrflow sample` belongs to; None for other options."""
    return next((name for name in registry.parts("conditioners") if option in conditioner_part(name).OPTIONS), None)
