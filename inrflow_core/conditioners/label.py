"""Class labels as a vector that is added to the time embedding; a dropped label has a learned vector of its own.

Source: DiT (Peebles and Xie 2023), which INRFlow follows for class-conditional images.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from inrflow_core.conditioners._contract import ModelEmbedder, StoredFeatures
from inrflow_core.errors import UsageError
from inrflow_core.proteins.structure import Structure
from inrflow_core.sets import Condition, ConditionEmbedding, ConditionSpec, CoordValueSet


@dataclass(frozen=True)
class Config:
    """Settings of the class condition."""

    classes: int
    """Number of classes."""
    dropout: float = 0.1
    """Share of sets that train without their label, for classifier-free guidance."""

    def __post_init__(self) -> None:
        if self.classes < 1:
            raise ValueError(f"`classes` is {self.classes}: at least 1")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"`dropout` is {self.dropout}: from 0 to below 1")


NOUN = "classes"
GIVEN_AS = ()
OPTIONS = ("--label",)
OPTION_HINT = "`--label NAME`"
REFERENCE_METRICS, FROM_REFERENCE, VIEWS = (), False, None


def required_conditions(config: Config) -> tuple[str, ...]:
    """No condition of the shards: labels are always read."""
    return ()


def stored_features(config: Config) -> StoredFeatures | None:
    """None: labels have no stored features."""
    return None


def num_classes(config: Config) -> int:
    """The classes of the settings."""
    return config.classes


def input_from_options(options: Mapping[str, Any]) -> Any:
    """Raises UsageError: each seed has its own label (`sampling.labels`)."""
    raise UsageError("each seed has its own class", hint="use `--label`")


def provenance(options: Mapping[str, Any]) -> dict[str, str]:
    """Nothing: the label of each sample is recorded with its seed."""
    return {}


def input_from_structure(structure: Structure) -> Any:
    """Raises UsageError: a structure has no class."""
    raise UsageError("a structure has no class", hint="use `--label`")


def make_encoder(config: Config, embedder: ModelEmbedder) -> Callable[[Any], Condition]:
    """Raises UsageError: each seed has its own label (`sampling.labels`)."""
    raise UsageError("each seed has its own class", hint="use `--label`")


def sample_entries(value: Any) -> Sequence[Mapping[str, str]]:
    """Nothing: the provenance of all samples has it."""
    return []


def input_notes(value: Any) -> Sequence[str]:
    """Nothing."""
    return []


def spec(config: Config) -> ConditionSpec:
    """A vector, no tokens and no features."""
    return ConditionSpec()


def build(config: Config, width: int) -> LabelConditioner:
    """The table of class vectors."""
    return LabelConditioner(config, width)


class LabelConditioner(nn.Module):
    """One vector per class, and one for no class."""

    def __init__(self, config: Config, width: int) -> None:
        super().__init__()
        self.classes, self.dropout = config.classes, config.dropout
        self.table = nn.Embedding(config.classes + 1, width)
        nn.init.normal_(self.table.weight, std=0.02)

    def forward(self, condition: Condition, dropped: Bool[Tensor, " B"] | None = None) -> ConditionEmbedding:
        """The vectors of the labels; -1 and dropped labels have the vector of no label."""
        labels = condition["label"] if dropped is None else condition["label"].masked_fill(dropped, -1)
        return ConditionEmbedding(self.table(torch.where(labels < 0, self.classes, labels)))

    def null_condition(self, count: int) -> ConditionEmbedding:
        """The embedding of `count` dropped labels."""
        return ConditionEmbedding(self.table.weight[self.classes].expand(count, -1))

    def dummy_batch(self, sets: CoordValueSet) -> Condition:
        """A condition of the sets with the right shapes, for planning."""
        return {"label": torch.zeros(len(sets), dtype=torch.int64)}
