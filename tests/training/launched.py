"""Jobs for several processes: a test writes them down, torchrun starts this file, and each process does them in turn."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from inrflow_core.runtime import distributed, process_group
from inrflow_core.training import setup
from inrflow_core.training.loader import Stream
from inrflow_core.training.setup import TrainJob
from inrflow_core.training.trainer import Trainer
from tests import own_methods, tiny
from tests.training import conditioned_runs, small, staged_runs

CHECKOUT = Path(__file__).parents[2]
JobTable = dict[str, Any]
"""A job in words that JSON has: `data`, `out`, `until`, settings of `training` and `network`; `kind` other than images
with labels, or `method` of `staged_runs`; `again`, a folder to save to at once after beginning; `follow`, to leave in `OUT.followed` what the averages should be."""


def launch(num_processes: int, jobs: list[JobTable], folder: Path) -> None:
    """Let that many processes do the jobs."""
    file = folder / "jobs.json"
    file.write_text(json.dumps(jobs, default=str))
    command = torchrun("--standalone", "--nproc-per-node", num_processes, "-m", "tests.training.launched", file)
    done = subprocess.run(command, cwd=CHECKOUT, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def torchrun(*arguments: Any) -> list[str]:
    """A command line of torchrun's."""
    return [sys.executable, "-m", "torch.distributed.run", *map(str, arguments)]


def environment(**more: Any) -> dict[str, str]:
    """The environment of a launcher: one thread, and this checkout's code."""
    plain = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(CHECKOUT)}
    return os.environ | plain | {name: str(value) for name, value in more.items()}


def do(table: JobTable, names: Mapping[str, str] | None = None) -> Trainer:
    """Train one job up to its `until`; what it says is in `OUT.said` afterwards."""
    job, said = read(table), []
    ready = setup.check_job(replace(job, say=said.append), dict(names or {}))
    trainer = setup.build_trainer(ready)
    if table.get("again") is not None:
        trainer.out = Path(table["again"])
        trainer.save()
        trainer.out = job.out
    follow = Followed(trainer) if table.get("follow") else None
    trainer.run(ready.last)
    if follow is not None and trainer.world.is_main:
        safetensors.torch.save_file(follow.averages, f"{job.out}.followed")
    with Path(f"{job.out}.said").open("a") as file:
        file.writelines(f"{line}\n" for line in said)
    return trainer


class Followed:
    """What the averages' recursion gives from the whole weights of a run, gathered after each of its steps."""

    def __init__(self, trainer: Trainer) -> None:
        self.averages = {
            f"{average.decay}.{name}": weight.clone()
            for name, weight in self._weights(trainer).items()
            for average in trainer.averages
        }
        advance = trainer.advance

        def followed(batches: Stream) -> None:
            advance(batches)
            for name, weight in self._weights(trainer).items():
                for average in trainer.averages:
                    self.averages[f"{average.decay}.{name}"].lerp_(weight, 1 - average.decay)

        trainer.advance = followed

    def _weights(self, trainer: Trainer) -> dict[str, torch.Tensor]:
        return dict(zip(trainer.engine.layout(), [t.clone() for t in trainer.engine.weights()], strict=True))


def read(table: JobTable) -> TrainJob:
    """The job that `table` describes."""
    data, out, until, training = Path(table["data"]), Path(table["out"]), table.get("until"), table.get("training", {})
    if table.get("kind") is not None:
        return conditioned_runs.job(data, out, getattr(tiny, table["kind"]), training=training, until=until)
    job = small.job(data, out, until=until)
    if table.get("method") is not None:
        return replace(job, preset=staged_runs.preset(table["method"], **training))
    return replace(job, preset=small.preset(training=training, network=table.get("network", {})))


def main() -> None:
    """Do the jobs of the file that the command line names."""
    own_methods.install()
    names = dict(os.environ)
    for reported in json.loads(Path(sys.argv[1]).read_text()):
        do(reported, names)
    process_group.exit_process(distributed.find(names, "cpu"), 0)


if __name__ == "__main__":
    main()
