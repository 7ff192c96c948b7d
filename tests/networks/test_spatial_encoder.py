"""The spatial encoder against its definition: keys and values of every pair, one softmax for each latent."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from inrflow_core.networks import _set_config, _set_encoders, _set_grouping, set_transformer
from inrflow_core.networks._set_encoders import SpatialEncoder
from inrflow_core.networks.set_transformer import SetTransformer
from inrflow_core.sets import Grid, Points, Queries, SetSpec
from tests.networks.small import CASES, network, pairs, randomize

SPATIAL = [name for name, (config, _) in CASES.items() if config.encoder == "spatial"]


def unfolded(encoder: SpatialEncoder, context: Queries, values: Tensor, mask: Tensor | None = None) -> Tensor:
    """Project the keys (with a bias, which must not matter) and values of every pair; mask all but a latent's own."""
    shape, heads = encoder.shape, encoder.heads
    if not shape.layout.has_coordinates:
        tokens = encoder.tokens(None, values)[0]
        groups = encoder.groups(values[..., : shape.coordinate_size])
    else:
        assert context.coordinates is not None
        if isinstance(shape.layout, Grid):
            groups = torch.empty(shape.num_queries, dtype=torch.int64)
            groups[encoder.tile_pairs[encoder.tile_is_real]] = encoder.tile_latent[:, None].expand_as(
                encoder.tile_pairs
            )[encoder.tile_is_real]
        else:
            groups = encoder.groups(context.coordinates)
        index = context.coordinates
        if encoder.positions is not None:
            per_unit = encoder.latents ** (1 / shape.coordinate_size) / 2
            if encoder.kind == "grid" and isinstance(shape.layout, Grid):
                per_unit = torch.tensor(_set_grouping.grid_sides(encoder.latents, shape)) / 2
            index = 0.5 + (index - encoder.positions[groups]) * per_unit
        tokens = encoder.tokens.value(values) + encoder.tokens.fourier(index)
        groups = groups.expand(values.shape[0], -1)
    split = lambda x: x.unflatten(-1, (heads, -1)).transpose(-2, -3)  # noqa: E731
    k = split(functional.linear(tokens, encoder.key, torch.linspace(-3, 3, tokens.shape[-1])))
    v = split(functional.linear(tokens, encoder.value, encoder.value_bias))
    q = split(encoder.query(encoder.latent + encoder.middle))[None]
    own = groups[:, None, :] == torch.arange(encoder.latents)[:, None]
    if mask is not None:
        own = own & mask[:, None]
    mixed = functional.scaled_dot_product_attention(q.expand(len(values), -1, -1, -1), k, v, attn_mask=own[:, None])
    mixed = mixed.transpose(1, 2).flatten(2)
    mixed = torch.where(own.any(-1, keepdim=True), mixed, encoder.value_bias)
    return encoder.outer(encoder.inner(functional.layer_norm(mixed, mixed.shape[-1:], eps=1e-6)))


@pytest.mark.parametrize("name", SPATIAL)
def test_folding_keys_and_values_changes_nothing(name: str) -> None:
    encoder = network(name, scale=1.0).encoder
    context, values = pairs(name, batch=3)
    assert isinstance(encoder, SpatialEncoder)
    expected = unfolded(encoder, context, values)
    result = encoder(context, values, None)
    torch.testing.assert_close(result, expected, atol=1e-5, rtol=1e-5)
    ours, theirs = (torch.autograd.grad(x.square().sum(), encoder.key)[0] for x in (result, expected))
    torch.testing.assert_close(ours, theirs, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("name", SPATIAL)
def test_padding_has_no_part_in_the_softmax(name: str) -> None:
    encoder = network(name, scale=1.0).requires_grad_(False).encoder
    context, values = pairs(name)
    mask = torch.rand(values.shape[:2], generator=torch.Generator().manual_seed(0)) < 0.5
    assert isinstance(encoder, SpatialEncoder)
    result = encoder(context, values.masked_fill(~mask[..., None], torch.inf), mask)
    torch.testing.assert_close(result, unfolded(encoder, context, values, mask), atol=1e-5, rtol=1e-5)


def test_a_grid_and_the_same_pairs_scattered_give_the_same_latents() -> None:
    config = _set_config.Config(32, 1, 2, latents=16)
    torch.manual_seed(0)
    dense = randomize(set_transformer.build(config, SetSpec(2, 3, Grid((12, 12)))), 1.0).requires_grad_(False).encoder
    scattered = (
        set_transformer.build(config, SetSpec(2, 3, Points(144, has_coordinates=True))).requires_grad_(False).encoder
    )
    assert isinstance(dense, SpatialEncoder) and isinstance(scattered, SpatialEncoder) and dense.is_dense
    scattered.load_state_dict(dense.state_dict())
    context = Queries(torch.from_numpy(_set_grouping.cell_centers((12, 12))).float(), torch.arange(144))
    values, order = torch.randn(2, 144, 3), torch.randperm(144)
    assert context.coordinates is not None
    result = scattered(Queries(context.coordinates[order], order), values[:, order], None)
    torch.testing.assert_close(result, dense(context, values, None), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["grid", "uneven grid", "kmeans", "hashed points", "nearest solid"])
def test_pooling_some_tiles_at_a_time_changes_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module = network(name, scale=1.0)
    context, values = pairs(name)
    result = []
    for budget in (1 << 30, 1 << 10):
        monkeypatch.setitem(_set_encoders.CHUNK_BYTES, "cpu", budget)
        module.zero_grad()
        assert isinstance(module.encoder, SpatialEncoder)
        latents = module.encoder(context, values, None)
        latents.square().mean().backward()
        result.append((latents, module.encoder.tokens.value.weight.grad))
    torch.testing.assert_close(result[0], result[1], atol=1e-6, rtol=1e-5)


def test_a_latent_without_pairs_is_finite_and_learns_nothing_false() -> None:
    module: SetTransformer = network("hashed points")
    values = torch.zeros(1, 40, 3)  # one cell holds all points
    encoded = module.encode(Queries(None, torch.arange(40)), values)
    assert torch.isfinite(encoded.latents).all()
    encoded.latents.square().mean().backward()
    assert all(torch.isfinite(weight.grad).all() for weight in module.encoder.parameters() if weight.grad is not None)
