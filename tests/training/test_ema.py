"""Moving averages of the weights."""

from __future__ import annotations

import torch

from inrflow_core.training.ema import EMA


def test_an_average_is_the_sum_that_its_decay_says():
    weights = [torch.nn.Parameter(torch.randn(3, 4, generator=torch.Generator().manual_seed(0)))]
    average = EMA(0.9, weights)
    expected = weights[0].detach().double()
    for step in range(50):
        with torch.no_grad():
            weights[0].add_(0.1 * step)
        average.update()
        expected = 0.9 * expected + 0.1 * weights[0].detach().double()
    torch.testing.assert_close(average.values[0].double(), expected, rtol=1e-6, atol=1e-6)


def test_weights_are_the_average_inside_the_block_and_themselves_again_after_it():
    weight = torch.nn.Parameter(torch.zeros(3))
    average = EMA(0.5, [weight])
    with torch.no_grad():
        weight += 1
    average.update()
    with average.in_place():
        assert weight.tolist() == [0.5] * 3
    assert weight.tolist() == [1.0] * 3
    assert average.values[0].tolist() == [0.5] * 3


def test_the_weights_come_back_when_the_block_fails():
    weight = torch.nn.Parameter(torch.zeros(3))
    average = EMA(0.5, [weight])
    with torch.no_grad():
        weight += 1
    try:
        with average.in_place():
            raise KeyError
    except KeyError:
        pass
    assert weight.tolist() == [1.0] * 3
