"""The stages of a method under training: their settings, optimizers, averages and data."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from inrflow_core.config.preset import Preset, Table
from inrflow_core.config.training import Config
from inrflow_core.methods._contract import Stage, StepState
from inrflow_core.methods._trained_weights import weights_by_optimizer
from inrflow_core.numerics import keyed_random
from inrflow_core.planning.plan import Plan
from inrflow_core.runtime.distributed import World
from inrflow_core.training.ema import EMA
from inrflow_core.training.engine import Engine, TrainedWeights
from inrflow_core.training.loader import Loader

SEED_WORD = 2
"""Separates the seeds of a later stage's steps from those of the first stage and of the held-out loss."""


@dataclass(frozen=True)
class StageJob:
    """One checked stage of a job; nothing is built yet."""

    number: int
    """From 0, in the order of training."""
    stage: Stage
    settings: Config
    micro_batches: Sequence[range]
    """This process's micro-batches, as positions in the global batch."""
    plan: Plan


@dataclass
class StageRun:
    """A stage that is being trained."""

    job: StageJob
    engines: Mapping[str, Engine]
    """By optimizer; that of the first one also gathers the whole weights."""
    averages: Sequence[EMA]
    """EMAs of the weights that the stage trains; they start as these weights."""
    rates: Mapping[str, Config]
    """The settings of each optimizer."""
    loader: Loader
    held_out: Loader | None
    precomputed: Path | None = None
    """The folder of its precomputed inputs, if it reads any."""

    @property
    def engine(self) -> Engine:
        """The engine of the first optimizer."""
        return next(iter(self.engines.values()))

    def state(self, step: int) -> StepState:
        """The argument `state` of the method: stage, step in it, and its number of steps."""
        return StepState(self.job.stage.name, step, self.job.settings.steps)

    def close(self) -> None:
        """Free optimizers and averages; the weights stay in the method."""
        for engine in self.engines.values():
            engine.close()
        self.engines, self.averages = {}, []


def preset_of(preset: Preset, stage: str) -> Preset:
    """The preset as one stage trains it: `[training]` with that stage's settings."""
    return replace(preset, training=Table(preset.training.config.for_stage(stage)))


def start(
    job: StageJob, preset: Preset, method: Any, world: World, *, precision: str, data: tuple[Loader, Loader | None]
) -> StageRun:
    """Build the optimizers and averages of a stage; only its weights require gradients.

    `data` are the training and held-out sets of the shards; the caller replaces them if the stage reads precomputed inputs.
    """
    stage, settings = job.stage, job.settings
    own = weights_by_optimizer(method, stage)
    of_stage = {name: weight for weights in own.values() for name, weight in weights.items()}
    for name, weight in method.named_parameters():
        weight.requires_grad_(name in of_stage)
    rates = {name: preset.training.config.for_stage(stage.name, name) for name in own}
    engines = {
        name: Engine(
            method,
            rates[name],
            world,
            precision=precision,
            num_micro=len(job.micro_batches),
            trained=TrainedWeights(name, weights, of_stage),
        )
        for name, weights in own.items()
    }
    averaged_weights = next(iter(engines.values())).local_weights()
    averages = [EMA(decay, averaged_weights, settings.ema_warmup) for decay in settings.ema]
    return StageRun(job, engines, averages, rates, *data)


def data_of(job: StageJob, loader: Loader, held_out: Loader | None) -> tuple[Loader, Loader | None]:
    """Training and held-out sets in the batch size and order of a stage: each stage starts at step 0, with its own seeds."""
    settings, train = job.settings, copy.copy(loader)
    train.batch_size = settings.batch
    if job.number:
        train.seed = keyed_random.derive_seed(loader.seed, SEED_WORD, job.number)
    if held_out is None or settings.held_out_every is None:
        return train, None
    evaluated = copy.copy(held_out)
    evaluated.batch_size = min(settings.held_out_sets, len(evaluated))
    return train, evaluated
