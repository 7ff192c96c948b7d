"""Plans trace the method's own loss: any method that follows the contract is planned, and one that cannot be says why."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn

from inrflow_core import models
from inrflow_core.config import preset
from inrflow_core.config.preset import Preset
from inrflow_core.methods._contract import Stage, StepState
from inrflow_core.numerics import noise_field
from inrflow_core.planning import checks
from inrflow_core.planning.plan import Planner
from inrflow_core.runtime import distributed
from inrflow_core.sets import TrainBatch
from tests import tiny
from tests.planning import adversarial_method, taught_method
from tests.training import small

ALONE = distributed.World(0, 1, 0, torch.device("cpu"), False)
FORWARD_FLOPS = {
    "digits-demo": 1.9943e7,
    "imagenet256-b": 3.4651e11,
    "imagenet256-b-linear": 3.3795e11,
    "shapenet-l": 4.1925e11,
    "church256-b-perceiver": 7.2864e11,
    "objaverse-xl": 2.7065e12,
    "swissprot-xl": 4.9649e11,
}
"""Of a forward pass of one set through encoder, trunk and decoder, by torch's FlopCounterMode over these calls."""


class Denoiser(nn.Module):
    """A method with another network than ours: two linear layers on each value."""

    STAGES = (Stage("train"),)
    TRAINING_ONLY = PRETRAINED = ()

    def __init__(self, read: Callable[[Tensor], object] = lambda loss: None) -> None:
        super().__init__()
        self.network, self.read = nn.Sequential(nn.Linear(1, 8), nn.Linear(8, 1)), read

    def networks(self) -> dict[str, nn.Module]:
        return {"network": self.network}

    def begin_stage(self, stage: str) -> None:
        """Nothing."""

    def loss(self, batch: TrainBatch, state: StepState, optimizer: str = "main") -> Tensor:
        sets = batch.context
        noise = noise_field.normal(sets.seeds, sets.queries.noise_keys.long(), purpose="noise", channels=1)
        loss = (self.network(sets.values + noise) - noise).square().mean((1, 2))
        self.read(loss)
        return loss


def planner(monkeypatch: pytest.MonkeyPatch, method: nn.Module) -> Planner:
    """Of a preset of small images that trains `method`."""
    build = models.build
    monkeypatch.setattr(models, "build", lambda preset: replace(build(preset), method=method))
    return Planner(small.preset(tiny.IMAGE, training={"batch": 4}), ALONE, "fp32")


def staged(monkeypatch: pytest.MonkeyPatch, module: ModuleType) -> dict[str, Planner]:
    """Planners of the stages of a method around Flow."""
    wrapped = module.build
    monkeypatch.setattr(models, "build", _building(wrapped))
    preset = small.preset(tiny.IMAGE, training={"batch": 4})
    return {stage.name: Planner(preset, ALONE, "fp32", stage) for stage in module.STAGES}


def _building(build: Callable[..., nn.Module]) -> Callable[[Preset], models.Model]:
    def model(preset: Preset) -> models.Model:
        domain = preset.domain.module.Domain(preset.domain.config)
        return models.Model(preset, domain, build(preset, domain.shape), {})

    return model


@pytest.mark.parametrize("name", FORWARD_FLOPS)
def test_flops_of_the_traced_loss_are_those_that_torch_counts(name):
    _, counts = Planner(preset.load(name), ALONE, "fp32").sizes()
    assert sum(counts[part] for part in ("encoder", "trunk", "decoder")) == pytest.approx(FORWARD_FLOPS[name], rel=1e-4)


def test_any_method_that_follows_the_contract_is_planned(monkeypatch):
    predicted = planner(monkeypatch, Denoiser()).plan(2)
    assert predicted.problem is None
    assert predicted.parameters == {"0": 16, "1": 9}
    assert predicted.flops == {"0": 3 * 4 * 36 * 2 * 8, "1": 3 * 4 * 36 * 2 * 8}
    assert predicted.executed["1"] == 4 * 36 * 3 * 2 * 8  # the first layer makes no gradient of its input
    assert predicted.executed["0"] == 4 * 36 * 2 * 2 * 8
    assert predicted.most["activations_0"] == pytest.approx(4 * 2 * 36 * 8, rel=0.02)


READING = {
    "a number": (lambda loss: loss[0].item(), "DataDependentOutputException"),
    "a list": (lambda loss: loss.tolist(), "DataDependentOutputException"),
    "a condition": (lambda loss: 1 if loss.sum() > 0 else 2, "DataDependentOutputException"),
    "a mask as an index": (lambda loss: loss[loss > 0], "DynamicOutputShapeException"),
    "an array": (lambda loss: loss.detach().numpy(), "numpy"),
    "text": (lambda loss: f"{loss.mean():.3f}", "__format__"),
}
BROKEN = {
    "shapes that do not fit": (lambda loss: loss @ loss.new_ones(7), RuntimeError, "size"),
    "a type": (lambda loss: loss + object(), TypeError, "unsupported operand"),
    "a value": (lambda loss: int("x"), ValueError, "invalid literal"),
}


@pytest.mark.parametrize(("read", "problem"), READING.values(), ids=READING)
def test_a_loss_that_reads_numbers_leaves_memory_unknown_and_training_free(monkeypatch, read, problem):
    predicted = planner(monkeypatch, Denoiser(read)).plan(2)
    assert predicted.problem is not None and problem in predicted.problem
    assert predicted.memory == predicted.flops == predicted.executed == {}
    assert predicted.total_parameters == 25 and predicted.checkpoint > 0
    assert predicted.table()["total"]["memory"] is None
    checks.check_memory(predicted, ALONE)


@pytest.mark.parametrize("noise", ["linear", "independent"])
def test_training_between_the_pixels_is_planned(noise):
    between, at_pixels = (
        Planner(small.preset(tiny.IMAGE, method=method, training={"batch": 4}), ALONE, "fp32").plan(4)
        for method in (
            {"num_queries": 20, "query_positions": "anywhere", "noise": noise},
            {"num_queries": 20},
        )
    )
    assert between.problem is None
    assert between.flops == at_pixels.flops


@pytest.mark.parametrize(("read", "kind", "message"), BROKEN.values(), ids=BROKEN)
def test_a_bug_in_a_loss_is_raised_as_it_is(monkeypatch, read, kind, message):
    with pytest.raises(kind, match=message):
        planner(monkeypatch, Denoiser(read)).plan(2)


def test_the_optimizers_of_a_stage_add_up_in_flops_and_the_largest_pass_is_the_memory(monkeypatch):
    against, alone = (each.plan(2) for each in staged(monkeypatch, adversarial_method).values())
    assert against.problem is None and alone.problem is None
    assert sum(against.flops.values()) > 1.9 * sum(alone.flops.values())
    assert against.flops["critic"] > 0 and "critic" not in alone.flops
    assert alone.total_memory <= against.total_memory < 1.1 * alone.total_memory


def test_a_stage_with_a_teacher_is_planned(monkeypatch):
    alone, taught = (each.plan(2) for each in staged(monkeypatch, taught_method).values())
    assert alone.problem is None and taught.problem is None
    assert taught.transient >= alone.transient and taught.flops == pytest.approx(alone.flops)


def test_frozen_weights_have_no_gradients_moments_and_averages(monkeypatch):
    for planned in staged(monkeypatch, taught_method).values():
        predicted = planned.plan(4)
        weights, trained = predicted.total_parameters, predicted.total_parameters - predicted.parameters["teacher"]
        assert trained < 0.6 * weights
        assert predicted.most["weights"] == 4 * weights
        assert predicted.most["moments"] == predicted.most["averages"] == 2 * 4 * trained
        assert predicted.most["gradients"] == 4 * trained
        assert predicted.checkpoint == 4 * (3 * weights + 2 * trained)
        assert predicted.update_bytes == 4 * trained * (10 + 3 * 2)


def test_weights_of_networks_that_a_stage_does_not_train_are_frozen(monkeypatch):
    against, alone = (each.plan(4) for each in staged(monkeypatch, adversarial_method).values())
    critic = alone.parameters["critic"]
    assert against.most["moments"] - alone.most["moments"] == 2 * 4 * critic
    assert against.most["averages"] - alone.most["averages"] == 2 * 4 * critic


def test_a_trace_of_more_sets_has_hardly_more_operations(monkeypatch):
    from inrflow_core.planning import memory_trace

    counts = []
    note = memory_trace.Watch.__torch_dispatch__

    def count(watch, *args):
        counts[-1] += 1
        return note(watch, *args)

    monkeypatch.setattr(memory_trace.Watch, "__torch_dispatch__", count)
    traced = Planner(preset.load("digits-demo", ["training.batch=4096"]), ALONE, "fp32")
    for micro in (64, 4096):
        counts.append(0)
        traced.plan(micro)
    assert counts[1] < 4 * counts[0]
