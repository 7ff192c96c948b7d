"""Small set transformers of every kind, with random weights: fresh ones answer 0, and laws would hold trivially."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from inrflow_core.networks import _set_grouping, set_transformer
from inrflow_core.networks._set_config import Config
from inrflow_core.networks.set_transformer import SetTransformer
from inrflow_core.sets import ConditionEmbedding, Grid, Points, Queries, SetSpec

IMAGE = SetSpec(2, 3, Grid((8, 8)))
ODD_IMAGE = SetSpec(2, 3, Grid((7, 10)))
VIDEO = SetSpec(3, 1, Grid((4, 6, 6)))
POINTS = SetSpec(3, 3, Points(40))
COLORED_POINTS = SetSpec(3, 6, Points(40))
SOLID = SetSpec(3, 1, Points(40, has_coordinates=True))

CASES = {
    "grid": (Config(32, 2, 2, latents=16), IMAGE),
    "uneven grid": (Config(32, 2, 2, latents=12, decoder_levels=2), ODD_IMAGE),
    "random": (Config(32, 2, 2, latents=10, pseudo_coordinates="random"), IMAGE),
    "kmeans": (Config(32, 2, 2, latents=10, pseudo_coordinates="kmeans"), IMAGE),
    "hashed pixels": (Config(32, 2, 2, latents=10, pseudo_coordinates="hash"), IMAGE),
    "rope": (Config(32, 2, 2, latents=16, rope=True), IMAGE),
    "linear": (Config(32, 2, 2, latents=16, encoder="linear"), IMAGE),
    "local": (Config(32, 2, 2, latents=16, encoder="linear", decoder="local", decoder_width=12), IMAGE),
    "local, uneven grid": (Config(32, 2, 2, latents=12, decoder="local", decoder_width=12), ODD_IMAGE),
    "local video": (Config(48, 2, 2, latents=18, decoder="local", decoder_width=12, rope=True), VIDEO),
    "local points": (Config(48, 2, 2, latents=8, decoder="local", decoder_width=12, num_frequencies=4), POINTS),
    "local solid": (Config(36, 2, 2, latents=8, decoder="local", decoder_width=12), SOLID),
    "image perceiver": (Config(32, 2, 2, latents=8, encoder="perceiver"), IMAGE),
    "narrow decoder": (Config(32, 3, 2, latents=16, decoder_levels=2, decoder_width=16, decoder_heads=4), IMAGE),
    "video": (Config(48, 2, 2, latents=18, rope=True), VIDEO),
    "points": (Config(32, 3, 2, latents=8, encoder="perceiver", cross_attend_every=1, num_frequencies=4), POINTS),
    "points, read at times": (Config(32, 3, 2, latents=8, encoder="perceiver", cross_attend_every=2, decoder_levels=2, num_frequencies=4), POINTS),
    "points, read once": (Config(32, 2, 2, latents=8, encoder="perceiver", cross_attend_every=0, num_frequencies=4), POINTS),
    "colored points": (Config(32, 2, 2, latents=8, encoder="perceiver", num_frequencies=4), COLORED_POINTS),
    "hashed points": (Config(32, 2, 2, latents=8, pseudo_coordinates="hash", num_frequencies=4), POINTS),
    "nearest points": (Config(48, 2, 2, latents=8, pseudo_coordinates="random", rope=True, num_frequencies=4), POINTS),
    "points on a grid": (Config(48, 2, 2, latents=8, num_frequencies=4), POINTS),
    "points at means": (Config(48, 2, 2, latents=8, pseudo_coordinates="kmeans", num_frequencies=4), POINTS),
    "solid": (Config(36, 2, 2, latents=8, encoder="perceiver"), SOLID),
    "hashed solid": (Config(36, 2, 2, latents=8, pseudo_coordinates="hash"), SOLID),
    "nearest solid": (Config(36, 2, 2, latents=8, pseudo_coordinates="random"), SOLID),
}  # fmt: skip
SCATTERED = [name for name, (_, shape) in CASES.items() if not isinstance(shape.layout, Grid)]


def network(name: str, scale: float = 0.3, **changes: Any) -> SetTransformer:
    """The network of that case; `scale` says how far its weights are from the fresh ones, 0 not at all."""
    config, shape = CASES[name]
    torch.manual_seed(0)
    return randomize(set_transformer.build(dataclasses.replace(config, **changes), shape), scale)


def randomize(module: SetTransformer, scale: float) -> SetTransformer:
    """Add noise to every weight, by its fan-in."""
    with torch.no_grad():
        for weight in module.parameters():
            fan_in = weight.shape[-1] if weight.ndim > 1 else 1
            weight += scale * torch.randn_like(weight) / fan_in**0.5
    return module


def pairs(name: str, batch: int = 2, seed: int = 1) -> tuple[Queries, Tensor]:
    """A whole context of the case: its queries and random values."""
    shape = CASES[name][1]
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(batch, shape.num_queries, shape.value_size, generator=generator)
    indices = torch.arange(shape.num_queries)
    if not shape.layout.has_coordinates:
        return Queries(None, indices), values
    if isinstance(shape.layout, Grid):
        return Queries(torch.from_numpy(_set_grouping.cell_centers(shape.layout.shape)).float(), indices), values
    return Queries(2 * torch.rand(shape.num_queries, shape.coordinate_size, generator=generator) - 1, indices), values


def answer(module: SetTransformer, context: Queries, values: Tensor, **changes: Tensor | Queries) -> Tensor:
    """The whole pass at t = 0.3, 0.6, ..., with a condition; evaluated at its own pairs by default."""
    t = 0.3 * torch.arange(1, 1 + values.shape[0])
    embedding = ConditionEmbedding(torch.linspace(-1, 1, module.vector_width).expand(values.shape[0], -1))
    requested = {"queries": context, "query_values": values} | changes
    return module(context, values, t, embedding, **requested)
