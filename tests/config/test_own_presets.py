"""Presets of our own recipe: each differs from the paper's preset for the same data in the recipe alone, and costs less."""

from __future__ import annotations

import pytest
import torch

from inrflow_core.config import preset
from inrflow_core.config.preset import load
from inrflow_core.planning.plan import Planner
from inrflow_core.runtime.distributed import World

SUFFIX = "-own"
OWN = [name for name in preset.names() if name.endswith(SUFFIX)]
SIZES = ("name", "width", "depth", "heads", "latents")
SMALL = [name for name in OWN if load(name).network.config.width <= 384]


def forward_flops(name: str) -> float:
    """Of one set, with the pairs that training decodes."""
    alone = World(0, 1, 0, torch.device("cpu"), is_launched=False)
    return sum(Planner(load(name), alone, "fp32").sizes()[1].values())


def test_images_points_and_proteins_have_presets_of_our_own_recipe():
    assert {load(name).domain.name for name in OWN} == {"image", "points", "protein"}


@pytest.mark.parametrize("name", OWN)
def test_data_and_sizes_are_those_of_the_papers_preset_at_half_its_steps(name: str):
    own, paper = load(name).table(), load(name.removesuffix(SUFFIX)).table()
    for part in ("data", "domain", "condition", "sampler", "eval"):
        assert own.get(part) == paper.get(part), part
    assert {key: own["network"][key] for key in SIZES} == {key: paper["network"][key] for key in SIZES}
    assert 2 * own["training"]["steps"] == paper["training"]["steps"]
    assert own["training"]["batch"] == paper["training"]["batch"]
    assert own["training"]["optimizer"] == "muon" and own["training"]["schedule"] == "cosine"


@pytest.mark.parametrize("name", SMALL)
def test_a_step_takes_fewer_operations_than_one_of_the_papers_preset(name: str):
    assert forward_flops(name) < 0.9 * forward_flops(name.removesuffix(SUFFIX))
