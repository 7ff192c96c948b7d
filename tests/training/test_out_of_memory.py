"""A step that does not find its memory: the error says what helps, and what it says is true."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from inrflow_core.errors import OutOfMemory
from inrflow_core.planning import advice, plan
from inrflow_core.planning.plan import Planner
from inrflow_core.runtime import distributed
from inrflow_core.training import setup
from tests.training import small

NETWORK = {"width": 256, "depth": 6, "heads": 4, "latents": 36}
"""Of micro-batches of hundreds a step takes hundreds of megabytes: far more than varies between processes."""
TRAINING = {"batch": 128, "steps": 8, "save_every": 2, "precision": "fp32"}
AWAY = distributed.World(0, 1, 0, torch.device("cuda"), False)
CHILD = """
import json, os, resource, sys
from inrflow_cli import app
from inrflow_core.training.trainer import Trainer

spare, arguments = int(sys.argv[1]), json.loads(sys.argv[2])
run = Trainer.run

def limited(trainer, until):
    status = dict(line.split(":", 1) for line in open("/proc/self/status") if ":" in line)
    limit = int(status["VmData"].split()[0]) * 1024 + spare
    if os.environ.get("RANK", "0") == os.environ.get("POOR", "0"):
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    return run(trainer, until)

Trainer.run = limited
sys.exit(app.run(arguments))
"""


def train(folder: Path, data: Path, spare: int, *options: str) -> subprocess.CompletedProcess[str]:
    """`inrflow train` in a process that may take that many bytes from the first step on."""
    command = [sys.executable, "-c", CHILD, str(spare), json.dumps(arguments(folder, data, *options))]
    return subprocess.run(command, capture_output=True, text=True, timeout=600, env=environment())


def arguments(folder: Path, data: Path, *options: str) -> list[str]:
    """The command line of such a run."""
    from inrflow_core.config import toml

    preset = small.preset(network=NETWORK, training=TRAINING)
    file = folder / "preset.toml"
    file.write_text(toml.to_toml(preset.table()))
    inputs = ["train", "--preset", file, "--data", data, "--out", folder / "run", "--device", "cpu", "--threads", "1"]
    return [str(word) for word in (*inputs, *options)]


def environment(**more: str) -> dict[str, str]:
    names = {"OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    return {**os.environ, "PYTHONPATH": str(Path.cwd()), **names, **more}


def spare(share: float, size: int = 1) -> int:
    """So much of what comes and goes in a step of one of `size` processes, by the plan."""
    preset, index = small.preset(network=NETWORK, training=TRAINING), torch.device("cpu")
    apart = distributed.World(0, size, 0, index, size > 1)
    predicted = plan.predict(preset, apart, precision="fp32", micro=128 // size)
    return int(share * predicted.transient)


@pytest.mark.slow
def test_a_step_without_memory_leaves_with_5_and_what_it_advises_trains_in_the_same_memory(tmp_path):
    data = small.images(tmp_path / "data")
    saved = train(tmp_path, data, 10**13, "--stop-at-step", "2")
    assert saved.returncode == 130 or saved.returncode == 0, saved.stderr
    failed = train(tmp_path, data, spare(0.75))
    assert failed.returncode == 5, failed.stderr
    assert re.search(r"out of memory in a training step: this process had taken [\d.]+ GB", failed.stderr)
    assert "run the same command again to resume from step 2" in failed.stderr
    assert "Traceback" not in failed.stderr
    options = re.findall(r"`(--set [^`]+)` \(([\d.]+) GB\)", failed.stderr)
    assert options, failed.stderr
    for until, (option, _) in enumerate(options, start=3):
        reported = train(tmp_path, data, spare(0.75), *option.split(), "--stop-at-step", str(until))
        assert reported.returncode == 0, f"{option}: {reported.stderr}"


@pytest.mark.slow
def test_of_two_processes_the_one_without_memory_tells_and_the_launcher_ends(tmp_path):
    data, child = small.images(tmp_path / "data"), tmp_path / "child.py"
    child.write_text(CHILD)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    words = [str(child), str(spare(0.6, 2)), json.dumps(arguments(tmp_path, data))]
    reported = subprocess.run(
        [*launcher, *words], capture_output=True, text=True, timeout=600, env=environment(POOR="1")
    )
    assert reported.returncode != 0
    assert reported.stderr.count("out of memory in a training step") == 1, reported.stderr
    assert "training.micro_batch=" in reported.stderr and "exitcode  : 5" in reported.stderr, reported.stderr


def test_a_resumed_run_that_computes_activations_again_resumes_to_the_bit(tmp_path):
    data = small.images(tmp_path / "data")
    whole = small.state(small.train(data, tmp_path / "whole", until=4))
    small.train(data, tmp_path / "halves", until=2)
    again = small.preset(network={"checkpoint_activations": True})
    job = replace(small.job(data, tmp_path / "halves", until=4), preset=again)
    small.assert_equal(small.state(setup.train(job)), whole)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:119] err == 0. DefaultCPUAllocator: can't allocate memory: you tried"
        ),
    ],
    ids=["python", "cuda", "cpu"],
)
def test_every_way_to_run_out_of_memory_is_one_error(error):
    planner = Planner(small.preset(training={"batch": 4}), distributed.find({}, "cpu"), "fp32")
    with (
        pytest.raises(OutOfMemory, match="there is no checkpoint yet") as caught,
        advice.out_of_memory(planner, 4, lambda: None),
    ):
        raise error
    assert caught.value.code == 5 and "micro_batch=2" in (caught.value.hint or "")


def test_other_errors_of_torch_stay_what_they_are():
    planner = Planner(small.preset(), distributed.find({}, "cpu"), "fp32")
    with pytest.raises(RuntimeError, match="shapes"), advice.out_of_memory(planner, 4, lambda: None):
        raise RuntimeError("shapes do not fit")


def test_the_largest_micro_batch_that_fits_is_found():
    planner = Planner(small.preset(training={"batch": 24}), AWAY, "fp32")
    needs = {micro: planner.plan(micro).total_memory for micro in (1, 2, 3, 4, 6, 8, 12, 24)}
    result = advice.find(planner, 24, needs[8]).micro_batch
    assert result is not None and result.fits and result.option == "--set training.micro_batch=8"
    assert result.memory == needs[8]
    nothing = advice.find(planner, 24, needs[1] - 1).micro_batch
    assert nothing is not None and not nothing.fits and nothing.option == "--set training.micro_batch=1"


def test_a_higher_stage_is_advised_where_several_share_and_not_to_one_alone():
    preset = small.preset(training={"batch": 8, "zero_stage": 0})
    shared = Planner(preset, distributed.World(0, 8, 0, torch.device("cpu"), True), "fp32")
    reported = advice.find(shared, 1, shared.plan(1).total_memory - 1)
    assert reported.stage is not None and reported.stage.option == "--set training.zero_stage=1"
    alone = Planner(preset, distributed.find({}, "cpu"), "fp32")
    assert advice.find(alone, 8, 1).stage is None
    assert "smaller preset" in advice.find(alone, 8, 1).hint()
