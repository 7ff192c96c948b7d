"""Planes of time and space: their order and direction on the canvas, from the encoder to the values of a clip."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from inrflow_core.errors import UsageError
from inrflow_core.networks import basis_readout, modulated_readout, video_autoencoder
from inrflow_core.networks._plane_networks import AxisExchange, CellExchange
from inrflow_core.networks._planes import VIDEO, Canvas
from inrflow_core.sets import Grid, Points, Queries, SetSpec
from tests import tiny

FRAMES, SIDE = 4, 16
SPEC = SetSpec(3, 3, Grid((FRAMES, SIDE, SIDE)))
PAPER = SetSpec(3, 3, Grid((16, 256, 256)))
NAMES = ("t", "row", "column")
FRAME, TIME_COLUMN, TIME_ROW = range(3)


def config(**changes: Any) -> video_autoencoder.Config:
    decoder: dict[str, Any] = {
        "width": 8,
        "multipliers": (1, 2),
        "depth": 1,
        "latent_channels": 3,
        "hidden_channels": 4,
    }
    tokens: dict[str, Any] = {"patch": 4, "token_width": 16, "token_depth": 2, "heads": 2, "head_width": 8}
    pools: dict[str, Any] = {"pool_depth": 2, "pool_heads": 2, "pool_head_width": 4, "pool_width": 12}
    values: dict[str, Any] = {**decoder, **tokens, **pools, "field_channels": 6, "fields": 2, **changes}
    return video_autoencoder.Config(**values)


def autoencoder(**changes: Any) -> video_autoencoder.VideoAutoencoder:
    torch.manual_seed(0)
    built = video_autoencoder.build_autoencoder(config(**changes), SPEC)
    tiny.randomize(built)
    return built


def readout(**changes: Any) -> basis_readout.BasisReadout:
    built = basis_readout.build_field_readout(basis_readout.Config(32, **changes), SPEC, (6, 6))
    tiny.randomize(built)
    return built


def times(frames: int) -> torch.Tensor:
    return (2 * torch.arange(frames) + 1) / frames - 1


def queries(at: torch.Tensor, rows: int, columns: int) -> Queries:
    coordinates = torch.stack(torch.meshgrid(at, times(rows), times(columns), indexing="ij"), -1).flatten(0, 2)
    return Queries(coordinates, torch.arange(len(coordinates)))


def fields(count: int = 1) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(2)
    return tuple(torch.randn(count, 6, side + 2 * FRAMES, side, generator=generator) for side in (8, 16))


def test_the_papers_networks_of_videos_have_the_parameters_that_were_counted_in_their_release():
    paper = video_autoencoder.Config(exchange="cells", fields=3)
    with torch.device("meta"):
        built = video_autoencoder.build_autoencoder(paper, PAPER)
        function = basis_readout.build_field_readout(basis_readout.Config(planes="concatenate"), PAPER, (64, 64, 64))
    counts = [sum(weight.numel() for weight in part.parameters()) for part in (built, function)]
    assert counts == [88_634_240, 858_819]
    assert built.latent_spec == SetSpec(2, 64, Canvas((64, 32), VIDEO))
    assert paper.least_weights <= counts[0]
    assert video_autoencoder.field_shapes(paper, PAPER) == SHAPES


SHAPES = [(64, 64 + 32, 64), (64, 128 + 32, 128), (64, 256 + 32, 256)]
"""The frame's plane of each field, with two planes of 16 times below it."""


def test_a_canvas_is_split_into_the_planes_that_were_joined():
    planes = [torch.randn(2, 5, rows, 8) for rows in (8, 3, 3)]
    canvas = VIDEO.join(*VIDEO.stack(planes))
    assert canvas.shape == (2, 5, *VIDEO.canvas_shape((8, 8), (3, 8))) == (2, 5, 14, 8)
    assert VIDEO.sides(14, 8) == [(8, 8), (3, 8)]
    back = [plane for group in VIDEO.split_groups(canvas) for plane in group.unbind(1)]
    assert all(torch.equal(one, other) for one, other in zip(back, planes, strict=True))
    assert torch.equal(canvas[:, :, :8], planes[FRAME]) and torch.equal(canvas[:, :, 8:11], planes[TIME_COLUMN])


@pytest.mark.parametrize("combination", ["sum", "concatenate"])
@pytest.mark.parametrize(
    ("plane", "along"), [(plane, along) for plane in range(3) for along in range(2)], ids=lambda number: str(number)
)
def test_a_field_that_varies_along_one_axis_of_one_plane_makes_a_clip_that_does(plane, along, combination):
    axis = VIDEO.axes[plane][along]
    canvases = []
    for side in (8, 16):
        planes = [torch.zeros(1, 6, rows, side) for rows in (side, FRAMES, FRAMES)]
        shape = planes[plane].shape[2:]
        profile = torch.randn(1, 6, shape[along])
        planes[plane] = (profile[..., None] if along == 0 else profile[..., None, :]).expand(-1, -1, *shape)
        canvases.append(VIDEO.join(*VIDEO.stack(planes)))
    values = readout(planes=combination).query(tuple(canvases), queries(times(9), 10, 11)).reshape(9, 10, 11, 3)
    changes = [values.diff(dim=other).abs().max() for other in range(3)]
    assert changes[axis] > 0.01
    assert all(change < 1e-5 for other, change in enumerate(changes) if other != axis)


def test_every_second_frame_of_twice_the_frames_is_the_same_to_the_bit():
    """Twice the frame rate from the first frame on, and every third row and column of three times the pixels."""
    function, state = readout(), fields()
    coarse = function.query(state, queries(times(FRAMES), SIDE, SIDE)).reshape(FRAMES, SIDE, SIDE, 3)
    faster = times(FRAMES)[0] + torch.arange(2 * FRAMES) / FRAMES
    twice = function.query(state, queries(faster, SIDE, SIDE)).reshape(2 * FRAMES, SIDE, SIDE, 3)
    assert torch.equal(twice[::2], coarse)
    assert (twice[1:-1:2] - coarse[1:]).abs().max() > 0.01
    fine = function.query(state, queries(times(3 * FRAMES), 3 * SIDE, 3 * SIDE)).reshape(12, 48, 48, 3)
    assert (fine[1::3, 1::3, 1::3] - coarse).abs().max() < 1e-5


def test_clips_of_any_length_and_size_are_parts_of_one_function():
    function, state = readout(planes="concatenate"), fields(2)
    at = queries(times(7), 5, 13)
    values = function.query(state, at)
    assert values.shape == (2, 7 * 5 * 13, 3)
    some = torch.tensor([0, 17, 200, 454])
    torch.testing.assert_close(function.query(state, at[some]), values[:, some], rtol=1e-5, atol=1e-6)


def test_concatenation_distinguishes_the_planes_and_a_sum_does_not():
    state = fields()
    groups = [VIDEO.split_groups(canvas) for canvas in state]
    swapped = tuple(VIDEO.join(frame, time.flip(1)) for frame, time in groups)
    diagonal = Queries(torch.linspace(-1, 1, 9)[:, None].expand(-1, 3), torch.arange(9))  # row and column are equal
    for planes, differs in (("sum", False), ("concatenate", True)):
        function = readout(planes=planes)
        change = (function.query(swapped, diagonal) - function.query(state, diagonal)).abs().max()
        assert (change > 0.01) if differs else (change < 1e-5)


def test_a_patch_is_pooled_to_its_own_cell_of_each_plane():
    built = autoencoder()
    blocks: Any = built.encoder.blocks
    for block in blocks:  # without attention a token knows its patch alone
        for attention in (block.time, block.space):
            attention.out.weight.data.zero_()
    clip = torch.randn(1, FRAMES, SIDE, SIDE, 3)
    changed = clip.clone()
    frame, row, column = 2, 1, 3
    changed[:, frame, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4] += 1
    before, after = (built.encode(each.reshape(1, -1, 3))[0] for each in (clip, changed))
    canvas = (after - before).abs().sum(-1).reshape(1, 1, *built.canvas)
    planes = [plane[0, 0] for group in VIDEO.split_groups(canvas) for plane in group.unbind(1)]
    expected = {FRAME: (row, column), TIME_COLUMN: (frame, column), TIME_ROW: (frame, row)}
    for plane, cell in expected.items():
        assert planes[plane][cell] > 1e-4
        assert planes[plane].count_nonzero() == 1


def test_time_and_frames_attend_to_all_of_their_axis_and_know_the_order():
    built = autoencoder(token_depth=1)
    clip = torch.randn(1, FRAMES, SIDE, SIDE, 3)
    mean, _ = built.encode(clip.reshape(1, -1, 3))
    for axis in range(1, 4):
        flipped, _ = built.encode(clip.flip(axis).reshape(1, -1, 3))
        canvas = flipped.mT.reshape(1, -1, *built.canvas)
        planes = [plane for group in VIDEO.split_groups(canvas) for plane in group.unbind(1)]
        flips = [
            plane.flip(2 + axes.index(axis - 1)) if axis - 1 in axes else plane
            for plane, axes in zip(planes, VIDEO.axes, strict=True)
        ]
        assert (VIDEO.join(*VIDEO.stack(flips)).flatten(2).mT - mean).abs().max() > 1e-3


@pytest.mark.parametrize("exchange", ["axes", "cells"])
def test_latents_and_fields_have_the_shapes_that_are_declared_and_every_weight_a_gradient(exchange):
    built, function = autoencoder(exchange=exchange), readout()
    built.requires_grad_(True)
    mean, std = built.encode(torch.randn(2, SPEC.num_queries, 3))
    assert mean.shape == std.shape == (2, built.latent_spec.num_queries, 3) == (2, 4 * 4 + 2 * FRAMES * 4, 3)
    assert std.min() > 0
    made = built.decode(mean + std)
    assert [tuple(field.shape[1:]) for field in made] == video_autoencoder.field_shapes(built.config, SPEC)
    function.query(made, queries(times(3), 5, 5)).square().sum().backward()
    assert all(weight.grad is not None and weight.grad.abs().max() > 0 for weight in built.parameters())


@pytest.mark.parametrize("exchange", ["axes", "cells"])
def test_a_clip_does_not_depend_on_the_others_of_its_batch(exchange):
    built, clips = autoencoder(exchange=exchange), torch.randn(3, SPEC.num_queries, 3)
    mean, std = built.encode(clips)
    alone, _ = built.encode(clips[1:2])
    torch.testing.assert_close(mean[1:2], alone, rtol=1e-4, atol=1e-5)
    for whole, one in zip(built.decode(mean), built.decode(alone), strict=True):
        torch.testing.assert_close(whole[1:2], one, rtol=1e-4, atol=1e-5)
    assert std.shape == mean.shape


def test_averages_over_an_axis_reach_the_other_planes_at_the_same_position_alone():
    exchange = AxisExchange(8, VIDEO)
    groups = torch.randn(1, 8, 6, 6), torch.randn(2, 8, 3, 6)
    assert all(torch.equal(one, other) for one, other in zip(exchange(*groups), groups, strict=True))
    tiny.randomize(exchange)
    exchange.norm = torch.nn.Identity()  # its statistics are of the whole plane
    before = exchange(*groups)
    changed = groups[0].clone()
    changed[0, :, 1, 2] += torch.randn(8)  # row 1 and column 2 of the frame
    after = exchange(changed, groups[1])
    moved = [(one - other).detach().abs().amax(1) for one, other in zip(after, before, strict=True)]
    column, row = moved[1]
    assert column[:, 2].min() > 0 and column[:, torch.arange(6) != 2].max() == 0
    assert row[:, 1].min() > 0 and row[:, torch.arange(6) != 1].max() == 0


def test_attention_between_cells_reaches_all_planes_of_a_set_and_no_other_set():
    exchange = CellExchange(8, VIDEO, 2, head_width=8)
    groups = torch.randn(2, 8, 4, 4), torch.randn(4, 8, 3, 4)
    tiny.randomize(exchange)
    before = exchange(*groups)
    changed = groups[0].clone()
    changed[0] += torch.randn(8, 4, 4)
    after = exchange(changed, groups[1])
    frame, time = ((one - other).detach().abs().amax((1, 2, 3)) for one, other in zip(after, before, strict=True))
    assert frame[0] > 0 and frame[1] == 0
    assert time[:2].min() > 0 and time[2:].max() == 0
    exchange.attention.out.weight.data.zero_()
    exchange.attention.out.bias.data.zero_()
    assert all(torch.equal(one, other) for one, other in zip(exchange(*groups), groups, strict=True))


def test_what_does_not_fit_is_refused():
    build = video_autoencoder.build_autoencoder
    with pytest.raises(UsageError, match="reads clips"):
        build(config(), SetSpec(2, 3, Grid((8, 8))))
    with pytest.raises(UsageError, match="reads square frames, and these have 8 x 12 pixels"):
        build(config(), SetSpec(3, 3, Grid((4, 8, 12))))
    with pytest.raises(UsageError, match="patches of 4 do not tile frames of 10 x 10 pixels"):
        build(config(), SetSpec(3, 3, Grid((4, 10, 10))))
    with pytest.raises(ValueError, match="`head_width` is 6: a multiple of 4"):
        config(head_width=6)
    with pytest.raises(ValueError, match="`pool_depth` is 0: at least 1"):
        config(pool_depth=0)
    with pytest.raises(UsageError, match="`modulated-readout` reads the scale of images"):
        modulated_readout.build_field_readout(modulated_readout.Config(), SPEC, (6, 6))
    with pytest.raises(UsageError, match="`reads_cell_size` needs the grid of images"):
        basis_readout.build_field_readout(basis_readout.Config(reads_cell_size=True), SPEC, (6, 6))
    image = SetSpec(2, 3, Grid((8, 8)))
    with pytest.raises(UsageError, match="needs several planes, and images have one"):
        basis_readout.build_field_readout(basis_readout.Config(planes="concatenate"), image, (6, 6))
    with pytest.raises(UsageError, match="planes of images or of space and time"):
        basis_readout.build_field_readout(basis_readout.Config(), SetSpec(3, 3, Points(8)), (6,))
