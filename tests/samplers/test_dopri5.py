"""Dormand and Prince's method: step control and the budget, each set by itself."""

from __future__ import annotations

import pytest
import torch

from inrflow_core.numerics import solver
from inrflow_core.numerics.paths import PATHS
from inrflow_core.samplers import dopri5
from tests.samplers.known import GAUSSIAN, MIXTURE, normals

LINEAR = PATHS["linear"]


def stiff(rates: torch.Tensor):
    """A speed for each set, with a peak at t = 0.6 that no large step passes."""

    def velocity(y, t):
        peak = (1 / (1 + ((t - 0.6) / 0.02).square())).to(y.dtype)[:, None, None]
        return rates[:, None, None] * peak * (1 + torch.sin(3 * y + 1) / 4)

    return velocity


def steps_of(config, velocity, y):
    """The steps of a walk and where it ends."""
    walked = list(solver.iter_steps(dopri5, config, velocity, y, path=LINEAR))
    return [step for step, _ in walked], walked[-1][1]


@pytest.mark.parametrize("tolerance", [1e-2, 1e-4, 1e-6])
def test_the_error_follows_the_tolerance(tolerance):
    y = normals(4, 200, 1, dtype=torch.float64)
    config = dopri5.Config(rtol=tolerance, atol=tolerance, max_nfe=10_000)
    _, end = steps_of(config, MIXTURE.velocity(LINEAR), y)
    _, exact = steps_of(dopri5.Config(rtol=1e-10, atol=1e-10, max_nfe=100_000), MIXTURE.velocity(LINEAR), y)
    assert (end - exact).square().mean().sqrt() < 10 * tolerance


@pytest.mark.parametrize("max_nfe", [7, 13, 14, 70, 100, 700])
@pytest.mark.parametrize("tolerance", [1e-1, 1e-12])
def test_the_budget_is_kept_and_every_set_ends_at_0(max_nfe, tolerance):
    calls = []

    def velocity(y, t):
        calls.append(t)
        return stiff(torch.tensor([1.0, 8.0, 30.0]))(y, t)

    config = dopri5.Config(rtol=tolerance, atol=tolerance, max_nfe=max_nfe)
    steps, end = steps_of(config, velocity, normals(3, 20, 1))
    assert len(calls) <= solver.num_function_evaluations(dopri5, config) <= max_nfe
    assert torch.equal(steps[-1].t_next, torch.zeros(3, dtype=torch.float64))
    assert end.isfinite().all()
    for first, second in zip(steps[:-1], steps[1:], strict=True):
        assert torch.equal(first.t_next, second.t)
        assert (second.t_next <= second.t).all()
    assert [step.index for step in steps] == list(range(len(steps)))


def test_a_set_takes_the_same_steps_alone_and_among_others():
    rates = torch.tensor([0.1, 5.0, 20.0])
    y, config = normals(3, 50, 2), dopri5.Config(rtol=1e-4, atol=1e-4, max_nfe=2000)
    steps, together = steps_of(config, stiff(rates), y)
    counts = set()
    for row in range(3):
        alone_steps, alone = steps_of(config, stiff(rates[row : row + 1]), y[row : row + 1])
        ends = torch.stack([step.t_next[row] for step in steps if step.t_next[row] < step.t[row]])
        torch.testing.assert_close(torch.cat([step.t_next for step in alone_steps]), ends, rtol=0, atol=1e-6)
        torch.testing.assert_close(alone[0], together[row], rtol=0, atol=1e-6)
        counts.add(len(ends))
    assert len(counts) == 3


def test_a_hard_set_takes_shorter_steps_where_it_bends_and_rejects_some():
    y, calls = normals(2, 50, 1), []
    velocity = stiff(torch.tensor([0.01, 20.0]))
    # Both the sets and the attempts: one of them rests while the other moves, and some attempts move none.
    steps, _ = steps_of(
        dopri5.Config(rtol=1e-5, atol=1e-5, max_nfe=3000), lambda y, t: calls.append(t) or velocity(y, t), y
    )
    moved = torch.stack([step.t - step.t_next for step in steps])
    assert ((moved == 0).any(1) & (moved > 0).any(1) & torch.stack([s.t for s in steps]).gt(0).all(1)).any()
    assert len(calls) > 7 * len(steps)  # attempts that no one accepted
    hard = moved[:, 1]
    at = torch.stack([step.t[1] for step in steps])
    peak = hard[(at > 0.58) & (at < 0.62) & (hard > 0)]
    assert peak.mean() < 0.3 * hard[(at > 0.8) & (hard > 0)].mean()


def test_values_that_are_no_numbers_end_the_walk_too():
    steps, end = steps_of(dopri5.Config(max_nfe=70), lambda y, t: y * torch.nan, normals(2, 3, 1))
    assert torch.equal(steps[-1].t_next, torch.zeros(2, dtype=torch.float64))
    assert end.isnan().all()


def test_it_goes_from_data_to_noise_and_back():
    data = GAUSSIAN.deviations[0] * normals(2, 50, 3, dtype=torch.float64)
    config = dopri5.Config(rtol=1e-7, atol=1e-7, max_nfe=2000)
    times = torch.tensor([0.0, 1.0], dtype=torch.float64)
    noise = solver.integrate(dopri5, config, GAUSSIAN.velocity(LINEAR), data, path=LINEAR, times=times)
    torch.testing.assert_close(noise, 2 * data, rtol=1e-5, atol=0)
    back = solver.integrate(dopri5, config, GAUSSIAN.velocity(LINEAR), noise, path=LINEAR)
    torch.testing.assert_close(back, data, rtol=1e-5, atol=0)
