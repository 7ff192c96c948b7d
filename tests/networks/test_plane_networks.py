"""The autoencoder of planes and the read-out of its basis fields."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from inrflow_core.errors import UsageError
from inrflow_core.networks import basis_readout, plane_autoencoder
from inrflow_core.networks._planes import IMAGE
from inrflow_core.sets import Grid, Queries, SetSpec
from tests import tiny

CONFIG = plane_autoencoder.Config(16, (1, 2, 2), depth=1, latent_channels=3, hidden_channels=8, field_channels=6)
SPEC = SetSpec(2, 3, Grid((8, 16)))


def grid(rows: int, columns: int) -> Queries:
    axes = ((2 * torch.arange(side) + 1) / side - 1 for side in (rows, columns))
    coordinates = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).flatten(0, 1)
    return Queries(coordinates, torch.arange(rows * columns))


def readout(config=basis_readout.Config(32), widths=(6, 6, 6)) -> basis_readout.BasisReadout:  # noqa: B008
    built = basis_readout.build_field_readout(config, SPEC, widths)
    tiny.randomize(built)
    return built


@pytest.mark.parametrize(("depth", "count"), [(2, 57_201_088), (3, 69_598_144)], ids=["afhq", "celebahq"])
def test_the_papers_autoencoders_have_the_parameters_that_were_counted_in_their_release(depth, count):
    config = plane_autoencoder.Config(depth=depth)
    with torch.device("meta"):
        built = plane_autoencoder.build_autoencoder(config, SetSpec(2, 3, Grid((256, 256))))
    assert sum(weight.numel() for weight in built.parameters()) == count
    assert config.least_weights <= count


def test_fields_and_latents_have_the_shapes_that_are_declared():
    built = plane_autoencoder.build_autoencoder(CONFIG, SPEC)
    mean, std = built.encode(torch.randn(2, 128, 3))
    assert mean.shape == std.shape == (2, built.latent_spec.num_queries, 3) == (2, 2 * 4, 3)
    assert std.min() > 0
    fields = built.decode(mean)
    assert [tuple(field.shape[1:]) for field in fields] == plane_autoencoder.field_shapes(CONFIG, SPEC)
    assert [tuple(field.shape[2:]) for field in fields] == [(2, 4), (4, 8), (8, 16)]


@pytest.mark.parametrize("count", [1, 2, 3])
def test_only_the_finest_levels_have_fields(count):
    config = plane_autoencoder.Config(16, (1, 2, 2), depth=1, field_channels=6, fields=count)
    fields = plane_autoencoder.build_autoencoder(config, SPEC).decode(torch.randn(1, 8, 64))
    assert [tuple(field.shape[1:]) for field in fields] == plane_autoencoder.field_shapes(config, SPEC)
    assert len(fields) == count


def test_every_weight_of_autoencoder_and_readout_gets_a_gradient():
    built, function = plane_autoencoder.build_autoencoder(CONFIG, SPEC), readout()
    mean, std = built.encode(torch.randn(2, 128, 3))
    function.query(built.decode(mean + std), grid(8, 16)).square().sum().backward()
    assert all(weight.grad is not None for module in (built, function) for weight in module.parameters())


@pytest.mark.parametrize("axis", [0, 1], ids=["rows", "columns"])
def test_a_field_that_varies_along_one_axis_makes_values_that_do(axis):
    fields = [torch.randn(1, 6, *((side, 1) if axis == 0 else (1, side))) for side in (4, 8, 16)]
    fields = tuple(field.expand(-1, -1, *((side, side))) for field, side in zip(fields, (4, 8, 16), strict=True))
    values = readout().query(fields, grid(24, 24)).unflatten(1, (24, 24))
    along, across = values.diff(dim=1 + axis).abs().max(), values.diff(dim=2 - axis).abs().max()
    assert across < 1e-5 < 0.01 < along


def test_the_function_at_three_times_the_pixels_has_the_training_grid_at_every_third():
    fields = tuple(torch.randn(2, 6, side, 2 * side) for side in (2, 4, 8))
    function = readout()
    coarse = function.query(fields, grid(8, 16)).unflatten(1, (8, 16))
    fine = function.query(fields, grid(24, 48)).unflatten(1, (24, 48))
    assert (fine[:, 1::3, 1::3] - coarse).abs().max() < 1e-5


def test_at_the_cells_of_a_field_the_features_are_its_own_and_beyond_the_edge_those_of_the_edge():
    field = torch.randn(1, 5, 4, 6)
    centers = grid(4, 6).coordinates
    assert centers is not None
    assert torch.allclose(IMAGE.interpolate(field, centers)[0], field.flatten(2).mT, atol=1e-6)
    (corner,) = IMAGE.interpolate(field, torch.tensor([[-1.0, -1.0], [1.0, 1.0]]))
    assert torch.allclose(corner[0], torch.stack([field[0, :, 0, 0], field[0, :, -1, -1]]), atol=1e-6)


def test_queries_of_their_own_for_each_set_are_read_from_that_set():
    fields = tuple(torch.randn(2, 6, side, side) for side in (2, 4, 8))
    function, at = readout(), torch.rand(2, 5, 2) * 2 - 1
    both = function.query(fields, Queries(at, torch.arange(5)))
    for number in range(2):
        alone = function.query(
            tuple(field[number : number + 1] for field in fields), Queries(at[number], torch.arange(5))
        )
        assert torch.allclose(both[number], alone[0], atol=1e-5)


@pytest.mark.parametrize("coarse_to_fine", [True, False])
def test_a_cell_size_is_one_more_number_of_each_field(coarse_to_fine):
    config = basis_readout.Config(32, coarse_to_fine=coarse_to_fine, reads_cell_size=True)
    function, plain = readout(config, (6, 6, 6)), basis_readout.Config(32, coarse_to_fine=coarse_to_fine)
    fields, at = tuple(torch.randn(2, 6, side, 2 * side) for side in (2, 4, 8)), grid(8, 16)
    own, coarse, fine = (function.query(fields, replace(at, cell_sizes=torch.tensor(2 / side))) for side in (8, 2, 32))
    assert torch.equal(function.query(fields, at), own)  # without a cell size that of the training grid
    one = torch.zeros(()).expand(2, 1, 1, 1)
    wider = [torch.cat([field, one.expand(-1, -1, *field.shape[2:])], 1) for field in fields]
    without = readout(plain, (7, 7, 7))
    without.load_state_dict(function.state_dict())
    torch.testing.assert_close(own, without.query(tuple(wider), at))  # its logarithm is 0 on the training grid
    assert min((own - coarse).abs().max(), (own - fine).abs().max(), (coarse - fine).abs().max()) > 0.01


def test_each_set_has_its_own_cell_size_and_a_part_of_the_queries_keeps_it():
    function = readout(basis_readout.Config(32, reads_cell_size=True))
    fields, steps = tuple(torch.randn(2, 6, side, 2 * side) for side in (2, 4, 8)), torch.tensor([0.1, 0.7])
    both = replace(grid(8, 16), cell_sizes=steps)
    values = function.query(fields, both)
    for number in range(2):
        own = tuple(field[number : number + 1] for field in fields)
        alone = function.query(own, replace(both, cell_sizes=steps[number]))
        torch.testing.assert_close(values[number : number + 1], alone)
    torch.testing.assert_close(function.query(fields, both[5:70]), values[:, 5:70])


@pytest.mark.parametrize("coarse_to_fine", [True, False])
def test_the_function_is_not_linear_in_its_fields(coarse_to_fine):
    function = readout(basis_readout.Config(32, coarse_to_fine=coarse_to_fine))
    one, other = (tuple(torch.randn(1, 6, side, side) for side in (2, 4, 8)) for _ in range(2))
    middle = tuple((a + b) / 2 for a, b in zip(one, other, strict=True))
    ends = (function.query(one, grid(5, 5)) + function.query(other, grid(5, 5))) / 2
    assert (function.query(middle, grid(5, 5)) - ends).abs().max() > 0.01 * ends.abs().max()


def test_what_does_not_fit_is_refused():
    with pytest.raises(UsageError, match=r"10 x 16 is not divisible by 4"):
        plane_autoencoder.build_autoencoder(CONFIG, SetSpec(2, 3, Grid((10, 16))))
    with pytest.raises(UsageError, match="reads images"):
        plane_autoencoder.build_autoencoder(CONFIG, SetSpec(3, 3, Grid((8, 8, 8))))
    with pytest.raises(ValueError, match="`fields` is 4: from 1 to the number of levels, 3"):
        plane_autoencoder.Config(multipliers=(1, 2, 2), fields=4)
