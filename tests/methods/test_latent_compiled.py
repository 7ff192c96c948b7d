"""`training.compile` compiles what both stages of latent diffusion call, also beside an adversary, and changes no gradient.

In a process of its own, without the checks of shapes that the tests put around every function. The graphs are cut,
differentiated and partitioned as for a GPU, and then run as they are: inductor's code takes minutes to compile.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[2]
SCRIPT = """
import json, sys
from dataclasses import replace
import torch
from torch._dynamo.utils import counters
from inrflow_core import models
from inrflow_core.methods._contract import StepState
from inrflow_core.numerics import keyed_random
from inrflow_core.sets import TrainBatch
from tests import tiny

stage, adversarial, kind = json.loads(sys.argv[1])
torch.set_num_threads(1)

def built():
    torch.manual_seed(0)
    method = {"adversarial": 0.5, "discriminator_depth": 1, "discriminator_width": 4} if adversarial else {}
    model = models.build(tiny.preset(getattr(tiny, kind), method=method))
    tiny.randomize(model.method)
    return model

def gradients(model):
    seeds = keyed_random.derive_seeds(0, 1, torch.arange(4))
    sets = replace(model.domain.dummy_batch(4), seeds=seeds, condition={"label": torch.tensor([0, 1, 2, 0])})
    sets = replace(sets, values=torch.rand(sets.values.shape, generator=torch.Generator().manual_seed(1)))
    if stage == "diffusion":
        sets = sets.with_values(model.method.precompute("latents", sets).detach().half())
    model.method.zero_grad()
    loss = model.method.loss(TrainBatch.from_sets(sets), StepState(stage, 5, 9)).mean()
    loss.backward()
    return float(loss), [weight.grad.clone() for weight in model.method.parameters() if weight.grad is not None]

plain, compiled = built(), built()
for module in compiled.method.compiled_modules():
    module.compile(fullgraph=True, backend="aot_eager")
(wanted_loss, wanted), (loss, got) = gradients(plain), gradients(compiled)
apart = max(float((a - b).norm() / (b.norm() + 1e-3)) for a, b in zip(got, wanted, strict=True))
print(json.dumps([loss, wanted_loss, apart, counters["stats"]["unique_graphs"]]))
"""


@pytest.mark.parametrize(
    ("kind", "stage", "adversarial", "graphs"),
    [
        ("LATENT", "autoencoder", False, 2),
        ("LATENT", "autoencoder", True, 3),
        ("LATENT", "diffusion", False, 1),
        ("VIDEO", "autoencoder", False, 2),
    ],
)
def test_compiled_networks_are_called_and_have_the_gradients_of_plain_ones(
    kind: str, stage: str, adversarial: bool, graphs: int
):
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps([stage, adversarial, kind])],
        cwd=CHECKOUT,
        env={**os.environ, "PYTHONPATH": str(CHECKOUT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    loss, expected, apart, found = json.loads(result.stdout.splitlines()[-1])
    assert loss == pytest.approx(expected, rel=1e-5) and apart < 1e-4
    assert found >= graphs
