"""DDIM and ancestral sampling: the paper's time grid, closed forms of Gaussian data, and the library diffusers."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch

from inrflow_core.numerics import noise_field, paths, solver
from inrflow_core.numerics.paths import PATHS
from inrflow_core.samplers import _fixed_steps, ddim, ddpm, euler
from tests.samplers.known import EVEN, GAUSSIAN, MIXTURE, Mixture, normals

SCHEDULE = PATHS["scaled-linear"]


def test_fifty_steps_are_the_papers_999_979_to_19_and_the_data():
    steps = (1000 * ddim.time_grid(ddim.Config(steps=50)) - 1).tolist()
    assert steps[:-1] == list(range(999, 0, -20))
    assert steps[-1] == -1
    assert (1000 * ddpm.time_grid(ddpm.Config()) - 1).tolist() == list(range(999, -2, -1))


@pytest.mark.parametrize("steps", [1, 3, 7, 16, 30, 333, 700, 999])
def test_other_grids_fall_by_whole_steps_from_1_to_0(steps):
    grid = ddim.time_grid(ddim.Config(steps=steps))
    assert (len(grid), grid[0], grid[-1]) == (steps + 1, 1, 0)
    assert (grid.diff() < 0).all()
    assert torch.equal(1000 * grid, (1000 * grid).round())


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
@pytest.mark.parametrize("steps", [1, 10, 50])
def test_ddim_on_gaussian_data_is_its_closed_form(path, steps):
    """Of data of deviation d, data and noise behind y are alpha d^2 y / v and sigma y / v, where v is the variance of y."""
    deviation, factor = GAUSSIAN.deviations[0], 1.0
    for t, t_next in pairwise(ddim.time_grid(ddim.Config(steps=steps))):
        alpha, sigma, after, noise_after = (
            float(x) for x in (path.alpha(t), path.sigma(t), path.alpha(t_next), path.sigma(t_next))
        )
        factor *= (after * alpha * deviation**2 + noise_after * sigma) / (alpha**2 * deviation**2 + sigma**2)
    y = normals(2, 5, 3, dtype=torch.float64)
    end = solver.integrate(ddim, ddim.Config(steps=steps), GAUSSIAN.velocity(path), y, path=path)
    torch.testing.assert_close(end, factor * y, rtol=1e-8, atol=1e-12)


def test_ddim_on_the_linear_path_is_eulers_method():
    y, times = normals(2, 30, 3, dtype=torch.float64), ddim.time_grid(ddim.Config(steps=20))
    velocity = MIXTURE.velocity(PATHS["linear"])
    one = solver.integrate(ddim, ddim.Config(steps=20), velocity, y, path=PATHS["linear"])
    other = solver.integrate(euler, _fixed_steps.Config(), velocity, y, path=PATHS["linear"], times=times)
    torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
def test_ddim_is_exact_in_one_step_where_all_data_are_equal(path):
    point = Mixture((1.0,), (0.7,), (0.0,))
    end = solver.integrate(ddim, ddim.Config(steps=1), point.velocity(path), normals(1, 9, 2), path=path)
    torch.testing.assert_close(end, torch.full_like(end, 0.7), rtol=0, atol=2e-5)


def ancestral_deviation(path: paths.Path, problem: Mixture, steps: int) -> float:
    """The deviation after the last step: on Gaussian data each step is linear in y and in its noise."""
    config, velocity = ddpm.Config(steps=steps), problem.velocity(path)
    grid = ddpm.time_grid(config)
    zeros, ones = (torch.full((steps, 1, 1), number, dtype=torch.float64) for number in (0, 1))
    remaining, fresh = (
        ddpm.step(velocity, y, grid[:-1], grid[1:], path=path, config=config, noise=noise).flatten().square()
        for y, noise in ((ones, zeros), (zeros, ones))
    )
    variance = 1.0
    for share, added in zip(remaining.tolist(), fresh.tolist(), strict=True):
        variance = share * variance + added
    return math.sqrt(variance)


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
@pytest.mark.parametrize("deviation", [0.5, 1.0, 2.0])
def test_a_thousand_ancestral_steps_end_at_the_datas_deviation(path, deviation):
    """The posterior's variance is that of known data: the deviation is low, by a share that falls with the steps."""
    problem = Mixture((1.0,), (0.0,), (deviation,))
    few, many = (1 - ancestral_deviation(path, problem, steps) / deviation for steps in (100, 1000))
    assert 0 < many < 0.015
    assert 5 < few / many < 11


@pytest.mark.parametrize("path", EVEN.values(), ids=EVEN)
def test_ancestral_steps_of_keyed_noise_reach_the_mixture_whatever_the_batch(path):
    """20,000 numbers: a weight's standard error is 0.0032, a mean's 0.003, a deviation's 0.002."""
    config, velocity, keys = ddpm.Config(steps=300), MIXTURE.velocity(path), torch.arange(10_000)

    def draw(seeds: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
        noise = lambda index: noise_field.normal(seeds, keys, purpose="increment", channels=1, step=index)  # noqa: E731
        start = noise_field.normal(seeds, keys, purpose="start", channels=1)
        return solver.integrate(ddpm, config, velocity, start, path=path, noise=noise)

    y = draw(torch.tensor([3, 4]), keys)
    weights, means, widths = MIXTURE.measured(y)
    torch.testing.assert_close(weights, torch.tensor(MIXTURE.weights), rtol=0, atol=0.012)
    torch.testing.assert_close(means, torch.tensor(MIXTURE.means), rtol=0, atol=0.012)
    torch.testing.assert_close(widths, torch.tensor(MIXTURE.deviations), rtol=0, atol=0.015)
    torch.testing.assert_close(draw(torch.tensor([4]), keys[:50])[0], y[1, :50], rtol=1e-4, atol=1e-5)


def test_ancestral_steps_have_the_variance_of_the_posterior_and_none_at_the_end():
    """beta (1 - abar before) / (1 - abar) of DDPM, equation 7."""
    betas = torch.linspace(0.0015**0.5, 0.0195**0.5, 1000, dtype=torch.float64).square()
    product = (1 - betas).cumprod(0)
    for step in (1, 400, 999):
        t, t_next = (torch.tensor([end / 1000], dtype=torch.float64) for end in (step + 1, step))
        y = torch.zeros(1, 1, 1, dtype=torch.float64)
        moved = ddpm.step(
            lambda y, t: 0 * y, y, t, t_next, path=SCHEDULE, config=ddpm.Config(), noise=torch.ones_like(y)
        )
        expected = betas[step] * (1 - product[step - 1]) / (1 - product[step])
        assert float(moved.square()) == pytest.approx(float(expected), rel=1e-7)
    t, t_next, y = torch.tensor([0.02]).double(), torch.zeros(1).double(), normals(1, 4, 1)
    ends = [
        ddpm.step(GAUSSIAN.velocity(SCHEDULE), y, t, t_next, path=SCHEDULE, config=ddpm.Config(), noise=scale * y)
        for scale in (0.0, 100.0)
    ]
    assert torch.equal(*ends)


@pytest.mark.parametrize("steps", [1, 8, 50, 200])
def test_ddim_is_that_of_the_library_diffusers(steps):
    """DDIMScheduler: scaled linear betas, trailing spacing, no clipping, and alpha 1 at the end.

    Numbers of steps that divide 1000: of others its steps end where the next ones do not begin.
    """
    scheduler = pytest.importorskip("diffusers").DDIMScheduler(
        *(1000, 0.0015, 0.0195, "scaled_linear"), clip_sample=False, set_alpha_to_one=True, timestep_spacing="trailing"
    )
    scheduler.set_timesteps(steps)
    weight = normals(3, 3, seed=5) / 3

    def noise_of(y: torch.Tensor, t: float) -> torch.Tensor:
        """Any smooth estimate of the noise."""
        return 0.9 * y + 0.1 * torch.tanh(y @ weight + t / 1000)

    start = normals(2, 20, 3)
    theirs = start
    for t in scheduler.timesteps:
        theirs = scheduler.step(noise_of(theirs, float(t)), t, theirs).prev_sample
    ours = solver.integrate(
        ddim,
        ddim.Config(steps=steps),
        lambda y, t: paths.velocity_of_noise(SCHEDULE, noise_of(y, float(1000 * t[0] - 1)), y, t),
        start,
        path=SCHEDULE,
    )
    assert (ours - theirs).abs().max() < 1e-6 * theirs.abs().max()
