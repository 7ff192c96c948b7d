"""Laws of the local decoder: continuous in the coordinate, local in the latents, and cheaper than attention."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from inrflow_core.layers.interpolation import corners, mix
from inrflow_core.networks._local_decoder import LocalDecoder
from inrflow_core.networks._set_config import Config
from inrflow_core.planning import flops
from inrflow_core.sets import ConditionEmbedding, Queries
from tests.networks.small import CASES, answer, network, pairs

LOCAL = [name for name, (config, _) in CASES.items() if config.decoder == "local"]
GRIDS = {"local": (4, 4), "local, uneven grid": (3, 4), "local video": (2, 3, 3)}
TIME = torch.tensor([0.2, 0.7])


def decoder_of(name: str) -> LocalDecoder:
    decoder = network(name).requires_grad_(False).decoder
    assert isinstance(decoder, LocalDecoder)
    return decoder


def axes_of(sides: tuple[int, ...]) -> list[Tensor]:
    return [(2 * torch.arange(side) + 1) / side - 1 for side in sides]


@pytest.mark.parametrize("name", GRIDS)
def test_linear_functions_of_the_cells_centers_are_interpolated_exactly(name: str) -> None:
    decoder, sides = decoder_of(name), GRIDS[name]
    assert decoder.sides == sides
    centers = torch.cartesian_prod(*axes_of(sides))
    edge = torch.tensor([1 - 1 / side for side in sides])
    at = (2 * torch.rand(50, len(sides)) - 1) * edge
    torch.testing.assert_close(mix(centers[None], *corners(decoder.sides, at))[0], at, atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", GRIDS)
def test_beyond_the_outermost_centers_the_edge_is_continued(name: str) -> None:
    decoder, sides = decoder_of(name), GRIDS[name]
    centers = torch.cartesian_prod(*axes_of(sides))
    far = torch.tensor([[1.7] * len(sides), [-3.0] * len(sides)])
    torch.testing.assert_close(mix(centers[None], *corners(decoder.sides, far))[0], centers[[-1, 0]])


@pytest.mark.parametrize("name", GRIDS)
def test_the_answer_is_continuous_in_the_coordinate_also_across_the_borders_of_cells(name: str) -> None:
    module, sides = network(name).requires_grad_(False), GRIDS[name]
    context, values = pairs(name)
    borders = torch.cartesian_prod(
        *[torch.cat([2 * torch.arange(1, n) / n - 1, axis]) for n, axis in zip(sides, axes_of(sides), strict=True)]
    )
    own = values[:, :1].expand(-1, len(borders), -1)
    answers = [
        answer(module, context, values, queries=Queries(borders + shift, torch.arange(len(borders))), query_values=own)
        for shift in (-1e-4, 1e-4)
    ]
    spread = answers[0].std()
    assert spread > 0.05
    assert (answers[0] - answers[1]).abs().max() < 0.02 * spread


@pytest.mark.parametrize("name", GRIDS)
def test_beyond_the_outermost_training_positions_the_answer_is_theirs_for_the_same_value(name: str) -> None:
    module = network(name).requires_grad_(False)
    context, values = pairs(name)
    shape = CASES[name][1].layout.shape
    edge = torch.tensor([1 - 1 / side for side in shape])
    own = values[:, :1].expand(-1, 2, -1)
    at = [torch.stack([x, -x]) for x in (edge, torch.ones_like(edge), 1.5 * torch.ones_like(edge))]
    ids = torch.arange(2)
    inside, *outside = (answer(module, context, values, queries=Queries(x, ids), query_values=own) for x in at)
    for other in outside:
        torch.testing.assert_close(other, inside, rtol=1e-5, atol=1e-6)


def test_a_query_reads_the_cells_around_it_alone() -> None:
    module = network("local").requires_grad_(False)
    context, values = pairs("local")
    latents = module.latents(module.encode(context, values), TIME, ConditionEmbedding())
    (level,) = latents.levels
    changed = level.clone()
    changed[:, 0] += torch.randn(level.shape[-1])  # not by a constant, which the layer norm takes out
    before, after = (
        module.decode(context, values, module.decoder_kv(dataclasses.replace(latents, levels=(one,))))
        for one in (level, changed)
    )
    moved = (before - after).abs().amax((0, 2)).view(8, 8) > 0
    assert moved[:3, :3].all()  # centers of cells are 2 pixels apart: the first one reaches pixel 2
    assert not moved[3:].any() and not moved[:, 3:].any()


@pytest.mark.parametrize("name", LOCAL)
def test_shared_coordinates_and_those_of_each_set_give_one_answer_in_a_graph_without_bags(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = network(name).requires_grad_(False)
    context, values = pairs(name)
    bags = answer(module, context, values)
    monkeypatch.setattr(torch.compiler, "is_exporting", lambda: True)
    torch.testing.assert_close(answer(module, context, values), bags, atol=1e-6, rtol=1e-6)


def test_a_query_costs_less_than_a_tenth_of_attention_to_the_latents() -> None:
    costs = {}
    for name in ("grid", "local"):
        module = network(name, latents=64, **({"decoder_width": 16} if name == "local" else {}))
        context, values = pairs(name)
        with torch.no_grad():
            latents = module.latents(module.encode(context, values), TIME, ConditionEmbedding())
            shared = module.decoder_kv(latents)
            embedded = module.embed(context)  # once for all evaluations
            with flops.counter() as counter:
                module.decode(context, values, shared, embedded)
        costs[name] = counter.get_total_flops()
    assert 0 < costs["local"] < 0.1 * costs["grid"]


def test_the_default_frequencies_stay_smooth_between_the_pixels() -> None:
    decoder = decoder_of(
        "local"
    )  # 4 cells a side of 8 pixels: half of the Nyquist frequency is below one period in a cell
    for wave in decoder.waves:
        torch.testing.assert_close(wave.frequencies, torch.tensor([4 * torch.pi]))
    finer = network("local", max_frequency=8).decoder
    assert isinstance(finer, LocalDecoder)
    assert [len(wave.frequencies) for wave in finer.waves] == [2, 2]  # pyright: ignore[reportArgumentType]


def test_its_width_needs_no_divisor_for_it_has_no_heads() -> None:
    config = Config(width=24, depth=1, heads=6, latents=16, decoder="local", decoder_width=32)
    assert config.query_width == 32
    with pytest.raises(ValueError, match="`decoder_heads` is 6 and does not divide the decoder's width, 32"):
        dataclasses.replace(config, decoder="attention")
