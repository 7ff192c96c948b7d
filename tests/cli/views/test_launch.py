"""What a dry run prints beside its plan: the lines that launch it, and other micro-batches."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from inrflow_cli.views import launch
from inrflow_core.config import preset, toml
from inrflow_core.planning import advice
from inrflow_core.planning.plan import Planner
from inrflow_core.runtime import distributed
from tests.training import small
from tests.training.launched import environment

COMMAND = ["inrflow", "train", "--preset", "imagenet128-xl", "--set", "data.path=my shards"]


@pytest.mark.parametrize(
    ("processes", "torchrun", "srun"),
    [
        (8, "--standalone --nproc-per-node 8 ", "--nodes=1 --ntasks-per-node=8 --gpus-per-node=8 "),
        (32, "--nnodes 4 --nproc-per-node 8 ", "--nodes=4 --ntasks-per-node=8 --gpus-per-node=8 "),
        (12, "--nnodes 2 --nproc-per-node 6 ", "--nodes=2 --ntasks-per-node=6 --gpus-per-node=6 "),
    ],
)
def test_every_process_of_the_plan_is_started_and_runs_the_command(processes, torchrun, srun):
    world = distributed.World(0, processes, 0, torch.device("cuda"), processes > 1)
    lines = launch.launch_lines(COMMAND, world)
    assert lines["torchrun"].startswith(f"torchrun {torchrun}") and " --no-python " in lines["torchrun"]
    assert lines["slurm"].startswith(f"srun {srun}")
    for line in lines.values():
        assert shlex.split(line)[-len(COMMAND) :] == COMMAND
        script = f"#!/bin/bash\n#SBATCH --nodes=2\n{line}\n"
        parsed = subprocess.run(["bash", "-n"], input=script, text=True, capture_output=True, check=False)
        assert (parsed.returncode, parsed.stderr) == (0, "")


def test_one_process_needs_no_launcher():
    world = distributed.World(0, 1, 0, torch.device("cuda"), False)
    assert launch.launch_lines(COMMAND, world) == {"command": shlex.join(COMMAND)}


def test_other_micro_batches_are_those_of_a_plan_and_recomputation_takes_less_memory_and_more_time():
    world = distributed.World(0, 2, 0, torch.device("cuda"), True)
    planner = Planner(preset.load("imagenet256-s", ["network.depth=3", "training.batch=32"]), world, "bf16")
    planned = planner.plan(8)
    rows = launch.micro_batches(planner, 8, 1.01 * planned.total_memory, lambda plan: sum(plan.executed.values()))
    assert [row["micro_batch"] for row in rows] == [16, 8, 4, 2, 1]
    own = rows[1]
    assert (own["memory"], own["fits"]) == (planned.total_memory, "yes")
    assert [row["fits"] for row in rows] == ["no", "yes", "yes", "yes", "yes"]
    exact = Planner(planner.preset, world, "bf16").plan(2)
    assert rows[3]["memory"] == pytest.approx(exact.total_memory, rel=advice.SCALED)
    for row in rows:
        assert row["recomputed"]["memory"] < row["memory"]
        assert row["recomputed"]["seconds_per_step"] > 1.05 * row["seconds_per_step"]
    assert launch.micro_batches(planner, 8, None, lambda plan: 1.0)[0]["fits"] is None


@pytest.mark.parametrize(
    ("share", "micro", "counts"),
    [
        (64, 64, [64, 32, 16, 8, 4, 2, 1]),
        (512, 128, [256, 128, 64, 32, 16, 8, 4, 2, 1]),
        (1000, 500, [1000, 500, 250, 125, 50, 25, 10, 5, 2, 1]),
        (7, 1, [7, 1]),
        (1, 1, [1]),
    ],
)
def test_the_table_has_every_smaller_power_of_two_or_the_next_divisor_below_half(share, micro, counts):
    assert launch.shown_counts(share, micro) == counts


@pytest.mark.slow
def test_the_line_for_torchrun_trains_on_every_process(tmp_path):
    scripts = Path(sys.executable).parent
    if not all((scripts / name).exists() for name in ("torchrun", "inrflow")) or shutil.which("bash") is None:
        pytest.skip("torchrun or inrflow is not on the path")
    file, out = tmp_path / "small.toml", tmp_path / "my run"
    settings = {"steps": 2, "batch": 4, "save_every": 2}
    file.write_text(toml.to_toml(small.preset(training=settings).table()))
    data = small.images(tmp_path / "shards")
    command = ["inrflow", "train", "--preset", file, "--data", data, "--out", out, "--device", "cpu"]
    world = distributed.World(0, 2, 0, torch.device("cpu"), True)
    line = launch.launch_lines(list(map(str, command)), world)["torchrun"]
    variables = environment()
    variables["PATH"] = f"{scripts}:{variables['PATH']}"
    done = subprocess.run(["bash", "-c", line], env=variables, capture_output=True, text=True, check=False, timeout=150)
    assert done.returncode == 0, done.stderr
    assert f"in `{out}` on 2 x cpu" in done.stderr and len(small.losses(out)) == 2
