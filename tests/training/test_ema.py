"""Moving averages of the weights."""

from __future__ import annotations

import pytest
import torch

from inrflow_core.config.training import share_of_initial_weights
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


@pytest.mark.parametrize("warmup", [None, 10, 3])
def test_an_average_equals_its_recursion_with_and_without_a_warm_up(warmup):
    weight = torch.zeros(5, dtype=torch.float64)
    average, expected = EMA(0.9, [weight], warmup), torch.zeros(5, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    for step in range(60):
        weight += torch.randn(5, generator=generator, dtype=torch.float64)
        is_applied = step % 7 != 3
        decay = 0.9 if warmup is None else min(0.9, (1 + step) / (warmup + step))
        if is_applied:
            expected = decay * expected + (1 - decay) * weight
        average.update(torch.tensor(is_applied), step)
    torch.testing.assert_close(average.values[0], expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    ("decay", "warmup", "steps"), [(0.999, None, 500), (0.9, 10, 200), (0.999, 10, 50), (0.5, 1, 3)]
)
def test_the_share_of_the_initial_weights_is_what_an_average_of_zeros_keeps_of_them(decay, warmup, steps):
    weight = torch.ones(1, dtype=torch.float64)
    average = EMA(decay, [weight], warmup)
    weight.zero_()
    for step in range(steps):
        average.update(step=step)
    assert share_of_initial_weights(decay, steps, warmup) == pytest.approx(float(average.values[0]), rel=1e-9)
