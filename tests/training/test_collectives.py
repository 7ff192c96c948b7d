"""What several processes tell each other in a step: few large messages, and none that is not needed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.training import small

CHECKOUT = Path(__file__).parents[2]
SCRIPT = """
import json, os, signal, sys
from pathlib import Path
import torch.distributed

NAMES = ("all_reduce", "reduce", "all_gather", "all_gather_into_tensor", "reduce_scatter_tensor", "broadcast", "barrier")
told = []

def counted(name, call):
    def told_of(tensor=None, *rest, **named):
        given = named.get("tensor", tensor)
        told.append((name, given.numel() if hasattr(given, "numel") else 0))
        return call(tensor, *rest, **named) if tensor is not None else call(*rest, **named)
    return told_of

for name in NAMES:
    setattr(torch.distributed, name, counted(name, getattr(torch.distributed, name)))

from inrflow_core.errors import Interrupted
from inrflow_core.runtime import process_group
from inrflow_core.training import setup
from inrflow_core.training.step_metrics import StepMeter
from tests.training import small

data, out = Path(sys.argv[1]), Path(sys.argv[2])
found = {}
for stage in (0, 1, 2):
    settings = {"zero_stage": stage, "log_every": 1000, "micro_batch": 1}
    ready = setup.check_job(small.job(data, out / str(stage), **settings), dict(os.environ))
    it = setup.build_trainer(ready)
    requests = ((s, p) for s in range(4) for p in it.micro_batches)
    batches = it.loader.stream(requests, it.world.device, 2, prepare=it.model.method.prepare_batch)
    it.model.method.train()
    it.meter = StepMeter(batches)
    it.advance(batches)
    it.advance(batches)
    told.clear()
    it.advance(batches)
    found[stage] = list(told)
    batches.close()
    if it.log is not None:
        it.log.close()
found["weights"] = sum(p.numel() for p in it.model.method.parameters())

it = setup.build_trainer(setup.check_job(small.job(data, out / "asked", steps=9, log_every=1), dict(os.environ)))
attend = it._run_scheduled_work

def attended(*signals, **named):
    attend(*signals, **named)
    if it.counters.step == 3 and it.world.rank == 1:
        os.kill(os.getpid(), signal.SIGTERM)

it._run_scheduled_work = attended
try:
    it.run(9)
except Interrupted as error:
    found["asked"] = [it.counters.step, it.saved, str(error)]
(out / f"{it.world.rank}.json").write_text(json.dumps(found))
process_group.exit_process(it.world, 0)
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> list[dict]:
    """What each of two processes counted."""
    folder = tmp_path_factory.mktemp("collectives")
    data = small.images(folder / "shards")
    (folder / "script.py").write_text(SCRIPT)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(CHECKOUT)}
    done = subprocess.run(
        [*launch, str(folder / "script.py"), str(data), str(folder)],
        cwd=CHECKOUT, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


def test_gradients_travel_at_once_and_only_what_is_needed_beside_them(found):
    """A step of two micro-batches. Stage 0 sends the sum of their gradients in one message, stage 1 too and then the norm,
    one number, and the weights; stage 2, which keeps no whole gradient, sends one for each micro-batch."""
    for one in found:
        gradient, norm, weights = ["all_reduce", one["weights"]], ["all_reduce", 1], ["all_gather_into_tensor", 0]
        assert one["0"] == [gradient]
        assert one["1"] == [gradient, norm, weights]
        assert one["2"] == [gradient, gradient, norm, weights]


def test_all_processes_stop_at_the_same_step_when_one_is_interrupted(found):
    steps = {one["asked"][0] for one in found}
    assert len(steps) == 1 and steps <= {4, 5}  # requested after step 3; heard one step later
    for one in found:
        assert one["asked"][1] == one["asked"][0]
        assert one["asked"][2].startswith(f"interrupted after step {one['asked'][0]}")
