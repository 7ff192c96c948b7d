"""Plans of many micro-batches, and of recomputation, need one traced pass: the others are scaled from it."""

from __future__ import annotations

from unittest.mock import ANY

import pytest
import torch
from torch import nn
from torch._subclasses import FakeTensorMode

from inrflow_core.config import preset
from inrflow_core.layers.activations import GELU
from inrflow_core.layers.recompute import linear_of
from inrflow_core.planning import advice, memory_trace
from inrflow_core.planning.plan import Planner
from inrflow_core.runtime import cache_blocks, distributed
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


class NoNetworks(nn.Module):
    """A method without weights."""

    def networks(self) -> dict[str, nn.Module]:
        return {}


LARGE = {
    "imagenet128-xl": ("network.depth=3",),
    "shapenet-l": ("network.depth=3",),
    "swissprot-xl": ("network.depth=3",),
    "cifar10-inrct": (),
}


@pytest.mark.parametrize("name", LARGE)
def test_at_the_papers_width_scaled_passes_are_within_two_percent(name):
    """On a CPU, where tensors of 32 sets are computed in blocks and those of 2 sets whole; with recomputation too, by formula."""
    planner = Planner(preset.load(name, LARGE[name]), ALONE, "bf16")
    planner.plan(32)
    traced = Planner(planner.preset, ALONE, "bf16")
    for checkpointed in (False, True):
        scaled = planner.plan(2, checkpointed=checkpointed, is_scaled=True)
        exact = traced.plan(2, checkpointed=checkpointed)
        assert scaled.total_memory == pytest.approx(exact.total_memory, rel=0.02)
        assert sum(scaled.executed.values()) == pytest.approx(sum(exact.executed.values()), rel=0.06)


@pytest.mark.parametrize("world", [ALONE, AWAY], ids=["cpu", "cuda"])
def test_recomputation_by_formula_has_the_memory_of_a_traced_pass(world):
    planner = Planner(preset.load("imagenet256-s", ["network.depth=3"]), world, "bf16")
    without = planner.plan(16)
    formula = planner.plan(16, checkpointed=True, is_scaled=True)
    traced = Planner(planner.preset, world, "bf16").plan(16, checkpointed=True)
    assert formula.memory == pytest.approx(traced.memory, rel=0.002)
    assert formula.total_memory < 0.95 * without.total_memory
    assert sum(formula.executed.values()) == pytest.approx(sum(traced.executed.values()), rel=1e-3)


def test_recomputation_of_a_large_context_by_formula_is_within_ten_percent():
    planner = Planner(preset.load("church256-b-perceiver", ["network.depth=4"]), AWAY, "bf16")
    planner.plan(4)
    formula = planner.plan(4, checkpointed=True, is_scaled=True)
    exact = Planner(planner.preset, AWAY, "bf16").plan(4, checkpointed=True)
    assert formula.total_memory == pytest.approx(exact.total_memory, rel=advice.NEAR)


@pytest.mark.parametrize("name", ["digits-demo", "church256-b-perceiver", "srncars-inrct"])
def test_the_flops_of_a_forward_pass_follow_from_a_training_pass(name):
    settings = [] if name != "church256-b-perceiver" else ["network.depth=4"]
    planner = Planner(preset.load(name, settings), ALONE, "fp32")
    planner.plan(8)
    assert planner.sizes() == (ANY, pytest.approx(Planner(planner.preset, ALONE, "fp32").sizes()[1], rel=1e-4))


def test_blocks_of_a_cpu_count_as_blocks_although_a_plan_traces_them_as_one():
    """Temporary tensors of a layer: 4 MiB of each, however many sets; its results grow with the sets."""
    rows, width = 1 << 14, 1 << 10
    blocks = [_temporary_bytes(sets, rows, width) for sets in (1, 4)]
    assert blocks[0] == pytest.approx(blocks[1], rel=0.01)
    assert blocks[0] < 0.3 * 4 * rows * width


def _temporary_bytes(sets: int, rows: int, width: int) -> int:
    """Bytes at the peak of a forward pass of gelu and a linear layer beside its result, as a plan traces it."""
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    watch = memory_trace.Watch(NoNetworks())
    with cache_blocks.simulate(torch.device("cpu"), 0), mode:
        weight = torch.empty(8, width, requires_grad=True)
        x = torch.empty(sets, rows, width, requires_grad=True)
        with watch:
            result = linear_of(GELU, x, weight=weight, bias=None)
    return sum(watch.trace.peak(gradients_stay=True)[0].values()) - result.nbytes


def test_advice_on_many_micro_batches_traces_one_pass(monkeypatch):
    runs: list[tuple[int, bool]] = []
    trace = memory_trace.run

    def counted(model, mode, count, step, **settings):
        runs.append((count, settings["has_backward"]))
        return trace(model, mode, count, step, **settings)

    monkeypatch.setattr(memory_trace, "run", counted)
    planner = Planner(preset.load("digits-demo", ["training.batch=1024"]), AWAY, "fp32")
    found = advice.find(planner, 1024, 2.0e9)
    assert found.micro_batch is not None and found.micro_batch.fits and found.checkpointing is not None
    assert [count for count, has_backward in runs if has_backward] == [1024]
    exact = Planner(planner.preset, AWAY, "fp32").plan(int(found.micro_batch.option.rpartition("=")[2]))
    assert found.micro_batch.memory == pytest.approx(exact.total_memory, rel=0.02)


def test_advice_for_free_memory_traces_nothing_more_and_fits_by_the_exact_plan(monkeypatch):
    planner = Planner(preset.load("digits-demo", ["training.batch=1024"]), AWAY, "fp32")
    planner.plan(1024)
    barely = planner.plan(256, is_scaled=True).total_memory + 1
    exact = Planner(planner.preset, AWAY, "fp32").plan(128)
    monkeypatch.setattr(memory_trace, "run", None)  # any trace would fail
    found = advice.find(planner, 1024, barely, is_exact=False).micro_batch
    assert found is not None and found.fits and found.option == "--set training.micro_batch=128"
    assert exact.total_memory <= barely
    nothing = advice.find(planner, 1024, planner.plan(1, is_scaled=True).total_memory, is_exact=False)
    assert nothing.micro_batch is not None and not nothing.micro_batch.fits
