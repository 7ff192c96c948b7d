"""Interpolation between tokens of a grid: values and gradients against a dense matrix of weights."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from inrflow_core.layers.interpolation import corners, mix

SIDES = [(5,), (1,), (3, 4), (2, 1, 3)]


def interpolate(tokens: Tensor, sides: tuple[int, ...], at: Tensor) -> Tensor:
    return mix(tokens, *corners(sides, at))


def dense(tokens: Tensor, sides: tuple[int, ...], at: Tensor) -> Tensor:
    index, weight = corners(sides, at)
    matrix = torch.zeros(*at.shape[:-1], tokens.shape[1], dtype=tokens.dtype).scatter_add_(-1, index, weight)
    return matrix @ tokens


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("sides", SIDES)
def test_values_and_gradients_are_those_of_the_matrix_of_weights(sides: tuple[int, ...], shared: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    count = int(torch.tensor(sides).prod())
    tokens = torch.randn(3, count, 4, generator=generator, dtype=torch.float64)
    at = 3 * torch.rand(3, 17, len(sides), generator=generator, dtype=torch.float64) - 1.5  # some beyond the edge
    at = at[0] if shared else at
    factor = torch.randn(3, 17, 4, generator=generator, dtype=torch.float64)
    results = []
    for function in (interpolate, dense):
        own = tokens.clone().requires_grad_()
        value = function(own, sides, at)
        (value * factor).sum().backward()
        results.append((value.detach(), own.grad))
    torch.testing.assert_close(results[0], results[1], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("sides", SIDES)
def test_weights_are_from_0_to_1_and_their_sum_is_1(sides: tuple[int, ...]) -> None:
    at = 4 * torch.rand(200, len(sides), generator=torch.Generator().manual_seed(1)) - 2
    index, weight = corners(sides, at)
    assert index.min() >= 0 and index.max() < torch.tensor(sides).prod()
    assert weight.min() >= 0 and weight.max() <= 1
    torch.testing.assert_close(weight.sum(-1), torch.ones(200))


def test_a_token_that_no_coordinate_reaches_has_no_gradient() -> None:
    tokens = torch.randn(1, 5, 2, requires_grad=True)
    interpolate(tokens, (5,), torch.full((4, 1), -1.0)).sum().backward()
    assert tokens.grad is not None
    torch.testing.assert_close(tokens.grad[0, :, 0], torch.tensor([4.0, 0, 0, 0, 0]))


@pytest.mark.parametrize("sides", SIDES)
def test_a_coordinate_that_is_nan_makes_its_own_result_nan_and_no_other(sides: tuple[int, ...]) -> None:
    tokens, at = torch.ones(2, int(torch.tensor(sides).prod()), 2), torch.zeros(3, len(sides))
    at[1] = torch.nan
    index, _ = corners(sides, at)
    assert index.min() >= 0 and index.max() < tokens.shape[1]
    assert interpolate(tokens, sides, at).isnan().all(-1).tolist() == [[False, True, False]] * 2


@pytest.mark.parametrize(("sets", "queries"), [(0, 3), (2, 0)])
def test_no_sets_and_no_queries_have_an_empty_result_and_no_gradient(sets: int, queries: int) -> None:
    tokens = torch.randn(sets, 4, 2, requires_grad=True)
    result = interpolate(tokens, (2, 2), torch.zeros(queries, 2))
    assert result.shape == (sets, queries, 2)
    result.sum().backward()
    assert tokens.grad is not None and not tokens.grad.any()
