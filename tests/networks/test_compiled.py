"""`torch.compile` makes one graph of the network, which computes what the plain one computes.

Slow: a graph takes up to a minute of a core.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.utils import counters

from inrflow_core import models, noise
from inrflow_core.sets import CoordValueSet
from tests import tiny
from tests.training import small

KINDS = {
    "spatial": (tiny.IMAGE, {}),
    "kmeans": (tiny.IMAGE, {"pseudo_coordinates": "kmeans"}),
    "linear": (tiny.IMAGE, {"encoder": "linear", "checkpoint_activations": True}),
    "perceiver": (tiny.POINTS, {"encoder": "perceiver", "rope": False}),
    "hash": (tiny.POINTS, {"encoder": "spatial", "pseudo_coordinates": "hash", "rope": False}),
}


def built(name: str) -> models.Model:
    """A small model in training, with random weights."""
    kind, changes = KINDS[name]
    model = models.build(tiny.preset(kind, network=changes))
    tiny.randomise(model.method)
    model.method.train()
    return model


def sets(model: models.Model, step: int) -> CoordValueSet:
    """Four sets of a step."""
    blank = model.domain.blank(4)
    seeds = noise.derive_seeds(0, step, torch.arange(4))
    values = noise.normal(seeds, torch.arange(blank.values.shape[1]), purpose="data", channels=blank.values.shape[2])
    return replace(blank, values=values, seeds=seeds, condition={"label": torch.tensor([0, 1, 2, 0])})


def gradients(model: models.Model, step: int) -> tuple[Tensor, list[Tensor]]:
    """The loss of a step and its gradients."""
    model.method.zero_grad()
    loss = model.method(sets(model, step)).mean()
    loss.backward()
    return loss.detach(), [weight.grad.clone() for weight in model.method.parameters() if weight.grad is not None]


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_a_compiled_network_is_one_graph_with_the_same_loss_and_gradients(name):
    plain, compiled = built(name), built(name)
    torch._dynamo.reset()
    counters.clear()
    compiled.method.network.compile(fullgraph=True)
    for step in range(3):
        (wanted_loss, wanted), (loss, found) = gradients(plain, step), gradients(compiled, step)
        torch.testing.assert_close(loss, wanted_loss, rtol=1e-5, atol=0)
        for a, b in zip(found, wanted, strict=True):
            assert float((a - b).norm()) <= 1e-4 * float(b.norm()) + 1e-7
    assert counters["stats"]["unique_graphs"] == 1 and counters["frames"]["ok"] == 1


@pytest.mark.slow
def test_a_compiled_run_has_the_losses_of_a_plain_one(tmp_path):
    data = small.images(tmp_path / "shards")
    changes: dict[str, Any] = {"steps": 4, "held_out_every": None}
    small.train(data, tmp_path / "plain", **changes)
    torch._dynamo.reset()
    small.train(data, tmp_path / "compiled", compile=True, **changes)
    assert small.losses(tmp_path / "compiled") == pytest.approx(small.losses(tmp_path / "plain"), rel=1e-5)
