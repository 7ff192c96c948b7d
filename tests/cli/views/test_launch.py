"""What a dry run prints beside its plan: the lines that launch it, and other micro-batches."""

from __future__ import annotations

import shlex

import pytest
import torch

from inrflow_cli.views import launch
from inrflow_core.config import preset
from inrflow_core.planning import advice
from inrflow_core.planning.plan import Planner
from inrflow_core.runtime import distributed

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
