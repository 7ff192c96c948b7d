"""The reverse SDE: any D has the right marginals, near pure noise too."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.integrate import solve_ivp

from inrflow_core.numerics import solver
from inrflow_core.numerics.paths import PATHS
from inrflow_core.samplers import _fixed_steps, euler, euler_maruyama
from tests.samplers.known import EVEN, GAUSSIAN, MIXTURE, normals

DIFFUSIONS = list(euler_maruyama.DIFFUSION)


def deviations(path, config, problem=GAUSSIAN) -> list[tuple[float, float]]:
    """The state's exact deviation after each step beside the right one: on a Gaussian each step is linear in y."""
    variance, pairs = 1.0, []
    velocity, ends = problem.velocity(path), euler_maruyama.time_grid(config)
    zero, one = torch.zeros(1, 1, 1, dtype=torch.float64), torch.ones(1, 1, 1, dtype=torch.float64)
    for index, (t, t_next) in enumerate(zip(ends[:-1, None], ends[1:, None], strict=True)):
        step = solver.Step(index, t, t_next)
        remaining, fresh = (
            float(solver.replay_step(euler_maruyama, config, velocity, y, step, path=path, noise=lambda _, z=z: z))
            for y, z in ((one, zero), (zero, one))
        )
        variance = remaining**2 * variance + fresh**2
        right = (path.alpha(t_next) * problem.deviations[0]) ** 2 + path.sigma(t_next) ** 2
        pairs.append((math.sqrt(variance), float(right.sqrt())))
    return pairs


@pytest.mark.parametrize("path", EVEN.values(), ids=EVEN)
@pytest.mark.parametrize("diffusion", DIFFUSIONS)
@pytest.mark.parametrize(("steps", "on_the_way", "at_the_end"), [(100, 0.032, 0.01), (500, 0.028, 0.002)])
def test_the_deviation_stays_right_from_pure_noise_to_data(path, diffusion, steps, on_the_way, at_the_end):
    result = deviations(path, euler_maruyama.Config(steps=steps, diffusion=diffusion))
    assert max(abs(is_ / right - 1) for is_, right in result) < on_the_way
    assert abs(result[-1][0] / 0.5 - 1) < at_the_end


@pytest.mark.parametrize("path", EVEN.values(), ids=EVEN)
@pytest.mark.parametrize("diffusion", DIFFUSIONS)
def test_the_deviation_stays_right_with_steps_that_shrink(path, diffusion):
    result = deviations(path, euler_maruyama.Config(steps=500, diffusion=diffusion, spacing="log"))
    assert max(abs(is_ / right - 1) for is_, right in result) < 0.03
    assert abs(result[-1][0] / 0.5 - 1) < 0.004


@pytest.mark.parametrize("path", EVEN.values(), ids=EVEN)
@pytest.mark.parametrize("temperature", [0.0, 0.3, 2.0])
@pytest.mark.parametrize("diffusion", ["constant", "sigma"])
def test_the_temperature_scales_the_injected_variance_and_leaves_the_drift(path, temperature, diffusion):
    """The deviation of dy = (v - D s) dt + sqrt(2 D T) dW on N(0, 0.5^2), where v = a y and s = -y / variance."""

    def rate(u: float, variance: list[float]) -> list[float]:
        t = torch.tensor([1 - u], dtype=torch.float64)
        numbers = (path.alpha(t), path.sigma(t), path.alpha_dot(t), path.sigma_dot(t))
        alpha, sigma, alpha_dot, sigma_dot = (float(x) for x in numbers)
        d = 0.3 * float(euler_maruyama.DIFFUSION[diffusion](path, t))
        right = alpha**2 / 4 + sigma**2
        slope = (alpha * alpha_dot / 4 + sigma * sigma_dot) / right
        return [-2 * (slope + d / right) * variance[0] + 2 * d * temperature]

    config = euler_maruyama.Config(steps=600, diffusion=diffusion, scale=0.3, temperature=temperature, last_step=0.1)
    before_the_last = deviations(path, config)[-2][0]
    exact = solve_ivp(rate, (0, 0.9), [1.0], rtol=1e-6, atol=1e-8).y[0, -1]
    assert abs(before_the_last / math.sqrt(exact) - 1) < 0.01


def test_colder_samples_lie_closer_together():
    """With `sbdm` a Gaussian's deviation falls with the root of the temperature."""
    cold = [
        deviations(PATHS["linear"], euler_maruyama.Config(temperature=t, spacing="log"))[-1][0] / 0.5
        for t in (0.0, 0.01, 0.3, 1.0)
    ]
    for result, right in zip(cold, (0.0, 0.1, 0.3**0.5, 1.0), strict=True):
        assert abs(result - right) < 0.02


@pytest.mark.parametrize("path", EVEN.values(), ids=EVEN)
@pytest.mark.parametrize("diffusion", DIFFUSIONS)
def test_the_sde_reaches_the_mixtures_weights_means_and_deviations(path, diffusion):
    """20,000 numbers: a weight's standard error is 0.0032, a mean's 0.003, a deviation's 0.002."""
    generator = torch.Generator().manual_seed(1)
    config = euler_maruyama.Config(steps=300, diffusion=diffusion)
    y = solver.integrate(
        euler_maruyama,
        config,
        MIXTURE.velocity(path),
        normals(2, 10_000, 1),
        path=path,
        noise=lambda _: torch.randn(2, 10_000, 1, generator=generator),
    )
    weights, means, widths = MIXTURE.measured(y)
    torch.testing.assert_close(weights, torch.tensor(MIXTURE.weights), rtol=0, atol=0.012)
    torch.testing.assert_close(means, torch.tensor(MIXTURE.means), rtol=0, atol=0.012)
    torch.testing.assert_close(widths, torch.tensor(MIXTURE.deviations), rtol=0, atol=0.01)


@pytest.mark.parametrize("scale", [0.3, 3.0])
def test_the_amount_of_noise_does_not_move_the_answer(scale):
    result = deviations(PATHS["linear"], euler_maruyama.Config(steps=300, scale=scale))
    assert abs(result[-1][0] / 0.5 - 1) < 0.01


def test_the_noise_exchanged_makes_the_end_forget_the_start():
    y, path = normals(1, 4000, 1), PATHS["linear"]
    ends = {}
    for scale in (0.0, 1.0):
        generator = torch.Generator().manual_seed(1)
        config = euler_maruyama.Config(steps=200, scale=scale)
        fresh = lambda _, generator=generator: torch.randn(1, 4000, 1, generator=generator)  # noqa: E731
        ends[scale] = solver.integrate(euler_maruyama, config, GAUSSIAN.velocity(path), y, path=path, noise=fresh)
    correlation = {
        scale: float(torch.corrcoef(torch.stack([y.flatten(), z.flatten()]))[0, 1]) for scale, z in ends.items()
    }
    assert correlation[0.0] > 0.999
    assert correlation[1.0] < 0.2


def test_without_noise_it_is_eulers_method():
    y, path = normals(2, 30, 3, dtype=torch.float64), PATHS["trigonometric"]
    config = euler_maruyama.Config(steps=20, scale=0.0)
    bad = torch.full_like(y, 1e9)
    sde = solver.integrate(euler_maruyama, config, MIXTURE.velocity(path), y, path=path, noise=lambda _: bad)
    ends = euler_maruyama.time_grid(config)
    ode = solver.integrate(euler, _fixed_steps.Config(), MIXTURE.velocity(path), y, path=path, times=ends)
    torch.testing.assert_close(sde, ode, rtol=0, atol=1e-12)


def test_the_last_step_has_its_length_and_takes_no_noise():
    config, path = euler_maruyama.Config(steps=10, last_step=0.02), PATHS["linear"]
    ends = euler_maruyama.time_grid(config)
    assert len(ends) == 12
    torch.testing.assert_close(ends[-2:], torch.tensor([0.02, 0.0], dtype=torch.float64))
    step = solver.Step(10, ends[-2:-1], ends[-1:])
    y = normals(1, 5, 1)
    one, other = (
        solver.replay_step(
            euler_maruyama, config, GAUSSIAN.velocity(path), y, step, path=path, noise=lambda _, z=z: z * y
        )
        for z in (0, 100)
    )
    assert torch.equal(one, other)


@pytest.mark.parametrize("path", EVEN.values(), ids=EVEN)
@pytest.mark.parametrize("diffusion", DIFFUSIONS)
def test_no_step_exchanges_more_than_its_bound_and_small_ones_exchange_what_d_says(path, diffusion):
    config = euler_maruyama.Config(diffusion=diffusion, scale=1.7)
    ends = euler_maruyama.time_grid(config)
    t, t_next = ends[:-2], ends[1:-1]
    share = euler_maruyama.noise_exchange_rate(path, config, t, t_next)
    assert (share >= 0).all()
    assert share.max() <= euler_maruyama.MAX_EXCHANGE
    middle = (t > 0.4) & (t < 0.6)
    expected = 1.7 * euler_maruyama.DIFFUSION[diffusion](path, t) * (t - t_next) / path.sigma(t) ** 2
    torch.testing.assert_close(share[middle], expected[middle])


def test_the_diffusion_terms_are_the_reference_s_with_time_turned_round():
    t = torch.linspace(0.01, 0.99, 50, dtype=torch.float64)
    theirs, path = 1 - t, PATHS["linear"]
    expected = {
        "sbdm": (1 - theirs) / theirs,
        "constant": torch.ones_like(t),
        "sigma": 1 - theirs,
        "linear": 1 - theirs,
        "decreasing": (torch.cos(math.pi * theirs) + 1) ** 2 / 4,
        "increasing-decreasing": torch.sin(math.pi * theirs) ** 2,
    }
    assert set(expected) == set(DIFFUSIONS)
    for diffusion, values in expected.items():
        torch.testing.assert_close(euler_maruyama.DIFFUSION[diffusion](path, t), values)


def test_sbdm_is_half_the_squared_diffusion_of_the_forward_sde():
    """Forward dy = (alpha'/alpha) y dt + sqrt(2 D) dW keeps the variance s of the noise part: s' = 2 s alpha'/alpha + 2 D."""
    t = torch.linspace(0.05, 0.95, 50, dtype=torch.float64)
    for path in PATHS.values():
        sigma, shrink = path.sigma(t), path.alpha_dot(t) / path.alpha(t)
        rate = 2 * sigma * path.sigma_dot(t)
        twice = 2 * euler_maruyama.DIFFUSION["sbdm"](path, t)
        torch.testing.assert_close(2 * sigma**2 * shrink + twice, rate)
