"""Runs on sets of unequal size are planned for the sizes of their data."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from inrflow_core import models
from inrflow_core.config import preset as presets
from inrflow_core.domains.protein import MEAN_ATOMS
from inrflow_core.methods._contract import StepState
from inrflow_core.methods._ragged_batches import MAX_PADDING
from inrflow_core.planning import plan
from inrflow_core.runtime import distributed
from inrflow_core.sets import TrainBatch
from inrflow_core.training import setup
from inrflow_core.training.planned_sizes import PaddedSizes, padded_pairs, predict, presets_of_data
from tests import tiny
from tests.benchmarks import plan as benchmark
from tests.training import conditioned_runs, small


@pytest.mark.parametrize("micro", [1, 4, 16])
def test_padding_adds_at_most_its_limit_and_the_largest_micro_batch_is_between_mean_and_maximum(micro: int):
    sizes = np.random.default_rng(0).integers(200, 2000, 500)
    padded = padded_pairs(sizes, micro)
    assert sizes.mean() * 0.97 <= padded.mean <= sizes.mean() * MAX_PADDING
    assert padded.mean < padded.largest <= sizes.max() * MAX_PADDING
    assert micro > 1 or padded.deviation == pytest.approx(sizes.std(), rel=0.05)


def test_equal_sizes_are_planned_as_they_are():
    assert padded_pairs(np.full(30, 640), 8) == PaddedSizes(640.0, 0.0, 640.0)


def test_a_batch_of_a_hundred_million_sets_is_simulated_by_a_part_of_it():
    sizes = np.random.default_rng(0).integers(200, 2000, 500)
    padded = padded_pairs(sizes, 10**8)
    assert padded.mean < padded.largest < 1.1 * padded.mean
    assert padded.mean == pytest.approx(padded_pairs(sizes, 2000).mean, rel=0.02)


def test_proteins_are_planned_for_the_chains_of_their_data_and_other_sets_for_their_preset():
    preset = presets.load("proteins-demo")
    sizes = np.array([400, 800, 1600])
    typical, largest = presets_of_data(preset, sizes, 1)
    residues = np.array([each.domain.config.residues for each in typical])
    assert residues.mean() * MEAN_ATOMS == pytest.approx(sizes.mean(), rel=0.03)
    assert residues.std() * MEAN_ATOMS == pytest.approx(sizes.std(), rel=0.03)
    assert largest.domain.config.residues == round(1600 / MEAN_ATOMS)
    assert all(each.network == preset.network for each in typical)
    assert largest.domain.config.rotate == preset.domain.config.rotate
    assert presets_of_data(preset, None, 1) == ([preset], preset)
    images = presets.load("digits-demo")
    assert presets_of_data(images, sizes, 4)[1] == images


@pytest.mark.parametrize("micro", [1, 4])
def test_planned_flops_of_proteins_are_those_that_torch_counts_on_their_data(tmp_path, monkeypatch, micro: int):
    rng = np.random.default_rng(0)
    chains = ["LLLLV" * (length // 5) for length in rng.integers(60, 140, 12)]  # 7.8 atoms a residue, as in Swiss-Prot
    monkeypatch.setattr(conditioned_runs, "chains", lambda: chains)
    data = conditioned_runs.folded(tmp_path / "shards")
    training = {"batch": micro, "precision": "fp32"}
    preset = small.preset(tiny.PROTEIN, network={"width": 64, "latents": 100, "depth": 4}, training=training)
    job = setup.TrainJob(preset, tmp_path / "run", data=data, device="cpu", threads=1)
    ready = setup.check_job(job, {})
    method, steps = models.build(job.preset).method, {1: 8, 4: 4}[micro]
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
        for step in range(steps):
            batch = ready.loader.domain.train_batch(ready.loader.batch(step, range(micro)))
            method.loss(batch, StepState("train", step, steps))
    assert ready.plan.total_flops / 3 == pytest.approx(counter.get_total_flops() / steps, rel=0.02)


def test_gaps_between_allocations_are_planned_where_a_cpu_trains_sets_of_unequal_sizes():
    preset, here = small.preset(tiny.PROTEIN, network={"width": 64}), distributed.find({}, "cpu")
    settings = {"precision": "fp32", "micro": 4, "stage": preset.method.module.STAGES[0]}
    unequal = predict(preset, np.array([200, 300]), here, **settings)
    transient = sum(
        count for row, count in unequal.memory.items() if row.startswith("activations") or row == "backward"
    )
    assert unequal.memory["allowance"] == pytest.approx(0.4 * transient, rel=0.2)  # and of the batch
    assert "allowance" not in predict(preset, np.array([300, 300]), here, **settings).memory


@pytest.mark.parametrize("kind", [tiny.IMAGE, tiny.IMAGE_TO_POINTS], ids=["label", "image"])
def test_planned_flops_of_condition_layers_are_those_that_torch_counts(kind):
    preset = small.preset(kind, training={"batch": 2, "precision": "fp32"})
    predicted = plan.predict(preset, distributed.find({}, "cpu"), precision="fp32", micro=2)
    model, counter = models.build(preset), FlopCounterMode(display=False)
    with sdpa_kernel(SDPBackend.MATH), counter:
        sets = benchmark.filled(model, 2)
        model.method.loss(TrainBatch.from_sets(sets), StepState(preset.method.module.STAGES[0].name, 0, 4))
    assert predicted.total_flops / 3 == pytest.approx(counter.get_total_flops(), rel=0.02)
