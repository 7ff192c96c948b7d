"""What a run will take, before it takes it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from inrflow_core import models, presets
from inrflow_core.errors import OutOfMemory
from inrflow_core.training import plan, world
from inrflow_core.training.plan import Plan
from tests import tiny
from tests.training import small

ALONE = world.find({}, "cpu")


@pytest.mark.parametrize("kind", [tiny.IMAGE, tiny.POINTS], ids=["image", "points"])
def test_parameters_by_part_are_the_models(kind):
    preset = small.preset(kind)
    predicted = plan.predict(preset, ALONE, precision="fp32", micro=4)
    built = models.build(preset).method
    assert predicted.total_parameters == sum(p.numel() for p in built.parameters())
    assert set(predicted.parameters) == {"encoder", "trunk", "decoder", "conditioner"}
    assert predicted.total_flops == pytest.approx(3 * 4 * sum(built.flops().values()))


@pytest.mark.parametrize("kind", [tiny.IMAGE, tiny.POINTS], ids=["image", "points"])
def test_activations_are_what_a_real_pass_keeps(kind):
    preset = small.preset(kind)
    predicted = plan.predict(preset, ALONE, precision="fp32", micro=4).memory["activations"]
    method = models.build(preset).method
    kept: dict[int, int] = {}
    alive = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        alive.append(tensor)
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    own = {p.untyped_storage().data_ptr() for p in method.parameters()}
    domain = models.build(preset).domain
    size = (4, 6, 6, 1) if kind is tiny.IMAGE else (4, 24, 3)
    values = torch.zeros(size, dtype=torch.uint8 if kind is tiny.IMAGE else torch.float32).numpy()
    sets = domain.to_set(values, torch.arange(4), torch.zeros(4, dtype=torch.int64).numpy())
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        method(sets)
    real = sum(size for place, size in kept.items() if place not in own)
    assert real * 0.8 < predicted / plan.SLACK < real * 1.2


def test_zero_stages_divide_the_state_over_processes():
    def state(stage: int, size: int) -> dict[str, int]:
        apart = world.World(0, size, 0, torch.device("cpu"), True)
        memory = plan.predict(small.preset(training={"zero_stage": stage}), apart, precision="fp32", micro=1).memory
        return {name: memory[name] for name in ("weights", "gradients", "moments")}

    whole = 4 * plan.predict(small.preset(), ALONE, precision="fp32", micro=1).total_parameters
    assert state(0, 4) == {"weights": whole, "gradients": whole, "moments": 2 * whole}
    assert state(1, 4)["moments"] == pytest.approx(2 * whole / 4, rel=1e-3)
    assert state(3, 4)["weights"] == pytest.approx(whole / 4, rel=1e-3)


def test_the_733_million_parameters_of_imagenet128_xl_are_planned_without_being_made():
    changes = ["training.batch=1", "training.zero_stage=0", "network.checkpoint_activations=true"]
    predicted = plan.predict(presets.load("imagenet128-xl", changes), ALONE, precision="fp32", micro=1)
    assert round(predicted.total_parameters / 1e6) == 733
    assert 15.5e9 < predicted.total_memory < 17.5e9


def test_too_little_memory_says_by_how_much(monkeypatch):
    monkeypatch.setattr(plan, "free_memory", lambda device: 3_000_000_000)
    wanted = Plan({}, {}, {"program": 0, "weights": 2_000_000_000, "activations": 2_500_000_000}, 0, 0)
    with pytest.raises(
        OutOfMemory, match=r"needs about 4.50 GB of memory and 3.00 GB are free: 1.50 GB too little"
    ) as caught:
        plan.check_memory(wanted, ALONE)
    assert caught.value.hint is not None and "micro_batch" in caught.value.hint and caught.value.code == 5


def test_too_little_disk_says_by_how_much(tmp_path, monkeypatch):
    import shutil

    monkeypatch.setattr(shutil, "disk_usage", lambda place: type("Usage", (), {"free": 1_000_000_000}))
    wanted = Plan({}, {}, {}, checkpoint=500_000_000, disk=1_500_000_000)
    with pytest.raises(OutOfMemory, match=r"need 1.50 GB of disk below .* and 1.00 GB are free: 0.50 GB too little"):
        plan.check_disk(wanted, tmp_path / "runs" / "new", 0)
    plan.check_disk(wanted, tmp_path / "runs" / "new", 1_000_000_000)  # two of three are there already
    monkeypatch.setattr(shutil, "disk_usage", lambda place: type("Usage", (), {"free": 400_000_000}))
    with pytest.raises(OutOfMemory, match=r"need 0.50 GB .* and 0.40 GB are free: 0.10 GB too little"):  # the next one
        plan.check_disk(wanted, tmp_path / "runs" / "new", 1_500_000_000)


def test_free_memory_is_known_on_linux():
    if not Path("/proc/meminfo").is_file():
        pytest.skip("this system has no /proc/meminfo")
    free = plan.free_memory(torch.device("cpu"))
    assert free is not None and 0 < free < 1e14
