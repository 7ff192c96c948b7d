"""Small models with random weights: at the start a network answers exactly 0, and laws would hold trivially."""

from __future__ import annotations

from typing import Any

import torch

from inrflow_core import models, presets
from inrflow_core.models import Model

IMAGE: dict[str, dict[str, Any]] = {
    "domain": {"name": "image", "resolution": 6, "channels": 1},
    "network": {"width": 32, "depth": 2, "heads": 2, "latents": 9, "encoder": "spatial", "rope": True},
}
POINTS: dict[str, dict[str, Any]] = {
    "domain": {"name": "points", "num_points": 24},
    "network": {
        "width": 32,
        "depth": 2,
        "heads": 2,
        "latents": 8,
        "encoder": "perceiver",
        "reread": 2,
        "num_frequencies": 4,
    },
}
CONDITION = {"name": "label", "classes": 3}


def tables(kind: dict[str, dict[str, Any]], **changes: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """A whole preset around a small domain and network; `changes` are merged into its tables."""
    base: dict[str, dict[str, Any]] = {
        "data": {"path": "shards/none"},
        "domain": {},
        "method": {"name": "flow"},
        "network": {"name": "set-transformer"},
        "condition": dict(CONDITION),
        "sampler": {"name": "euler", "steps": 4},
        "training": {"batch": 2, "steps": 2},
    }
    for source in (kind, changes):
        for table, values in source.items():
            base[table] = {**base.get(table, {}), **values}
    return base


def preset(kind: dict[str, dict[str, Any]], **changes: dict[str, Any]) -> presets.Preset:
    """The resolved preset of `tables`."""
    return presets.resolve("tiny", tables(kind, **changes))


def model(kind: dict[str, dict[str, Any]], scale: float = 0.25, **changes: dict[str, Any]) -> Model:
    """A model whose every weight is random, so that its velocities are far from 0."""
    torch.manual_seed(0)
    built = models.build(preset(kind, **changes))
    randomise(built.method, scale)
    built.method.eval().requires_grad_(False)
    return built


def randomise(module: torch.nn.Module, scale: float = 0.25, seed: int = 0) -> None:
    """Add noise to every weight: by its fan-in for matrices, else by `scale`."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in module.parameters():
            fan_in = weight.shape[-1] if weight.ndim > 1 else 1
            weight += scale * torch.randn(weight.shape, generator=generator) / fan_in**0.5
