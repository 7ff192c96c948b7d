"""Muon in an engine: the steps of plain torch in every ZeRO stage that can do it, and which weights are its matrices."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch

from inrflow_core import models
from inrflow_core.methods._trained_weights import hidden_matrices
from inrflow_core.numerics import newton_schulz
from inrflow_core.sets import TrainBatch
from inrflow_core.training.muon import Fragment, Muon
from tests.training import small
from tests.training.launched import JobTable, do, launch
from tests.training.test_engine import RATE, assert_skips, built, sets, trajectory

WIDE = {"width": 32}
MUON = {"optimizer": "muon", "matrix_rate": 3.0, "weight_decay": 0.1, "betas": [0.9, 0.99]}
STAGES = [0, 1, 2]


def plain() -> list[tuple[float, float]]:
    """Three steps of an engine's model, one matrix after the other."""
    method: Any = built(zero_stage=0, network=WIDE, **MUON).method
    weights = dict(method.named_parameters())
    names = hidden_matrices(method, weights)
    momenta = {name: torch.zeros_like(weights[name]) for name in names}
    rest = [weight for name, weight in weights.items() if name not in names]
    adam = torch.optim.AdamW(rest, lr=RATE, weight_decay=0.1, betas=(0.9, 0.99))
    result = []
    for step in range(3):
        method.zero_grad()
        loss = method.loss(TrainBatch.from_sets(sets(step, method))).mean()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(method.parameters(), 0.5)
        adam.step()
        with torch.no_grad():
            for name, momentum in momenta.items():
                weight, gradient = weights[name], weights[name].grad
                momentum.mul_(0.95).add_(gradient, alpha=0.05)
                u, values, vh = torch.linalg.svd(0.05 * gradient + 0.95 * momentum, full_matrices=False)
                a, b, c = newton_schulz.COEFFICIENTS
                values /= values.norm()
                for _ in range(5):
                    values = a * values + b * values**3 + c * values**5
                weight *= 1 - 3 * RATE * 0.1
                weight -= 3 * RATE * 0.2 * math.sqrt(max(weight.shape)) * (u * values) @ vh
        result.append((float(loss.detach()), float(norm)))
    return result


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_has_the_losses_and_norms_of_plain_torch(stage):
    expected = torch.tensor(plain())
    for num_micro in (1, 2):
        result = torch.tensor(trajectory(built(zero_stage=stage, num_micro=num_micro, network=WIDE, **MUON)))
        torch.testing.assert_close(result, expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize("stage", STAGES)
def test_a_step_whose_gradient_is_not_finite_moves_nothing(stage):
    engine = built(zero_stage=stage, network=WIDE, **MUON)
    assert_skips(engine)
    assert {int(state["step"]) for state in engine._adam.state.values()} == {2}


@pytest.mark.parametrize("stage", STAGES)
def test_a_first_update_is_as_large_as_adamws(stage):
    engine = built(zero_stage=stage, network=WIDE, optimizer="muon")
    names = hidden_matrices(engine.method, dict(engine.method.named_parameters()))
    before = {name: weight.clone() for name, weight in engine.method.named_parameters()}
    trajectory(engine, range(1))
    for name, weight in engine.method.named_parameters():
        rms = (weight - before[name]).square().mean().sqrt() / RATE
        # That of U V^T, rows x columns, is 1 / sqrt(longer side); few gradients of a small batch have full rank.
        assert (0.02 < rms < 0.2 * 1.25) if name in names else (rms == 0 or 0.5 < rms < 1.01), name
    moments = dict(zip(engine.moments_layout(), engine.moments(), strict=True))
    for name in before:
        assert bool(moments[f"exp_avg_sq.{name}"].any()) == (
            name not in names and bool(moments[f"exp_avg.{name}"].any())
        )


def test_matrices_are_the_linear_layers_of_blocks_and_not_the_layers_around_them():
    method = models.build(small.preset(network=WIDE)).method
    names = hidden_matrices(method, dict(method.named_parameters()))
    block = ["own.attention.qkv", "own.attention.out", "own.inner", "own.outer"]
    read = ["query", "out", "key", "value"]
    decoder = [f"attention.{name}" for name in read] + ["inner", "outer"]
    expected = {f"network.trunk.{i}.{name}.weight" for i in range(2) for name in block}
    assert set(names) == expected | {f"network.decoder.blocks.0.{name}.weight" for name in decoder}
    assert "network.trunk.0.own.modulation.weight" in dict(method.named_parameters())
    narrow = models.build(small.preset(network={"width": 16})).method
    assert hidden_matrices(narrow, dict(narrow.named_parameters())) == []
    layers = torch.nn.ModuleList([torch.nn.Linear(64, 64), torch.nn.Sequential(torch.nn.Linear(64, 64))])
    assert hidden_matrices(layers, dict(layers.named_parameters())) == ["1.0.weight"]


def test_a_weight_in_pieces_moves_as_a_whole_one(monkeypatch):
    """Two processes, here threads, of which each has one whole matrix and a part of a third."""
    generator = torch.Generator().manual_seed(0)
    matrices = [torch.randn(40, 32, generator=generator) for _ in range(3)]
    gradients = [torch.randn(40, 32, generator=generator) for _ in range(3)]
    settings = small.preset(training=MUON).training.config
    whole = [matrix.clone() for matrix in matrices]
    reference = Muon(whole, whole, settings)
    flat, slope = torch.cat([m.flatten() for m in matrices]), torch.cat([g.flatten() for g in gradients])
    border = 40 * 32 + 500  # inside the second matrix
    parts = [flat[:border].clone(), flat[border:].clone()]
    slopes = [slope[:border].clone(), slope[border:].clone()]
    processes = [Muon([part], matrices, settings) for part in parts]
    first, second = parts
    processes[0].locate([Fragment(first, 0, 0, 1280), Fragment(first, 1280, 0, 500), None], [False, True, False])
    processes[1].locate([None, Fragment(second, 0, 500, 780), Fragment(second, 780, 0, 1280)], [False, True, False])
    monkeypatch.setattr(torch.distributed, "all_reduce", _sum_of_two_threads())
    for step in range(1, 4):
        for weight, gradient in zip(whole, gradients, strict=True):
            weight.grad = gradient * step
        for part, gradient in zip(parts, slopes, strict=True):
            part.grad = gradient * step
        reference.step()
        with ThreadPoolExecutor(2) as threads:
            list(threads.map(lambda process: process.step(), processes))
    torch.testing.assert_close(torch.cat(parts), torch.cat([weight.flatten() for weight in whole]), rtol=0, atol=1e-6)


def _sum_of_two_threads() -> Callable[[torch.Tensor], None]:
    """An all-reduce between two threads."""
    barrier, sent = threading.Barrier(2, timeout=60), []

    def all_reduce(tensor: torch.Tensor) -> None:
        sent.append(tensor.clone())
        barrier.wait()
        tensor.copy_(sent[-1] + sent[-2])
        barrier.wait()

    return all_reduce


@pytest.mark.parametrize("stage", STAGES)
def test_a_run_in_two_parts_equals_an_unbroken_one_to_the_bit(tmp_path, stage):
    data = small.images(tmp_path / "shards")
    job: JobTable = {"data": data, "training": MUON | {"zero_stage": stage}, "network": WIDE}
    whole = do(job | {"out": tmp_path / "whole"})
    do(job | {"out": tmp_path / "run", "until": 3})
    small.assert_equal(small.state(do(job | {"out": tmp_path / "run"})), small.state(whole))
    assert small.losses(tmp_path / "run") == small.losses(tmp_path / "whole")


def test_two_processes_have_the_losses_and_moments_of_one_and_either_resumes_the_others_run(tmp_path):
    data = small.images(tmp_path / "shards")
    job: JobTable = {"data": data, "training": MUON, "network": WIDE}
    alone = do(job | {"out": tmp_path / "alone"})
    assert _is_cut_in_two(alone.model.method)
    jobs = [job | {"out": tmp_path / f"stage{s}", "training": MUON | {"zero_stage": s}} for s in (1, 2)]
    for each in jobs:  # one process up to step 2, two up to step 4, one to the end
        do(each | {"until": 2})
    launch(2, [each | {"until": 4} for each in jobs], tmp_path)
    for each in jobs:
        result = do(each)
        assert small.losses(each["out"]) == pytest.approx(small.losses(tmp_path / "alone"), rel=1e-5)
        small.assert_equal(small.state(result), small.state(alone), tolerance=1e-4)


def _is_cut_in_two(method: torch.nn.Module) -> bool:
    """Whether the middle of all weights, one after the other, is inside a matrix of Muon's."""
    weights = dict(method.named_parameters())
    middle, start = sum(weight.numel() for weight in weights.values()) / 2, 0
    for name, weight in weights.items():
        if start < middle < start + weight.numel():
            return name in hidden_matrices(method, weights)
        start += weight.numel()
    return False
