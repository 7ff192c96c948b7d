"""Guidance: the formula, its interval, and what it leaves alone."""

from __future__ import annotations

import pytest
import torch

from inrflow_core.numerics import guidance
from inrflow_core.numerics.paths import PATHS
from tests.samplers.known import Mixture, normals

T = torch.tensor([0.1, 0.3, 0.5, 0.9], dtype=torch.float64)


def halves():
    """Two velocities of four sets."""
    return normals(4, 5, 3, seed=1), normals(4, 5, 3, seed=2)


@pytest.mark.parametrize("scale", [0.0, 0.5, 1.5, 4.0])
def test_the_velocity_is_pushed_away_from_the_other_by_the_scale(scale):
    velocity, other = halves()
    guided = guidance.combine(velocity, other, scale, T)
    torch.testing.assert_close(guided - other, scale * (velocity - other))
    assert guided.dtype == torch.float32


def test_scale_1_is_the_velocity_to_the_bit():
    velocity, other = halves()
    assert torch.equal(guidance.combine(velocity, other, 1.0, T), velocity)


def test_outside_its_interval_each_set_keeps_its_velocity_to_the_bit():
    velocity, other = halves()
    guided = guidance.combine(velocity, other, 3.0, T, (0.3, 0.5))
    inside = guidance.combine(velocity, other, 3.0, T)
    assert torch.equal(guided[[0, 3]], velocity[[0, 3]])
    assert torch.equal(guided[[1, 2]], inside[[1, 2]])
    assert not torch.equal(inside[0], velocity[0])


def test_outside_its_interval_the_other_may_be_anything():
    velocity, _ = halves()
    nothing = torch.full_like(velocity, torch.nan)
    assert torch.equal(guidance.combine(velocity, nothing, 3.0, T, (0.95, 1.0)), velocity)


def test_guidance_against_the_mixture_moves_the_mean_of_a_class_away_from_the_other_class():
    path, t = PATHS["linear"], torch.full((1,), 0.5, dtype=torch.float64)
    both = Mixture((0.5, 0.5), (-1.0, 1.0), (0.3, 0.3)).velocity(path)
    one = Mixture((1.0,), (1.0,), (0.3,)).velocity(path)
    y = torch.zeros(1, 1, 1)
    velocity, other = one(y, t), both(y, t)
    guided = guidance.combine(velocity, other, 2.0, t)
    assert float(guided) < float(velocity) < float(other)  # time runs down to data, so that a lower velocity leads up
    torch.testing.assert_close(float(guided), 2 * float(velocity) - float(other))
