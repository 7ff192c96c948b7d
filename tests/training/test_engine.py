"""The engine: the same sums however the work is divided."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from inrflow_core import models
from inrflow_core.methods._contract import StepState
from inrflow_core.numerics import keyed_random, noise_field
from inrflow_core.runtime import distributed
from inrflow_core.sets import CoordValueSet, TrainBatch
from inrflow_core.training.engine import MOMENTS, Engine
from tests import tiny
from tests.training import small

RATE = 4e-3
"""Not the settings' own, which the schedule replaces in every step."""
STAGES = [0, 1, 2, pytest.param(3, marks=pytest.mark.slow)]
SHARED = pytest.param({"zero_stage": 3}, marks=pytest.mark.slow)
OFFLOADED = [
    {"zero_stage": 1, "offload_optimizer": "cpu"},
    pytest.param({"zero_stage": 2, "offload_optimizer": "cpu"}, marks=pytest.mark.slow),
    pytest.param({"zero_stage": 3, "offload_optimizer": "cpu"}, marks=pytest.mark.slow),
    pytest.param({"zero_stage": 3, "offload_weights": "cpu"}, marks=pytest.mark.slow),
    pytest.param({"zero_stage": 3, "offload_optimizer": "cpu", "offload_weights": "cpu"}, marks=pytest.mark.slow),
]


def message_of(settings: dict) -> str:
    """A test's name: the settings' values, one after the other."""
    return " ".join(f"{name}={value}" for name, value in settings.items())


def built(*, num_micro: int = 1, network: dict | None = None, **settings) -> Engine:
    """An engine around a small model with random weights."""
    preset = small.preset(training={**settings, "clip": settings.get("clip", 0.5)}, network=network or {})
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = models.build(preset)
    tiny.randomize(model.method)
    return Engine(
        model.method, preset.training.config, distributed.find({}, "cpu"), precision="fp32", num_micro=num_micro
    )


def sets(step: int, method) -> CoordValueSet:
    """Four sets of a step."""
    seeds = keyed_random.derive_seeds(0, step, torch.arange(4))
    values = noise_field.normal(seeds, torch.arange(36), purpose="noise", channels=1)
    from inrflow_core.domains.image import Config, Domain

    return CoordValueSet(Domain(Config(6, 1)).queries(), values, seeds, {"label": torch.tensor([0, 1, 2, 0])})


def trajectory(engine: Engine, steps: range = range(3)) -> list[tuple[float, float]]:
    """Loss and gradient norm of some steps."""
    result = []
    for step in steps:
        whole = sets(step, engine.method)
        size = 4 // engine.num_micro
        parts = [whole[slice(i, i + size)] for i in range(0, 4, size)]
        loss = sum(
            float(engine.backward(TrainBatch.from_sets(part), StepState("train", step, 3))) for part in parts
        ) / len(parts)
        result.append((loss, engine.step(RATE)))
    return result


@pytest.mark.parametrize("stage", STAGES)
def test_accumulated_gradients_and_zero_stages_give_the_same_losses_and_norms(stage):
    expected = torch.tensor(plain())
    for num_micro in (1, 2, 4) if stage == 1 else (2,):
        result = torch.tensor(trajectory(built(zero_stage=stage, num_micro=num_micro)))
        torch.testing.assert_close(result, expected, rtol=1e-5, atol=0)


def plain() -> list[tuple[float, float]]:
    """The same steps in six lines of torch."""
    engine = built(zero_stage=0)
    method: Any = engine.method
    adam = torch.optim.AdamW(method.parameters(), lr=RATE, weight_decay=0.0)
    result = []
    for step in range(3):
        adam.zero_grad()
        loss = method.loss(TrainBatch.from_sets(sets(step, method))).mean()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(method.parameters(), 0.5)
        adam.step()
        result.append((float(loss.detach()), float(norm)))
    return result


@pytest.mark.parametrize("stage", STAGES)
def test_state_that_was_gathered_and_set_again_resumes_as_if_nothing_was(stage):
    engine = built(zero_stage=stage)
    trajectory(engine, range(2))
    weights = dict(zip(engine.layout(), [t.clone() for t in engine.weights()], strict=True))
    moments = dict(zip(engine.moments_layout(), [t.clone() for t in engine.moments()], strict=True))
    expected = trajectory(engine, range(2, 4))
    other = built(zero_stage=stage)
    other.load_weights(weights.__getitem__)
    other.load_moments(moments.__getitem__, 2)
    assert trajectory(other, range(2, 4)) == expected
    assert other.num_updates == engine.num_updates == 4


@pytest.mark.parametrize("settings", OFFLOADED, ids=message_of)
@pytest.mark.parametrize("num_micro", [1, 2])
def test_what_is_offloaded_gives_the_same_losses_and_is_gathered_and_set_again_exactly(settings, num_micro):
    before = trajectory(engine := built(num_micro=num_micro, **settings), range(2))
    weights = dict(zip(engine.layout(), [t.clone() for t in engine.weights()], strict=True))
    moments = dict(zip(engine.moments_layout(), [t.clone() for t in engine.moments()], strict=True))
    expected = trajectory(engine, range(2, 4))
    torch.testing.assert_close(torch.tensor([*before, *expected[:1]]), torch.tensor(plain()), rtol=1e-5, atol=0)
    other = built(num_micro=num_micro, **settings)
    other.load_weights(weights.__getitem__)
    other.load_moments(moments.__getitem__, 2)
    for result, saved in ((other.weights(), weights), (other.moments(), moments)):
        assert all(torch.equal(t, saved[name]) for name, t in zip(saved, result, strict=True))
    assert trajectory(other, range(2, 4)) == expected


@pytest.mark.parametrize("stage", STAGES)
def test_recomputed_activations_change_no_loss(stage):
    result = trajectory(built(zero_stage=stage, network={"checkpoint_activations": True}))
    torch.testing.assert_close(torch.tensor(result), torch.tensor(plain()), rtol=1e-5, atol=0)


@pytest.mark.parametrize("stage", STAGES)
def test_small_buckets_change_no_loss(stage):
    result = trajectory(built(zero_stage=stage, bucket=100))
    torch.testing.assert_close(torch.tensor(result), torch.tensor(plain()), rtol=1e-5, atol=0)


def test_moments_that_were_never_moved_are_zero_and_can_be_saved():
    engine = built()
    assert all(not moment.any() for moment in engine.moments())
    assert len(list(engine.moments())) == len(MOMENTS) * len(list(engine.method.parameters()))


@pytest.mark.parametrize("settings", [*({"zero_stage": s} for s in range(3)), SHARED, *OFFLOADED], ids=message_of)
def test_a_step_whose_gradient_is_not_finite_moves_nothing(settings):
    assert_skips(built(**settings))


def assert_skips(engine: Engine) -> None:
    """A step without a finite gradient leaves weights and moments to the bit, and the next step is as any other."""
    trajectory(engine, range(1))
    before = [t.clone() for t in [*engine.weights(), *engine.moments()]]
    good = sets(1, engine.method)
    values = good.values.clone()
    values[0, 0, 0] = float("nan")
    bad = CoordValueSet(good.queries, values, good.seeds, good.condition)
    engine.backward(TrainBatch.from_sets(bad), StepState("train", 0, 3))
    assert engine.step(1e-2) == float("inf")
    assert engine.num_updates == 1
    for now, then in zip([*engine.weights(), *engine.moments()], before, strict=True):
        assert torch.equal(now, then)
    loss, norm = trajectory(engine, range(1, 2))[0]
    assert loss < float("inf") and norm < float("inf") and engine.num_updates == 2


def test_parts_of_stage_3_are_equal_and_make_the_whole():
    whole = torch.arange(10.0).view(2, 5)
    parts = []
    for rank in range(4):
        engine = Engine.__new__(Engine)
        engine.world = distributed.World(rank, 4, 0, torch.device("cpu"), True)
        parts.append(engine.part(whole))
    assert {len(part) for part in parts} == {3}
    assert torch.cat(parts)[:10].tolist() == list(range(10))


@pytest.mark.parametrize("stage", STAGES)
def test_an_engine_leaves_the_linear_layers_of_other_models_in_the_process_as_they_are(stage):
    """DeepSpeed's stage 3 replaces the function for good, and other models then differed in their last digits."""
    plain = torch.nn.functional.linear
    engine = built(zero_stage=stage)
    trajectory(engine, range(1))
    assert torch.nn.functional.linear is plain
    engine.close()
