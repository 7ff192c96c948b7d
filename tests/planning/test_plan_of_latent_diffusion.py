"""Plans of both stages of latent diffusion against counts of operations."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from inrflow_core import models
from inrflow_core.config.preset import Preset, load
from inrflow_core.methods._contract import Stage, StepState
from inrflow_core.planning import flops
from inrflow_core.planning.plan import Planner, predict
from inrflow_core.runtime import distributed
from inrflow_core.sets import TrainBatch
from tests import tiny

ALONE = distributed.World(0, 1, 0, torch.device("cpu"), False)
PAPER = {"path": "scaled-linear", "standardize": False, "time": "steps"}
READOUTS = ["modulated-readout", "basis-readout"]
FORWARD = {
    "celebahq256-ddmi": {"autoencoder": 471.0203e9 + 926.4062e9, "diffusion": 395.7913e9},
    "sky256-ddmi": {"autoencoder": 16948.094e9, "diffusion": 230.281e9},
}
"""By torch's FlopCounterMode over its encoder, its decoder with the read-out, and its denoiser."""


def stage_of(name: str, method: Any) -> Stage:
    return next(stage for stage in method.STAGES if stage.name == name)


def tiny_preset(kind: str) -> Preset:
    """A model of images with the read-out `kind`, or of clips with an exchange of this kind."""
    training = {"batch": 4, "steps": 2}
    if kind in READOUTS:
        return tiny.preset(tiny.LATENT, method=PAPER, network={"readout": {"name": kind}}, training=training)
    network = {name: dict(part) for name, part in (tiny.VIDEO["network"] or {}).items()}
    network["autoencoder"]["exchange"] = kind
    network["denoiser"] |= {"plane_heads": 2} if kind == "cells" else {}
    return tiny.preset(tiny.VIDEO, method=PAPER, network=network, training=training)


@pytest.mark.parametrize("kind", [*READOUTS, "axes", "cells"])
@pytest.mark.parametrize("name", ["autoencoder", "diffusion"])
def test_planned_operations_of_a_stage_are_those_that_torch_counts_in_a_real_step(name: str, kind: str):
    preset = tiny_preset(kind)
    model = models.build(preset)
    stage = stage_of(name, model.method)
    planned = predict(preset, ALONE, precision="fp32", micro=4, stage=stage)
    batch = replace(model.domain.dummy_batch(4), condition={"label": torch.zeros(4).long()}, seeds=torch.arange(4))
    if name == "diffusion":
        with torch.no_grad():
            batch = batch.with_values(model.method.precompute("latents", batch))
    trained = [model.method.networks()[part] for part in stage.optimizers["main"]]
    model.method.requires_grad_(False)
    for network in trained:
        network.requires_grad_(True)
    with flops.counter() as forward:
        loss = model.method.loss(TrainBatch.from_sets(batch), StepState(name, 1, 2)).mean()
    with flops.counter() as backward:
        loss.backward()
    counted = forward.get_total_flops()
    assert planned.total_flops == pytest.approx(3 * counted, rel=1e-6)
    assert sum(planned.executed.values()) == pytest.approx(counted + backward.get_total_flops(), rel=0.01)


@pytest.mark.parametrize("name", ["autoencoder", "diffusion"])
def test_planned_operations_of_scenes_are_those_that_torch_counts_in_a_real_step(name: str):
    preset = tiny.preset(tiny.SCENES, method={"num_queries": 20}, training={"batch": 4, "steps": 2})
    model = models.build(preset)
    stage = stage_of(name, model.method)
    planned = predict(preset, ALONE, precision="fp32", micro=4, stage=stage)
    sets = replace(model.domain.dummy_batch(4), seeds=torch.arange(4))
    batch = model.domain.train_batch(sets)
    if name == "diffusion":
        with torch.no_grad():
            batch = TrainBatch.from_sets(sets.with_values(model.method.precompute("latents", sets)))
    with flops.counter() as forward:
        model.method.loss(batch, StepState(name, 1, 2))
    assert planned.total_flops == pytest.approx(3 * forward.get_total_flops(), rel=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["autoencoder", "diffusion"])
@pytest.mark.parametrize("name", FORWARD)
def test_the_papers_largest_models_are_planned_to_2_per_cent_of_their_count(name: str, stage: str):
    preset = load(name)
    planner = Planner(preset, ALONE, "fp32", stage_of(stage, preset.method.module))
    assert sum(planner.sizes()[1].values()) == pytest.approx(FORWARD[name][stage], rel=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("zero_stage", [1, 2])
def test_the_denoiser_of_a_billion_weights_fits_on_eight_devices_of_80_gb(zero_stage: int):
    preset = load("celebahq256-ddmi", ["training.batch=96", f"training.zero_stage={zero_stage}"])
    away = distributed.World(0, 8, 0, torch.device("cuda"), True)
    stage = stage_of("diffusion", preset.method.module)
    plan = predict(preset, away, precision="bf16", micro=12, stage=stage)
    assert 12e9 < plan.total_memory < 25e9
    moments = 2 * 4 * 1_014_986_880 / 8
    assert plan.most["moments"] == pytest.approx(moments, rel=0.01)
