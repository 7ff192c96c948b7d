"""Planes of space: their order and direction, the point encoder, and the exchange between planes."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from inrflow_core.errors import UsageError
from inrflow_core.networks import basis_readout, triplane_autoencoder
from inrflow_core.networks._plane_networks import AxisExchange, ChannelExchange
from inrflow_core.networks._planes import IMAGE, SPACE
from inrflow_core.networks.triplane_autoencoder import PointEncoder
from inrflow_core.sets import Grid, Points, Queries, SetSpec
from tests import tiny

SPEC = SetSpec(3, 1, Points(64, has_coordinates=True), is_probability=True)
AXES = ("x", "y", "z")


def config(**changes: Any) -> triplane_autoencoder.Config:
    sizes: dict[str, Any] = {"width": 8, "multipliers": (1, 2), "depth": 1, "latent_channels": 3, "hidden_channels": 4}
    points: dict[str, Any] = {"resolution": 8, "point_width": 16, "point_depth": 2, "point_channels": 4}
    values: dict[str, Any] = {**sizes, **points, "field_channels": 6, **changes}
    return triplane_autoencoder.Config(**values)


def autoencoder(**changes: Any) -> triplane_autoencoder.TriplaneAutoencoder:
    torch.manual_seed(0)
    built = triplane_autoencoder.build_autoencoder(config(**changes), SPEC)
    tiny.randomize(built)
    return built


def readout() -> basis_readout.BasisReadout:
    built = basis_readout.build_field_readout(basis_readout.Config(32), SPEC, (6, 6))
    tiny.randomize(built)
    return built


def surface(count: int = 2, points: int = 64) -> torch.Tensor:
    return torch.rand(count, points, 3, generator=torch.Generator().manual_seed(1)) * 2 - 1


def test_the_papers_networks_of_shapes_have_the_parameters_that_were_counted_in_their_release():
    paper = triplane_autoencoder.Config(exchange="channels", canvas="channels")
    with torch.device("meta"):
        built = triplane_autoencoder.build_autoencoder(paper, SPEC)
        function = basis_readout.build_field_readout(basis_readout.Config(reads_coordinate=True), SPEC, (64, 64, 64))
    points, *planes = (
        sum(weight.numel() for weight in part.parameters()) for part in (built.points, built.encoder, built.decoder)
    )
    assert (points, sum(planes)) == (2_307_616, 124_110_464)
    assert sum(weight.numel() for weight in function.parameters()) == 629_825
    assert built.latent_spec == SetSpec(2, 192, Grid((16, 16)))
    assert paper.least_weights <= points + sum(planes)


@pytest.mark.parametrize("planes", [IMAGE, SPACE], ids=["image", "space"])
def test_a_canvas_is_split_into_the_planes_that_were_joined(planes):
    sides = torch.randn(2, len(planes), 5, 4, 6)
    canvas = planes.join(sides)
    assert canvas.shape == (2, 5, 4, 6 * len(planes))
    assert torch.equal(planes.split(canvas), sides)
    assert torch.equal(canvas[..., :6], sides[:, 0])


@pytest.mark.parametrize("axis", range(3), ids=AXES)
def test_fields_that_vary_along_one_axis_of_space_make_a_function_that_does(axis):
    fields = []
    for side in (4, 8):
        profile = torch.randn(1, 6, side)
        planes = torch.zeros(1, 3, 6, side, side)
        for number, (rows, columns) in enumerate(SPACE.axes):
            if rows == axis:
                planes[:, number] = profile[..., None]
            elif columns == axis:
                planes[:, number] = profile[..., None, :]
        fields.append(SPACE.join(planes))
    line = torch.linspace(-1, 1, 9)
    at = torch.stack(torch.meshgrid(line, line, line, indexing="ij"), -1).flatten(0, 2)
    values = readout().query(tuple(fields), Queries(at, torch.arange(729))).reshape(9, 9, 9)
    changes = [values.diff(dim=other).abs().max() for other in range(3)]
    assert changes[axis] > 0.01
    assert all(change < 1e-5 for other, change in enumerate(changes) if other != axis)


def test_the_features_of_a_point_are_read_where_the_point_is():
    encoder = PointEncoder(config(), SPACE, 3)
    point = torch.tensor([[[0.4, -0.9, 0.7]]])
    canvas = SPACE.join(encoder(point))
    # The eight cells of a side share [-1, 1]: these are the centers of the point's own.
    center = ((point + 1) * 4).floor().add(0.5).div(4).sub(1)
    own = encoder.last(encoder.blocks[1](torch.cat([x := encoder.blocks[0](encoder.first(point)), 3 * x], -1)))
    for features in SPACE.interpolate(canvas, center):
        torch.testing.assert_close(features, own, rtol=1e-4, atol=1e-5)
    for features in SPACE.interpolate(canvas, -center):
        assert features.abs().max() == 0


@pytest.mark.parametrize("side", [2, 64], ids=["few cells", "more cells than points"])
def test_points_pool_over_their_own_cells_of_each_plane(side):
    generator = torch.Generator().manual_seed(0)
    points, x = torch.rand(2, 50, 3, generator=generator) * 2 - 1, torch.randn(2, 50, 5, generator=generator)
    points[:, 20:25] = points[:, :5]  # points that share every cell
    cells = SPACE.cells(points, side)
    groups = triplane_autoencoder.ranks(cells.flatten(1)).view_as(cells)
    assert groups.min() == 0 and all(own.unique().numel() == own.max() + 1 for own in groups)
    shares = cells[..., None] == cells[..., None, :]  # (B P N N): point n and point m are in one cell
    expected = torch.where(shares[..., None], x[:, None, None], -torch.inf).amax(3).sum(1)
    for own, count in ((groups, 150), (cells, 3 * side**2)):
        assert torch.equal(triplane_autoencoder.pooled(x, own, count), expected)


@pytest.mark.parametrize("exchange", ["axes", "channels"])
def test_the_order_of_the_points_changes_nothing(exchange):
    built, points = autoencoder(exchange=exchange), surface()
    mixed = points[:, torch.randperm(64, generator=torch.Generator().manual_seed(2))]
    for one, other in zip(built.encode(points), built.encode(mixed), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("canvas", ["beside", "channels"])
@pytest.mark.parametrize("exchange", ["axes", "channels"])
def test_latents_and_fields_have_the_shapes_that_are_declared_and_every_weight_a_gradient(canvas, exchange):
    built, function = autoencoder(canvas=canvas, exchange=exchange), readout()
    mean, std = built.encode(surface())
    spec = built.latent_spec
    assert mean.shape == std.shape == (2, spec.num_queries, spec.value_size)
    assert mean.numel() == 2 * 3 * 16 * 3 and std.min() > 0
    fields = built.decode(mean + std)
    assert [tuple(field.shape[1:]) for field in fields] == triplane_autoencoder.field_shapes(built.config, SPEC)
    function.query(fields, Queries(surface(2, 20), torch.arange(20))).square().sum().backward()
    assert all(weight.grad is not None for module in (built, function) for weight in module.parameters())


def test_both_canvases_decode_the_latents_that_they_encoded_in_the_same_order():
    beside, stacked = autoencoder(), autoencoder(canvas="channels")
    stacked.load_state_dict(beside.state_dict())
    one, other = (built.decode(built.encode(surface())[0]) for built in (beside, stacked))
    for first, second in zip(one, other, strict=True):
        torch.testing.assert_close(first, second, rtol=1e-5, atol=1e-6)


def test_averages_over_an_axis_reach_the_other_planes_at_the_same_position_alone():
    exchange = AxisExchange(8, SPACE)
    planes = torch.randn(3, 8, 6, 6)
    assert torch.equal(exchange(planes), planes)
    tiny.randomize(exchange)
    exchange.norm = torch.nn.Identity()  # its statistics are of the whole plane
    before = exchange(planes)
    changed = planes.clone()
    changed[0, :, :, 2] += torch.randn(8, 6)  # xy: x is the column
    moved = (exchange(changed) - before).detach().abs().amax(1)
    untouched = torch.arange(6) != 2
    assert moved[2][:, 2].min() > 0 and moved[2][:, untouched].max() == 0  # xz, at the same x
    assert moved[1].amax(1).min() > 0  # yz, at every y


def test_the_papers_exchange_mixes_all_planes_of_a_set_and_no_other_set():
    exchange = ChannelExchange(8, SPACE)
    planes = torch.randn(6, 8, 4, 4)
    changed = planes.clone()
    changed[1] += 1
    moved = (exchange(changed) - exchange(planes)).abs().amax((1, 2, 3))
    assert moved[:3].min() > 0 and moved[3:].max() == 0


def test_what_does_not_fit_is_refused():
    with pytest.raises(UsageError, match="reads points of shapes"):
        triplane_autoencoder.build_autoencoder(config(), SetSpec(2, 3, Grid((8, 8))))
    with pytest.raises(UsageError, match="reads points of shapes"):
        triplane_autoencoder.build_autoencoder(config(), SetSpec(3, 3, Points(64)))
    with pytest.raises(ValueError, match="`resolution` is 9: 2 levels need a multiple of 2"):
        config(resolution=9)
    with pytest.raises(UsageError, match="planes of images or of space"):
        basis_readout.build_field_readout(basis_readout.Config(), SetSpec(3, 3, Points(64)), (6,))
    with pytest.raises(UsageError, match="`reads_cell_size` needs the grid of images"):
        basis_readout.build_field_readout(basis_readout.Config(reads_cell_size=True), SPEC, (6,))
