"""`torch.compile` makes one graph of the network, which computes what the plain one computes.

Each case in a process of its own, without the checks of shapes that the tests put around every function. Inductor's own
code takes minutes of a core to compile even for so small a network, so that one case has it; in the others the graph is
cut, differentiated and partitioned as for a GPU, and then run as it is.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.training import small

CHECKOUT = Path(__file__).parents[2]
SCRIPT = """
import json, sys
from dataclasses import replace
import torch
from torch._dynamo.utils import counters
from inrflow_core import models
from inrflow_core.numerics import keyed_random, noise_field
from inrflow_core.sets import TrainBatch
from tests import tiny

kind, network, backend = json.loads(sys.argv[1])
torch.set_num_threads(1)

def built():
    torch.manual_seed(0)
    model = models.build(tiny.preset(getattr(tiny, kind), network=network))
    tiny.randomize(model.method)
    model.method.train()
    return model

def gradients(model, step):
    blank = model.domain.dummy_batch(4)
    seeds = keyed_random.derive_seeds(0, step, torch.arange(4))
    values = noise_field.normal(seeds, torch.arange(blank.values.shape[1]), purpose="data", channels=blank.values.shape[2])
    condition = blank.condition or {"label": torch.tensor([0, 1, 2, 0])}
    model.method.zero_grad()
    loss = model.method.loss(TrainBatch.from_sets(replace(blank, values=values, seeds=seeds, condition=condition))).mean()
    loss.backward()
    return float(loss), [weight.grad.clone() for weight in model.method.parameters() if weight.grad is not None]

plain, compiled = built(), built()
compiled.method.network.compile(fullgraph=True, backend=backend)
found = []
for step in range(3):
    (wanted_loss, wanted), (loss, got) = gradients(plain, step), gradients(compiled, step)
    apart = max(float((a - b).norm() / (b.norm() + 1e-3)) for a, b in zip(got, wanted, strict=True))
    found.append([loss, wanted_loss, apart])
print(json.dumps([found, counters["stats"]["unique_graphs"], dict(counters["graph_break"])]))
"""
TRAIN = """
import sys
from pathlib import Path
from tests.training import small

small.train(Path(sys.argv[1]), Path(sys.argv[2]), steps=4, compile=True, zero_stage=1)
"""
CASES: dict[str, tuple[str, dict[str, Any], str]] = {
    "spatial": ("IMAGE", {}, "aot_eager"),
    "spatial, inductor": ("IMAGE", {}, "inductor"),
    "kmeans": ("IMAGE", {"pseudo_coordinates": "kmeans"}, "aot_eager"),
    "linear, checkpoints": ("IMAGE", {"encoder": "linear", "checkpoint_activations": True}, "aot_eager"),
    "perceiver": ("POINTS", {}, "aot_eager"),
    "perceiver, checkpoints": ("POINTS", {"checkpoint_activations": True}, "aot_eager"),
    "hash": ("POINTS", {"encoder": "spatial", "pseudo_coordinates": "hash"}, "aot_eager"),
    "residue": ("PROTEIN", {}, "aot_eager"),
}


def run(script: str, *arguments: Any) -> str:
    """What a script of its own process prints."""
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(CHECKOUT),
        "TORCHINDUCTOR_COMPILE_THREADS": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)],
        cwd=CHECKOUT,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_a_compiled_network_is_one_graph_with_the_same_loss_and_gradients(name):
    steps, graphs, breaks = json.loads(run(SCRIPT, json.dumps(CASES[name])).splitlines()[-1])
    for loss, expected, apart in steps:
        assert loss == pytest.approx(expected, rel=1e-5)
        assert apart < 1e-4
    assert graphs == 1 and breaks == {}  # made in the first step, and no other in the second and third


@pytest.mark.slow
def test_a_compiled_run_has_the_losses_of_a_plain_one(tmp_path):
    data = small.images(tmp_path / "shards")
    small.train(data, tmp_path / "plain", steps=4)
    run(TRAIN, data, tmp_path / "compiled")
    assert small.losses(tmp_path / "compiled") == pytest.approx(small.losses(tmp_path / "plain"), rel=1e-5)
