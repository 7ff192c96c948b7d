"""A method of two stages and two networks: one network against an adversary with its own optimizer, then alone."""

from __future__ import annotations

import torch
from torch import nn

from inrflow_core.config.preset import Preset
from inrflow_core.methods import flow
from inrflow_core.methods._contract import Stage, StepState
from inrflow_core.methods.flow import Config as Config
from inrflow_core.methods.flow import FlowMatching, SamplingConfig, load_field, sampling_options
from inrflow_core.sets import SetSpec, TrainBatch

STAGES = (
    Stage("against", {"main": ("network",), "adversary": ("critic",)}),
    Stage("alone", {"main": ("network",)}),
)
NETWORKS = ("network",)
USES_SAMPLER = True
__all__ = [
    "NETWORKS",
    "STAGES",
    "USES_SAMPLER",
    "Adversarial",
    "Config",
    "SamplingConfig",
    "build",
    "load_field",
    "sampling_options",
]


class Adversarial(FlowMatching):
    """Flow matching whose loss in the first stage also takes what the critic says of it; the critic tells sets apart."""

    STAGES = STAGES

    def __init__(self, *parts) -> None:
        super().__init__(*parts)
        self.critic = nn.Linear(1, 1)

    def networks(self) -> dict[str, nn.Module]:
        return {"network": self.network, "critic": self.critic}

    def loss(self, batch: TrainBatch, state: StepState | None = None, optimizer: str = "main") -> torch.Tensor:
        loss = super().loss(batch, state, optimizer)
        if state is None or state.stage == "alone":
            return loss
        said = self.critic(loss[:, None])[:, 0]
        if optimizer == "adversary":
            return (said - batch.context.values.mean((1, 2))).square()
        return loss + 0.1 * said


def build(preset: Preset, shape: SetSpec) -> nn.Module:
    """The method around what Flow is built of."""
    made = flow.build(preset, shape)
    return Adversarial(made.config, made.network, made.conditioner, shape)
