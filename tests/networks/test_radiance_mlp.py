"""Radiance fields of generated weights: their sizes are the paper's, and a ray's color is a function of its set alone."""

from __future__ import annotations

import dataclasses
import re
from typing import Any, Literal

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from inrflow_core.errors import UsageError
from inrflow_core.networks import inr_hypernetwork, radiance_mlp
from inrflow_core.networks.radiance_mlp import Config, RadianceMlp
from inrflow_core.sets import Grid, Queries, Rays, SetSpec

VIEW = SetSpec(3, 3, Rays(1, 8, 8))
SMALL = Config(
    groups=8, width=16, depth=3, token_width=24, num_frequencies=4, max_frequency=8.0, samples=6, eval_samples=9
)
SEEDS = torch.tensor([11, 12])


def field(density: Literal["relu", "softplus"] = "softplus", **changes: Any) -> RadianceMlp:
    """A small field; with relu a random one can be empty, and laws would hold trivially."""
    torch.manual_seed(0)
    return radiance_mlp.build_readout(dataclasses.replace(SMALL, density=density, **changes), VIEW)


def tokens(module: RadianceMlp, batch: int = 2, seed: int = 1) -> Tensor:
    return torch.randn(batch, *module.token_shape, generator=torch.Generator().manual_seed(seed))


def rays(batch: int = 2, count: int = 13, seed: int = 2) -> Queries:
    generator = torch.Generator().manual_seed(seed)
    origins = 0.2 * torch.randn(batch, count, 3, generator=generator) - torch.tensor([0, 0, 1.3])
    directions = torch.cat([0.4 * torch.randn(batch, count, 2, generator=generator), torch.ones(batch, count, 1)], -1)
    return Queries(origins, torch.zeros(count, 2), directions=directions)


@pytest.mark.parametrize(("groups", "num_tokens", "total"), [(64, 324, 144_570_748), (32, 164, 144_447_868)])
def test_the_model_of_scenes_has_as_many_weights_as_the_papers_variant(
    groups: int, num_tokens: int, total: int
) -> None:
    spec = SetSpec(3, 3, Rays(1, 128, 128))
    with torch.device("meta"):
        module = radiance_mlp.build_readout(Config(groups=groups), spec)
        hypernetwork = inr_hypernetwork.build_hypernetwork(inr_hypernetwork.Config(patch=8), spec, module.token_shape)
    assert module.token_shape == (num_tokens, 768)
    weights = [*hypernetwork.parameters(), *module.parameters()]
    assert sum(weight.numel() for weight in weights) == total
    assert module.config.least_weights <= sum(weight.numel() for weight in module.parameters())
    generated = sum(layer.base.numel() for layer in module.generated)
    assert generated == 293_888 and generated + sum(layer.bias.numel() for layer in module.generated) == 295_172


def test_column_c_of_a_layer_is_scaled_by_token_c_mod_g_to_unit_length() -> None:
    module = field()
    first = tokens(module)
    state = module.prepare(first)
    for weights in state:
        torch.testing.assert_close(weights.norm(dim=1), torch.ones(2, weights.shape[2]))
    second = first.clone()
    second[:, 3] += torch.randn(24, generator=torch.Generator().manual_seed(5))
    changed = [(a != b).any(1).any(0) for a, b in zip(state, module.prepare(second), strict=True)]
    assert changed[0].nonzero().flatten().tolist() == [3, 11] and not changed[1].any() and not changed[2].any()
    layer = module.generated[2]
    factor = layer.head(functional.layer_norm(first[:, 16 + 2], (24,)))
    torch.testing.assert_close(state[2][:, :, 2], functional.normalize(layer.base[:, 2] * factor, dim=1))


def test_the_mlp_is_the_one_that_the_paper_states() -> None:
    """Features of raw coordinates, cosines before sines; relu between layers; sigmoid colors and a relu density."""
    module = field("relu")
    state = module.prepare(tokens(module))
    points = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(4))
    phase = (points[..., None] * 2 ** torch.linspace(0, 3, 4)).reshape(2, 5, 12)
    x = torch.cat([phase.cos(), phase.sin()], -1)
    for index, (layer, weights) in enumerate(zip(module.generated, state, strict=True)):
        x = torch.einsum("bpi,bio->bpo", x.relu() if index else x, weights) + layer.bias
    density, color = module.density_and_color(state, points)
    torch.testing.assert_close(density, x[..., 3].relu())
    torch.testing.assert_close(color, x[..., :3].sigmoid())


@pytest.mark.parametrize("seeds", [None, SEEDS], ids=["evaluation", "training"])
@pytest.mark.parametrize("chunk_points", [1, 50, 1 << 18])
def test_colors_do_not_depend_on_the_chunks(chunk_points: int, seeds: Tensor | None) -> None:
    whole = field()
    state = whole.prepare(tokens(whole))
    torch.testing.assert_close(
        field(chunk_points=chunk_points).query(state, rays(), seeds=seeds),
        whole.query(state, rays(), seeds=seeds),
        atol=1e-5,
        rtol=0,
    )


def test_a_ray_has_the_same_color_whatever_else_is_evaluated() -> None:
    module, queries = field(), rays()
    state = module.prepare(tokens(module))
    whole = module.query(state, queries)
    torch.testing.assert_close(module.query(state, queries[3:7]), whole[:, 3:7], atol=1e-5, rtol=0)
    second = tuple(weights[1:] for weights in state)
    torch.testing.assert_close(module.query(second, queries.select_sets(slice(1, 2))), whole[1:], atol=1e-5, rtol=0)


def test_sets_may_share_their_rays() -> None:
    module, own = field(), rays(1)
    state = module.prepare(tokens(module))
    assert own.coordinates is not None and own.directions is not None
    shared = Queries(own.coordinates[0], own.noise_keys, directions=own.directions[0])
    expected = torch.cat([module.query(tuple(weights[i : i + 1] for weights in state), own) for i in range(2)])
    torch.testing.assert_close(module.query(state, shared), expected, atol=1e-5, rtol=0)


def test_depths_are_a_function_of_the_sets_seed() -> None:
    module = field()
    state = module.prepare(tokens(module))
    one = module.query(state, rays(), seeds=SEEDS)
    torch.rand(3)
    torch.testing.assert_close(module.query(state, rays(), seeds=SEEDS), one, atol=0, rtol=0)
    other = module.query(state, rays(), seeds=torch.tensor([11, 13]))
    torch.testing.assert_close(other[0], one[0], atol=1e-6, rtol=0)
    assert (other[1] - one[1]).abs().max() > 1e-4


def test_recomputed_activations_give_the_same_gradients() -> None:
    results = []
    for checkpoint_activations in (False, True):
        module = field(chunk_points=40, checkpoint_activations=checkpoint_activations)
        first = tokens(module).requires_grad_()
        color = module.query(module.prepare(first), rays(), seeds=SEEDS)
        (color * torch.linspace(-1, 1, color.numel()).view_as(color)).sum().backward()
        assert first.grad is not None and (first.grad.abs().sum(-1) > 0).all()
        results.append([first.grad, *(weight.grad for weight in module.parameters())])
    torch.testing.assert_close(*results, atol=1e-6, rtol=1e-5)


def test_autocast_to_bf16_changes_nothing() -> None:
    module = field()
    first = tokens(module)
    plain = module.query(module.prepare(first), rays())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(module.query(module.prepare(first), rays()), plain, atol=0, rtol=0)


def test_an_empty_field_is_exactly_white() -> None:
    module = field("relu")
    with torch.no_grad():
        module.generated[2].bias[3] = -100.0
    seen = module.render(module.prepare(tokens(module)), rays())
    assert (seen.color == 1).all() and (seen.opacity == 0).all() and (seen.depth == 0).all()


def test_tokens_learn_the_colors_of_rays() -> None:
    """Two sets of one field, tokens alone: rays to the left red, to the right blue, or the reverse."""
    module, queries = field(), rays(2, 64)
    assert queries.directions is not None
    side = queries.directions[..., :1].sign() * torch.tensor([1.0, -1.0]).view(2, 1, 1)
    target = torch.cat([-side, -torch.ones_like(side), side], -1)
    first = tokens(module).requires_grad_()
    optimizer, errors = torch.optim.Adam([first, *module.parameters()], lr=0.01), []
    for step in range(150):
        color = module.query(module.prepare(first), queries, seeds=SEEDS + 100 * step)
        error = (color - target).square().mean()
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
        errors.append(error.item())
    assert errors[-1] < 0.15 * errors[0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"groups": 0}, "`groups` is 0: at least 1"),
        ({"samples": 1}, "`samples` is 1: at least 2"),
        ({"near": 2.0}, "`near` and `far` are 2.0 and 1.8: from 0, `near` below `far`"),
        ({"far": float("inf")}, "`near` and `far` are 0.8 and inf"),
        ({"max_frequency": 0.5}, "`max_frequency` is 0.5: from 1 to 65,536"),
    ],
)
def test_settings_out_of_range_are_refused(changes: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        dataclasses.replace(SMALL, **changes)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("spec", [SetSpec(2, 3, Grid((8, 8))), SetSpec(3, 1, Rays(1, 8, 8))])
def test_sets_that_are_not_colored_rays_are_refused(spec: SetSpec) -> None:
    with pytest.raises(UsageError, match="`radiance-mlp` answers rays with colors, not"):
        radiance_mlp.build_readout(SMALL, spec)
