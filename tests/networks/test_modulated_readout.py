"""The paper's read-out of images, whose weights are modulated by the scale."""

from __future__ import annotations

import pytest
import torch

from inrflow_core.errors import UsageError
from inrflow_core.networks import modulated_readout
from inrflow_core.sets import Grid, Points, Queries, SetSpec

SPEC = SetSpec(2, 3, Grid((8, 16)))
SMALL = modulated_readout.Config(width=24)


def readout() -> modulated_readout.ModulatedReadout:
    torch.manual_seed(3)
    return modulated_readout.build_field_readout(SMALL, SPEC, (6, 6, 6)).requires_grad_(False)


def fields(count: int = 2, seed: int = 0) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(count, 6, side, 2 * side, generator=generator) for side in (2, 4, 8))


def grid(rows: int, columns: int, cell_sizes: torch.Tensor | None = None) -> Queries:
    axes = ((2 * torch.arange(side) + 1) / side - 1 for side in (rows, columns))
    coordinates = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).flatten(0, 1)
    return Queries(coordinates, torch.arange(rows * columns), cell_sizes=cell_sizes)


def test_it_has_the_parameters_of_the_release_without_the_weights_of_its_noise():
    """1,880,021 were counted in the release; the noise of each of the three layers of four blocks has one of them."""
    with torch.device("meta"):
        built = modulated_readout.build_field_readout(
            modulated_readout.Config(), SetSpec(2, 3, Grid((256, 256))), (64, 64, 64)
        )
    assert sum(weight.numel() for weight in built.parameters()) == 1_880_021 - 3 * 4
    assert modulated_readout.Config().least_weights < 1_880_021


def test_two_readings_are_equal_to_the_bit_and_parts_of_the_queries_answer_as_all():
    function, state, at = readout(), fields(), grid(8, 16)
    values = function.query(state, at)
    assert torch.equal(function.query(state, at), values)
    torch.testing.assert_close(function.query(state, at[5:70]), values[:, 5:70])
    alone = function.query(tuple(field[1:] for field in state), at)
    torch.testing.assert_close(alone, values[1:])


def test_constant_fields_make_a_constant_image():
    state = tuple(field[:, :, :1, :1].expand_as(field) for field in fields())
    values = readout().query(state, grid(5, 7))
    torch.testing.assert_close(values, values[:, :1].expand_as(values))
    assert (values[0, 0] - values[1, 0]).abs().max() > 0.01


def test_the_scale_changes_the_function_and_is_1_on_the_training_grid():
    function, state = readout(), fields()
    unknown = function.query(state, grid(8, 16))
    own, coarse, fine = (function.query(state, grid(8, 16, torch.tensor(2 / side))) for side in (8, 4, 16))
    assert torch.equal(own, unknown)
    assert min((own - coarse).abs().max(), (own - fine).abs().max(), (fine - coarse).abs().max()) > 0.01


def test_each_set_has_its_own_scale():
    function, state, steps = readout(), fields(), torch.tensor([0.1, 0.7])
    both = function.query(state, grid(8, 16, steps))
    for row in range(2):
        alone = function.query(tuple(field[row : row + 1] for field in state), grid(8, 16, steps[row]))
        torch.testing.assert_close(both[row : row + 1], alone)


def test_it_is_not_affine_in_its_fields():
    function, one, other, at = readout(), fields(1), fields(1, seed=1), grid(5, 5)
    middle = tuple((a + b) / 2 for a, b in zip(one, other, strict=True))
    ends = (function.query(one, at) + function.query(other, at)) / 2
    assert (function.query(middle, at) - ends).abs().max() > 0.01 * ends.abs().max()


def test_demodulated_weights_keep_the_variance_whatever_the_style():
    torch.manual_seed(0)
    layer = modulated_readout.ModulatedLinear(64, 32, 16)
    for strength in (0.1, 10.0):
        values = layer(torch.randn(1, 4000, 64), strength * torch.randn(1, 16))
        assert float(values.detach().std()) == pytest.approx(1, abs=0.05)


def test_learning_rates_are_equalized():
    """Weights are unit normals, and gradients have the factor by which they are scaled when used."""
    torch.manual_seed(0)
    layer = modulated_readout.EqualizedLinear(400, 300)
    assert float(layer.weight.detach().std()) == pytest.approx(1, abs=0.01)
    layer(torch.ones(1, 400)).sum().backward()
    assert layer.weight.grad is not None
    torch.testing.assert_close(layer.weight.grad, torch.full((300, 400), 1 / 20))


def test_every_weight_gets_a_gradient():
    function = readout().requires_grad_(True)
    function.query(fields(), grid(8, 16)).square().sum().backward()
    assert [name for name, weight in function.named_parameters() if weight.grad is None or not weight.grad.any()] == []


def test_what_does_not_fit_is_refused():
    with pytest.raises(UsageError, match="`modulated-readout` reads the scale of images"):
        modulated_readout.build_field_readout(SMALL, SetSpec(3, 1, Points(9, True)), (6,))
    with pytest.raises(ValueError, match="`width` is 0"):
        modulated_readout.Config(width=0)
    with pytest.raises(ValueError, match="`extra_depth` is -1"):
        modulated_readout.Config(extra_depth=-1)
