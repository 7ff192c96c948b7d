"""A method of two stages of one network, with a teacher: an average of the network that belongs to the method."""

from __future__ import annotations

import copy

import torch
from torch import nn

from inrflow_core.config.preset import Preset
from inrflow_core.methods import flow
from inrflow_core.methods._contract import Stage, StepState
from inrflow_core.methods.flow import Config as Config
from inrflow_core.methods.flow import FlowMatching, SamplingConfig, load_field, sampling_options
from inrflow_core.sets import SetSpec, TrainBatch

STAGES = (Stage("alone"), Stage("taught"))
NETWORKS = ("network",)
USES_SAMPLER = True
__all__ = [
    "NETWORKS",
    "STAGES",
    "USES_SAMPLER",
    "Config",
    "SamplingConfig",
    "Taught",
    "build",
    "load_field",
    "sampling_options",
]


class Taught(FlowMatching):
    """Flow matching; in the second stage weights are also pulled to the teacher's, ever more strongly."""

    STAGES = STAGES

    def __init__(self, *parts) -> None:
        super().__init__(*parts)
        self.teacher = copy.deepcopy(self.network).requires_grad_(False)

    def loss(self, batch: TrainBatch, state: StepState | None = None, optimizer: str = "main") -> torch.Tensor:
        loss = super().loss(batch, state, optimizer)
        if state is None or state.stage == "alone":
            return loss
        pairs = zip(self.network.parameters(), self.teacher.parameters(), strict=True)
        return loss + (1 + state.step) / state.num_steps * sum((a - b).square().mean() for a, b in pairs)

    def after_step(self, state: StepState) -> None:
        for average, weight in zip(self.teacher.parameters(), self.network.parameters(), strict=True):
            average.lerp_(weight, 0.3)


def build(preset: Preset, shape: SetSpec) -> nn.Module:
    """The method around what Flow is built of."""
    made = flow.build(preset, shape)
    return Taught(made.config, made.network, made.conditioner, shape)
