"""What a whole training process takes, against its plan: `inrflow train` of a preset, the program included, on a CPU.

    python tests/benchmarks/plan_of_run.py proteins-demo --steps 12 --set training.batch=16
    python tests/benchmarks/plan_of_run.py digits-demo --set network.width=576 --set network.heads=9 \\
        --set network.depth=12 --set training.batch=2                               # 74 million weights

Measured is the most memory in use in any step (Linux), with the C library's own settings; checkpoints, held-out losses and previews
are outside. The shards are those of the preset, or `--data`. Exit code 1 where the plan is more than 15 % off.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from inrflow_core.config import preset
from inrflow_core.training import setup
from inrflow_core.training.trainer import Trainer
from tests.benchmarks import plan


def measure(job: setup.TrainJob) -> tuple[float, float]:
    """Bytes that are planned, and the most that a step of the job takes."""
    planned, peaks, advance = setup.check_job(job, {}).plan.total_memory, list[float](), Trainer.advance

    def measured_step(trainer: Trainer, *arguments: object) -> None:
        plan.reset_peak()
        advance(trainer, *arguments)  # pyright: ignore[reportArgumentType]
        peaks.append(plan.peak())

    Trainer.advance = measured_step
    setup.train(job)
    return planned, max(peaks)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("preset")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--set", action="append", default=[], dest="changes", metavar="KEY=VALUE")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        chosen = preset.load(options.preset, options.changes)
        out = Path(folder) / "run"
        job = setup.TrainJob(chosen, out, options.data, "cpu", 1, until=options.steps, check_data=False)
        planned, measured = measure(job)
    print(f"planned {planned / 1e6:,.0f} MB, measured {measured / 1e6:,.0f} MB: {planned / measured:.2f}")
    return 0 if abs(planned / measured - 1) <= plan.MOST else 1


if __name__ == "__main__":
    sys.exit(main())
