"""What a run will take, before it takes it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from inrflow_core import models
from inrflow_core.config import preset
from inrflow_core.errors import OutOfMemory
from inrflow_core.methods._trained_weights import hidden_matrices
from inrflow_core.numerics import newton_schulz
from inrflow_core.planning import checks, flops
from inrflow_core.planning.gpu_specs import GPUS
from inrflow_core.planning.plan import MAX_TRACED, TABLE_ROWS, Plan, Planner, predict, row_title
from inrflow_core.runtime import distributed, memory
from inrflow_core.sets import TrainBatch
from tests import tiny
from tests.benchmarks import plan
from tests.training import small

ALONE = distributed.find({}, "cpu")
AWAY = distributed.World(0, 1, 0, torch.device("cuda"), False)


def _plan(memory: dict[str, int], checkpoint: int = 0, disk: int = 0) -> Plan:
    return Plan({}, {}, memory, checkpoint, disk, {}, memory, 0)


@pytest.mark.parametrize("kind", [tiny.IMAGE, tiny.POINTS], ids=["image", "points"])
def test_parameters_by_part_are_the_models(kind):
    preset = small.preset(kind)
    predicted = predict(preset, ALONE, precision="fp32", micro=4)
    built = models.build(preset).method
    assert predicted.total_parameters == sum(p.numel() for p in built.parameters())
    assert list(predicted.parameters) == ["encoder", "trunk", "decoder", "conditioner"]
    with flops.counter() as counted:
        built.loss(TrainBatch.from_sets(plan.filled(models.build(preset), 1)))
    assert predicted.total_flops == pytest.approx(3 * 4 * counted.get_total_flops())


@pytest.mark.parametrize("kind", [tiny.IMAGE, tiny.POINTS, tiny.PROTEIN], ids=["image", "points", "protein"])
@pytest.mark.parametrize("checkpointed", [False, True], ids=["kept", "checkpointed"])
def test_executed_operations_are_those_that_torch_counts_in_a_real_step(kind, checkpointed):
    preset = small.preset(kind, training={"batch": 4}, network={"checkpoint_activations": checkpointed})
    predicted = predict(preset, ALONE, precision="fp32", micro=4)
    model = models.build(preset)
    with flops.counter() as counter:
        model.method.loss(TrainBatch.from_sets(plan.filled(model, 4))).mean().backward()
    assert sum(predicted.executed.values()) == pytest.approx(counter.get_total_flops(), rel=0.01)


@pytest.mark.parametrize("name", ["cifar10-s", "shapenet-airplane-b", "proteins-demo"])
def test_what_the_network_needs_is_within_15_per_cent_of_what_is_executed(name):
    changes = ["training.batch=1", "network.checkpoint_activations=false", "network.depth=4"]
    predicted = predict(preset.load(name, changes), AWAY, precision="fp32", micro=1)
    assert predicted.total_flops == pytest.approx(sum(predicted.executed.values()), rel=0.15)


@pytest.mark.parametrize(
    "case",
    [
        {"kind": "image", "micro": 4, "checkpointed": False, "precision": "fp32", "stage": 0},
        {"kind": "points", "micro": 2, "checkpointed": True, "precision": "fp32", "stage": 1},
    ],
    ids=["image", "points-checkpointed-stage-1"],
)
@pytest.mark.slow
def test_predicted_memory_is_within_15_per_cent_of_what_a_process_takes(case):
    if not Path("/proc/self/clear_refs").is_file():
        pytest.skip("this system does not tell a process's peak anew")
    result = plan.compare(case)
    assert result["total"] == pytest.approx(1, abs=plan.MOST)
    assert result["activations"] == pytest.approx(1, abs=plan.MOST)


def test_checkpointing_takes_less_memory_and_a_third_more_operations():
    planner = Planner(preset.load("imagenet256-s", ["training.batch=4", "network.depth=6"]), AWAY, "fp32")
    remaining, again = (planner.plan(4, checkpointed=flag) for flag in (False, True))
    assert again.memory["activations_trunk"] < 0.3 * remaining.memory["activations_trunk"]
    assert again.executed["trunk"] == pytest.approx(4 / 3 * remaining.executed["trunk"], rel=0.05)
    assert again.flops == remaining.flops


def test_memory_grows_in_a_straight_line_with_the_micro_batch():
    planner = Planner(small.preset(tiny.IMAGE, training={"batch": 8}), AWAY, "bf16")
    sizes = [sum(n for name, n in planner.plan(micro).most.items() if "activ" in name) for micro in (2, 4, 8)]
    assert sizes[2] - sizes[1] == pytest.approx(2 * (sizes[1] - sizes[0]), rel=0.02)


@pytest.mark.parametrize("kind", [tiny.IMAGE, tiny.PROTEIN], ids=["image", "protein"])
def test_a_batch_of_a_hundred_million_sets_is_planned_in_proportion_to_a_traced_one(kind):
    planner = Planner(small.preset(kind, training={"batch": 10**8}), ALONE, "fp32")
    large, few = planner.plan(10**8), planner.plan(MAX_TRACED)
    scale = 10**8 / MAX_TRACED
    assert large.total_flops == few.total_flops
    assert sum(large.executed.values()) == pytest.approx(sum(few.executed.values()))
    assert large.most["activations_trunk"] == pytest.approx(scale * few.most["activations_trunk"], rel=1e-6)
    assert large.memory["moments"] == few.memory["moments"]


def test_rows_explain_themselves_and_add_up():
    predicted = predict(small.preset(training={"zero_stage": 1}), ALONE, precision="fp32", micro=2)
    assert all(row_title(row, ["AdamW"]) for row in predicted.memory) and "fp32 copy" in TABLE_ROWS["zero_weights"]
    assert predicted.memory["zero_weights"] == predicted.memory["weights"] == 4 * predicted.total_parameters
    assert predicted.total_memory == sum(predicted.memory.values())
    assert all(predicted.most[name] >= count for name, count in predicted.memory.items())


@pytest.mark.parametrize(("stage", "copies"), [(0, 3), (1, 4), (2, 4)])
def test_radam_copies_weights_and_moments_before_a_step_and_other_optimizers_do_not(stage: int, copies: int):
    """Measured of 74M weights on a CPU, without the copies 0.71 (stage 0) and 0.69 (stage 1) of it were planned."""
    adamw, radam = (
        predict(small.preset(training={"zero_stage": stage, "optimizer": name}), ALONE, precision="fp32", micro=1)
        for name in ("adamw", "radam")
    )
    weights = 4 * adamw.total_parameters
    assert radam.most["before_step"] == copies * weights and "before_step" not in adamw.memory
    assert radam.persistent == adamw.persistent
    assert radam.total_memory >= adamw.total_memory


@pytest.mark.parametrize(("stage", "size"), [(0, 1), (0, 4), (1, 4)])
def test_muon_iterates_the_matrices_of_a_process_and_has_no_other_memory(stage: int, size: int):
    world = distributed.World(0, size, 0, torch.device("cpu"), True)
    adamw, muon = (
        predict(
            small.preset(training={"zero_stage": stage, "optimizer": name}, network={"width": 32}),
            world,
            precision="fp32",
            micro=1,
        )
        for name in ("adamw", "muon")
    )
    model = models.build(small.preset(network={"width": 32})).method
    names = hidden_matrices(model, dict(model.named_parameters()))
    shapes = [tuple(p.shape) for name, p in model.named_parameters() if name in names]
    numbers = sum(rows * columns for rows, columns in shapes)
    share = 1 if stage == 0 else 1 / size
    assert muon.update_flops == pytest.approx(share * sum(newton_schulz.flops(*shape) for shape in shapes))
    assert muon.update_bytes - adamw.update_bytes == pytest.approx(4 * share * numbers * 30)
    assert muon.most["newton_schulz"] == 5 * 4 * newton_schulz.largest_stack(shapes)
    assert adamw.update_flops == 0 and "newton_schulz" not in adamw.most
    assert muon.persistent == adamw.persistent
    h200 = GPUS["h200"]
    seconds = muon.seconds(h200, "bf16", size) - adamw.seconds(h200, "bf16", size)
    assert seconds == pytest.approx(
        muon.update_flops / (0.6 * 67e12) + (muon.update_bytes - adamw.update_bytes) / 4.8e12
    )


def test_zero_stages_divide_the_state_over_processes():
    def state(stage: int, size: int) -> dict[str, int]:
        apart = distributed.World(0, size, 0, torch.device("cpu"), True)
        most = predict(small.preset(training={"zero_stage": stage}), apart, precision="fp32", micro=1).most
        return {name: most[name] for name in ("weights", "gradients", "moments")}

    whole = 4 * predict(small.preset(), ALONE, precision="fp32", micro=1).total_parameters
    assert state(0, 4) == {"weights": whole, "gradients": whole, "moments": 2 * whole}
    assert state(1, 4)["moments"] == pytest.approx(2 * whole / 4, rel=1e-3)
    assert state(3, 4)["weights"] == pytest.approx(whole / 4, rel=1e-3)


def test_the_733_million_parameters_of_imagenet128_xl_are_planned_without_being_made():
    changes = ["training.batch=1", "training.zero_stage=0", "network.checkpoint_activations=true"]
    predicted = predict(preset.load("imagenet128-xl", changes), AWAY, precision="fp32", micro=1)
    assert round(predicted.total_parameters / 1e6) == 733
    assert 15.5e9 < predicted.total_memory < 17.5e9


def test_too_little_memory_says_by_how_much(monkeypatch):
    monkeypatch.setattr(memory, "free_memory", lambda device: 3_000_000_000)
    expected = _plan({"program": 0, "weights": 2_000_000_000, "activations_trunk": 2_500_000_000})
    with pytest.raises(
        OutOfMemory, match=r"needs about 4.50 GB of memory and 3.00 GB are free: 1.50 GB too little"
    ) as caught:
        checks.check_memory(expected, ALONE)
    assert caught.value.hint is not None and "micro_batch" in caught.value.hint and caught.value.code == 5


def test_too_little_disk_says_by_how_much(tmp_path, monkeypatch):
    import shutil

    monkeypatch.setattr(shutil, "disk_usage", lambda place: type("Usage", (), {"free": 1_000_000_000}))
    expected = _plan({}, checkpoint=500_000_000, disk=1_500_000_000)
    with pytest.raises(OutOfMemory, match=r"need 1.5 GB of disk below .* and 1 GB are free: 500 MB too little"):
        checks.check_disk(expected, tmp_path / "runs" / "new", 0)
    checks.check_disk(expected, tmp_path / "runs" / "new", 1_000_000_000)  # two of three are there already
    monkeypatch.setattr(shutil, "disk_usage", lambda place: type("Usage", (), {"free": 400_000_000}))
    with pytest.raises(OutOfMemory, match=r"need 500 MB .* and 400 MB are free: 100 MB too little"):  # the next one
        checks.check_disk(expected, tmp_path / "runs" / "new", 1_500_000_000)


def test_processes_of_a_machine_share_what_is_free(monkeypatch):
    monkeypatch.setattr(memory, "free_memory", lambda device: 3_000_000_000)
    variables = {"RANK": "0", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "host", "MASTER_PORT": "1"}
    index = distributed.find(variables, "cpu")
    checks.check_memory(_plan({"weights": 1_500_000_000}), index)
    with pytest.raises(OutOfMemory, match=r"1\.50 GB are free"):
        checks.check_memory(_plan({"weights": 1_600_000_000}), index)


def test_free_memory_is_known_on_linux():
    if not Path("/proc/meminfo").is_file():
        pytest.skip("this system has no /proc/meminfo")
    free = memory.free_memory(torch.device("cpu"))
    assert free is not None and 0 < free < 1e14
