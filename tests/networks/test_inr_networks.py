"""The hyper-network and its localized function: the paper's counts, and the laws of the attention."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from inrflow_core.errors import UsageError
from inrflow_core.networks import inr_hypernetwork, localized_inr
from inrflow_core.networks._contract import TokenShape
from inrflow_core.sets import Grid, Layout, Points, Queries, Rays, SetSpec


def count(module: torch.nn.Module) -> int:
    return sum(weight.numel() for weight in module.parameters())


def build(side: int, patch: int) -> tuple[Any, Any]:
    spec = SetSpec(2, 3, Grid((side, side)))
    with torch.device("meta"):
        readout = localized_inr.build_readout(localized_inr.Config(), spec)
        config = inr_hypernetwork.Config(patch=patch)
        return inr_hypernetwork.build_hypernetwork(config, spec, readout.token_shape), readout


@pytest.mark.parametrize(
    ("side", "patch", "total"), [(32, 4, 145_490_691), (64, 4, 145_490_691), (128, 8, 145_601_283)]
)
def test_the_image_models_have_the_papers_number_of_parameters(side: int, patch: int, total: int):
    assert sum(map(count, build(side, patch))) == total


def test_each_part_has_the_papers_number_of_parameters():
    network, readout = build(64, 4)
    assert count(network.patches) == 37_632 and count(network.level) == 787_968
    assert [count(block) for block in network.encoder] == [10_628_352] * 8
    assert network.tokens.numel() == 196_608
    assert [count(block) for block in network.decoder] == [9_447_168] * 6
    assert count(readout.head) == 395_264 and readout.scale.numel() + readout.shift.numel() == 262_144
    attention = [readout.query_layer, readout.key, readout.value, readout.out]
    assert sum(map(count, attention)) == 1_049_088 and count(readout.mlp) == 1_052_163


@pytest.mark.parametrize("layout", [Points(10), Rays(2, 8, 8), Grid((6, 8)), Grid((8, 8, 8))])
def test_a_hypernetwork_refuses_sets_without_a_raster_that_patches_tile(layout: Layout):
    size = {Points: 3, Rays: 3}.get(type(layout), 3 if layout == Grid((8, 8, 8)) else 2)
    config = inr_hypernetwork.Config(16, 2, 1, 1, 16, 4)
    with pytest.raises(UsageError, match="tile|reads images"):
        inr_hypernetwork.build_hypernetwork(config, SetSpec(size, 3, layout), TokenShape(4, 16))


def test_tokens_of_another_width_are_refused():
    config = inr_hypernetwork.Config(16, 2, 1, 1, 16, 4)
    with pytest.raises(UsageError, match="width 16, and the read-out reads 24"):
        inr_hypernetwork.build_hypernetwork(config, SetSpec(2, 3, Grid((8, 8))), TokenShape(4, 24))


def test_patches_are_the_pixels_of_their_squares():
    values = torch.arange(2 * 24.0).reshape(1, 24, 2)  # 4 x 6 pixels of 2 channels
    patches = inr_hypernetwork.patches_of(values, (4, 6), 2)
    assert patches.shape == (1, 6, 8)
    image = values.reshape(4, 6, 2)
    assert torch.equal(patches[0, 4], image[2:4, 2:4].flatten())


def test_every_patch_has_its_own_position():
    code = inr_hypernetwork.position_code((4, 6), 16)
    assert code.shape == (24, 16) and len(code.unique(dim=0)) == 24


def test_a_view_is_read_with_its_rays():
    config = inr_hypernetwork.Config(16, 2, 1, 1, 16, 4)
    network: Any = inr_hypernetwork.build_hypernetwork(config, SetSpec(3, 3, Rays(1, 8, 8)), TokenShape(4, 16))
    torch.nn.init.normal_(network.encoder[0].modulation.weight)
    generator = torch.Generator().manual_seed(0)
    values, origins, directions, other = (torch.randn(2, 64, 3, generator=generator) for _ in range(4))
    keys, level = torch.zeros(64, 2, dtype=torch.int64), torch.zeros(2)
    first = network(Queries(origins, keys, directions=directions), values, level)
    assert first.shape == (2, 4, 16)
    assert not torch.equal(first, network(Queries(origins, keys, directions=other), values, level))


def test_equal_logits_give_equal_weights_of_which_0_616_is_left():
    keys = torch.ones(1, 2, 256, 8)
    weights = localized_inr.local_weights(torch.ones(1, 2, 5, 8), keys)
    torch.testing.assert_close(weights, torch.full_like(weights, 1 / 256))
    left = torch.relu(torch.full((256,), 1 / 256) - localized_inr.THRESHOLD / 256).sum()
    assert float(left) == pytest.approx(0.616, abs=1e-6)


def test_a_token_far_ahead_is_read_alone():
    keys = torch.zeros(1, 1, 16, 4)
    keys[0, 0, 3] = 100
    weights = localized_inr.local_weights(torch.ones(1, 1, 2, 4), keys)
    assert weights[0, 0, 0, 3] == 1 and (weights[0, 0, 0].sum() == 1)


@pytest.mark.parametrize("size", [1.0, 1e2, 1e4])
def test_no_logits_give_nan(size: float):
    generator = torch.Generator().manual_seed(0)
    keys = size * torch.randn(2, 2, 16, 4, generator=generator)
    weights = localized_inr.local_weights(torch.randn(2, 2, 50, 4, generator=generator), keys)
    assert weights.isfinite().all() and (weights.sum(-1) - 1).abs().max() < 1e-6


def test_the_features_are_cosines_of_all_coordinates_then_sines():
    config = localized_inr.Config(4, 8, 16, 2, 1, num_frequencies=8, max_frequency=4)
    function = localized_inr.build_readout(config, SetSpec(2, 1, Grid((8, 8))))
    at = torch.tensor([[0.25, -0.5]])
    features = function.features(at)[0, 0]
    assert features.shape == (32,)
    assert float(features[0]) == pytest.approx(float(torch.cos(torch.tensor(0.25 * torch.pi))), abs=1e-6)
    assert float(features[15]) == pytest.approx(float(torch.cos(torch.tensor(-0.5 * 4 * torch.pi))), abs=1e-5)
    assert float(features[16]) == pytest.approx(float(torch.sin(torch.tensor(0.25 * torch.pi))), abs=1e-6)


@pytest.mark.parametrize("layout", [Points(10), Rays(1, 8, 8)])
def test_points_that_move_and_rays_have_no_localized_function(layout: Layout):
    with pytest.raises(UsageError, match="fixed coordinates"):
        localized_inr.build_readout(localized_inr.Config(), SetSpec(3, 3, layout))
