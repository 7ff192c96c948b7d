"""Plans of many micro-batches need few traced passes: the others are scaled from them."""

from __future__ import annotations

import pytest
import torch

from inrflow_core.config import preset
from inrflow_core.planning import advice, memory_trace
from inrflow_core.planning.plan import Planner
from inrflow_core.runtime import distributed
from tests import tiny
from tests.training import small

ALONE = distributed.find({}, "cpu")
AWAY = distributed.World(0, 1, 0, torch.device("cuda"), False)


@pytest.mark.parametrize("world", [ALONE, AWAY], ids=["cpu", "cuda"])
@pytest.mark.parametrize("kind", [tiny.IMAGE, tiny.POINTS, tiny.PROTEIN], ids=["image", "points", "protein"])
def test_a_scaled_pass_has_the_memory_and_flops_of_a_traced_one(kind, world):
    """Where a CPU computes tensors of 64 sets in blocks, and those of 8 sets whole, some kB of these tiny networks are missing."""
    planner = Planner(small.preset(kind, training={"batch": 64}), world, "fp32")
    planner.plan(64)
    scaled = planner.plan(8, is_scaled=True)
    traced = Planner(planner.preset, world, "fp32").plan(8)
    assert scaled.transient == pytest.approx(traced.transient, rel=0.01 if world is AWAY else 0.07)
    assert sum(scaled.executed.values()) == pytest.approx(sum(traced.executed.values()), rel=0.01)
    assert scaled.flops == traced.flops and scaled.persistent == traced.persistent


def test_at_the_papers_width_a_scaled_pass_is_within_two_percent():
    planner = Planner(preset.load("imagenet256-s", ["network.depth=2"]), ALONE, "bf16")
    planner.plan(32)
    scaled = planner.plan(4, is_scaled=True)
    assert scaled.total_memory == pytest.approx(planner.plan(4).total_memory, rel=0.02)


def test_recomputation_scaled_up_on_a_cpu_says_too_much_rather_than_too_little():
    planner = Planner(preset.load("imagenet256-s", ["network.depth=4"]), ALONE, "bf16")
    planner.plan(2, checkpointed=True)
    scaled = planner.plan(32, checkpointed=True, is_scaled=True).total_memory
    traced = planner.plan(32, checkpointed=True).total_memory
    assert 0.97 < scaled / traced < 1 + advice.MOST_TOO_MUCH


def test_advice_on_many_micro_batches_traces_two_passes(monkeypatch):
    runs: list[tuple[int, bool]] = []
    trace = memory_trace.run

    def counted(model, mode, count, step, **settings):
        runs.append((count, settings["has_backward"]))
        return trace(model, mode, count, step, **settings)

    monkeypatch.setattr(memory_trace, "run", counted)
    planner = Planner(preset.load("digits-demo", ["training.batch=1024"]), AWAY, "fp32")
    found = advice.find(planner, 1024, 2.0e9)
    assert found.micro_batch is not None and found.micro_batch.fits and found.checkpointing is not None
    assert [count for count, has_backward in runs if has_backward] == [1024, 2]
    exact = Planner(planner.preset, AWAY, "fp32").plan(int(found.micro_batch.option.rpartition("=")[2]))
    assert found.micro_batch.memory == pytest.approx(exact.total_memory, rel=0.02)
