"""A method that only tests have: it learns to predict some views of an object from another one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from inrflow_core.config.preset import Preset
from inrflow_core.errors import UsageError
from inrflow_core.methods._contract import Method, Stage, StepState
from inrflow_core.sets import SetSpec, TrainBatch

STAGES = (Stage("train"),)
NETWORKS = ("network",)
USES_SAMPLER = False


@dataclass(frozen=True)
class Config:
    """Settings of `[method]`: none."""


@dataclass(frozen=True)
class SamplingConfig:
    """Nothing can be changed."""


class Prediction(nn.Module, Method):
    """The squared error of the predicted views."""

    STAGES = STAGES

    def __init__(self, network: nn.Module, spec: SetSpec) -> None:
        super().__init__()
        self.network, self.shape, self.conditioner = network, spec, None

    def networks(self) -> dict[str, nn.Module]:
        return {"network": self.network}

    def loss(self, batch: TrainBatch, state: StepState, optimizer: str = "main") -> Float[Tensor, " B"]:
        context, queries = batch.context, batch.queries
        answer = self.network(context.queries, context.values, queries.queries)
        return (answer - queries.values).square().mean((1, 2))

    def sample(self, context: Any, seeds: Any, condition: Any, options: Any) -> Any:
        raise UsageError("`views` predicts views of given objects", hint="train another method to sample")

    def invert(self, sets: Any, options: Any, progress: Any = None) -> Any:
        raise UsageError("`views` predicts views of given objects", hint="train another method to invert")


def build(preset: Preset, spec: SetSpec) -> Prediction:
    """The method around the network that the preset names."""
    return Prediction(preset.network.module.build(preset.network.config, spec), spec)
