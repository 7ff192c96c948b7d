"""What the trainer adds to a step: the share of time it waits for data, and its work beside forward and backward.

    python tests/benchmarks/training.py                        # digits-demo, about a minute on one core
    python tests/benchmarks/training.py --preset solids-demo
    python tests/benchmarks/training.py --json

One thread, fp32, shards made on the spot. Waiting is wall time, measured by the trainer around each batch that it
takes; the rest is CPU time of the training thread, so that a busy machine changes little. The plain step is the same
loss, clipping and AdamW in six lines of torch on batches that lie ready; the two take turns.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from inrflow_cli import app
from inrflow_core import models
from inrflow_core.config.preset import load
from inrflow_core.sets import TrainBatch
from inrflow_core.training import setup
from inrflow_core.training.step_metrics import StepMeter
from inrflow_core.training.trainer import Trainer

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

WARM = 20
MOST_WAITING = 0.02


def main() -> None:
    """Measure, print, and fail where the trainer waits too long."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--preset", default="digits-demo")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        answer = measure(arguments.preset, arguments.steps, Path(folder))
    if arguments.json:
        print(json.dumps(answer))
    else:
        for name, value in answer.items():
            print(f"{name:>28}  {value:.4g}" if isinstance(value, float) else f"{name:>28}  {value}")
    sys.exit(0 if answer["waiting for data"] < MOST_WAITING else 1)


def measure(name: str, steps: int, folder: Path) -> dict[str, Any]:
    """Shares and ratios over `steps` steps of a preset."""
    preset = load(name, [f"training.steps={WARM + steps}", "training.precision=fp32", "training.log_every=1000000"])
    data = folder / "shards"
    source = Path(preset.data.config.path).name
    assert app.run(["prepare", source, "--out", str(data)]) == 0
    job = setup.TrainJob(preset, folder / "run", data=data, device="cpu", threads=1)
    trainer = setup.build_trainer(setup.check_job(job, {}))
    trainer.model.method.train()
    requests = ((step, positions) for step in range(WARM + steps) for positions in trainer.micro_batches)
    batches = trainer.loader.stream(
        requests, trainer.world.device, preset.data.config.prefetch, prepare=trainer.model.method.prepare_batch
    )
    trainer.meter = StepMeter(batches)
    for _ in range(WARM):
        trainer.advance(batches)
    plain = Plain(trainer)
    ours, theirs, waited, wall = 0.0, 0.0, batches.seconds_blocked, 0.0
    for _ in range(steps):
        start, begun = time.thread_time(), time.perf_counter()
        trainer.advance(batches)
        ours += time.thread_time() - start
        wall += time.perf_counter() - begun
        theirs += plain.step()
    share = (batches.seconds_blocked - waited) / wall
    batches.close()
    assert trainer.log is not None
    trainer.log.close()
    return {
        "preset": name,
        "steps": steps,
        "waiting for data": share,
        "CPU seconds per step": ours / steps,
        "over a plain step": ours / theirs,
        "samples per CPU second": preset.training.config.batch * steps / ours,
    }


class Plain:
    """The same step written out."""

    def __init__(self, trainer: Trainer) -> None:
        settings = trainer.settings
        self.method = models.build(trainer.model.preset).method.train()
        self.adam = torch.optim.AdamW(
            self.method.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True
        )
        self.clip = settings.clip or float("inf")
        self.sets = trainer.loader.batch(0, range(settings.batch))
        self.step()

    def step(self) -> float:
        """CPU seconds of one step."""
        start = time.thread_time()
        self.adam.zero_grad()
        self.method.loss(TrainBatch.from_sets(self.sets)).mean().backward()
        torch.nn.utils.clip_grad_norm_(self.method.parameters(), self.clip)
        self.adam.step()
        return time.thread_time() - start


if __name__ == "__main__":
    main()
