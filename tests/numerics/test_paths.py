"""Paths: the velocity is the derivative, one prediction gives all others; times on a path; guidance and its interval."""

from __future__ import annotations

import math

import pytest
import torch

from inrflow_core.numerics import paths
from inrflow_core.numerics.paths import PATHS
from tests.samplers.known import MIXTURE, Mixture, normals

T = torch.tensor([0.0, 0.1, 0.5, 0.93, 1.0], dtype=torch.float64)


def data_and_noise():
    """Five sets of data and noise in float64."""
    return normals(5, 7, 3, seed=1, dtype=torch.float64), normals(5, 7, 3, seed=2, dtype=torch.float64)


@pytest.mark.parametrize("name", ["linear", "trigonometric"])
def test_a_path_goes_from_data_at_0_to_noise_at_1(name):
    data, noise = data_and_noise()
    path = PATHS[name]
    for t, end in ((0.0, data), (1.0, noise)):
        y, _ = paths.interpolate(path, data, noise, torch.full((5,), t, dtype=torch.float64))
        torch.testing.assert_close(y, end, rtol=0, atol=1e-15)


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
def test_the_velocity_is_the_derivative_of_the_path(path):
    data, noise = data_and_noise()
    _, velocity = paths.interpolate(path, data, noise, T)
    moving = lambda t: paths.interpolate(path, data, noise, t)[0]  # noqa: E731
    rate = torch.func.jvp(moving, (T,), (torch.ones_like(T),))[1]
    torch.testing.assert_close(velocity, rate)


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
@pytest.mark.parametrize(("amount", "rate"), [("alpha", "alpha_dot"), ("sigma", "sigma_dot")])
def test_the_rates_are_the_derivatives_of_the_amounts(path, amount, rate):
    derivative = torch.func.jvp(getattr(path, amount), (T,), (torch.ones_like(T),))[1]
    torch.testing.assert_close(getattr(path, rate)(T), derivative, rtol=1e-12, atol=1e-12)


def test_the_linear_velocity_is_the_papers_two_expressions():
    data, noise = data_and_noise()
    y, velocity = paths.interpolate(PATHS["linear"], data, noise, T)
    torch.testing.assert_close(velocity, noise - data)
    below = T < 1
    torch.testing.assert_close(velocity[below], ((noise - y) / (1 - T)[:, None, None])[below])


def test_the_schedule_is_the_product_of_a_thousand_steps_and_data_at_0():
    """Latent diffusion's: betas whose roots are evenly spaced from that of 0.0015 to that of 0.0195; alpha^2 ends at 1.42e-4."""
    betas = torch.linspace(0.0015**0.5, 0.0195**0.5, 1000, dtype=torch.float64).square()
    product = (1 - betas).cumprod(0)
    t = torch.arange(1, 1001, dtype=torch.float64) / 1000
    path = PATHS["scaled-linear"]
    torch.testing.assert_close(path.alpha(t).square(), product, rtol=1e-8, atol=0)
    torch.testing.assert_close(path.sigma(t).square(), 1 - product, rtol=1e-8, atol=0)
    assert float(product[-1]) == pytest.approx(1.42e-4, rel=5e-3)
    zero = torch.zeros(1, dtype=torch.float64)
    assert (float(path.alpha(zero)), float(path.sigma(zero))) == (1, 0)


def test_times_of_the_schedule_are_its_steps_each_as_likely():
    t = paths.sample_times("steps", quantiles(10_000))
    steps, counts = t.unique(return_counts=True)
    torch.testing.assert_close(1000 * steps, torch.arange(1, 1001, dtype=torch.float64))
    assert (counts == 10).all()


@pytest.mark.parametrize("t", [0.001, 0.3, 1.0])
def test_the_velocity_of_a_known_noise_is_that_of_the_path(t):
    path, (data, noise) = PATHS["scaled-linear"], data_and_noise()
    y, velocity = paths.interpolate(path, data, noise, torch.full((5,), t, dtype=torch.float64))
    torch.testing.assert_close(paths.velocity_of_noise(path, noise, y, torch.full((5,), t).double()), velocity)


@pytest.mark.parametrize("name", ["trigonometric", "scaled-linear"])
def test_paths_of_diffusion_keep_the_variance(name):
    path = PATHS[name]
    torch.testing.assert_close(path.alpha(T) ** 2 + path.sigma(T) ** 2, torch.ones_like(T))


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-14), (torch.float32, 3e-6)])
def test_data_and_noise_come_back_from_a_point_and_its_velocity(path, dtype, tolerance):
    data, noise = (x.to(dtype) for x in data_and_noise())
    y, velocity = paths.interpolate(path, data, noise, T)
    assert y.dtype == velocity.dtype == dtype
    result = paths.recover_data_and_noise(path, velocity, y, T)
    for got, expected in zip(result, (data, noise), strict=True):
        assert got.dtype == dtype
        torch.testing.assert_close(got, expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
def test_the_score_is_the_gradient_of_the_log_density(path):
    t = torch.tensor([0.05, 0.3, 0.7, 0.99, 1.0], dtype=torch.float64)
    y = normals(5, 20, 1, dtype=torch.float64).requires_grad_()
    alpha, sigma = (x(t)[:, None, None, None] for x in (path.alpha, path.sigma))
    weights, means, deviations = (torch.tensor(x, dtype=torch.float64) for x in MIXTURE.tables())
    variance = alpha**2 * deviations**2 + sigma**2
    terms = weights.log() - variance.log() / 2 - (y[..., None] - alpha * means) ** 2 / variance / 2
    (gradient,) = torch.autograd.grad(terms.logsumexp(-1).sum(), y)
    velocity = MIXTURE.velocity(path)(y.detach(), t)
    torch.testing.assert_close(paths.score(path, velocity, y.detach(), t), gradient, rtol=1e-9, atol=1e-9)


def quantiles(count: int = 100_001) -> torch.Tensor:
    """Uniform numbers, evenly spaced inside (0, 1)."""
    return (torch.arange(count, dtype=torch.float64) + 0.5) / count


def test_uniform_times_are_the_uniform_numbers_themselves():
    assert torch.equal(paths.sample_times("uniform", quantiles()), quantiles())


@pytest.mark.parametrize(("mean", "deviation"), [(0.0, 1.0), (-0.4, 1.2), (1.0, 0.5)])
def test_the_logit_of_a_logit_normal_time_has_the_mean_and_the_deviation(mean, deviation):
    logit = torch.logit(paths.sample_times("logit-normal", quantiles(), mean=mean, deviation=deviation))
    torch.testing.assert_close(float(logit.mean()), mean, rtol=0, atol=1e-9)
    torch.testing.assert_close(float(logit.std()), deviation, rtol=1e-4, atol=0)
    standard = (logit - mean) / deviation
    torch.testing.assert_close(float((standard < 1).double().mean()), 0.841345, rtol=0, atol=2e-5)


@pytest.mark.parametrize("density", ["uniform", "logit-normal"])
def test_a_shift_multiplies_the_odds_of_noise(density):
    plain, shifted = (paths.sample_times(density, quantiles(), shift=shift) for shift in (1.0, 3.0))
    torch.testing.assert_close(shifted / (1 - shifted), 3 * plain / (1 - plain))


@pytest.mark.parametrize("density", ["uniform", "logit-normal"])
@pytest.mark.parametrize("shift", [0.3, 1.0, 3.0])
def test_times_stay_inside_0_and_1_at_the_ends_of_the_uniform_numbers(density, shift):
    u = torch.tensor([2.0**-53, 1 - 2.0**-53], dtype=torch.float64)
    t = paths.sample_times(density, u, shift=shift)
    assert ((t > 0) & (t < 1)).all()
    assert math.isclose(float(paths.sample_times(density, torch.tensor([0.5]).double())), 0.5)


GUIDANCE_TIMES = torch.tensor([0.1, 0.3, 0.5, 0.9], dtype=torch.float64)


def halves():
    """Two velocities of four sets."""
    return normals(4, 5, 3, seed=1), normals(4, 5, 3, seed=2)


@pytest.mark.parametrize("scale", [0.0, 0.5, 1.5, 4.0])
def test_the_velocity_is_pushed_away_from_the_other_by_the_scale(scale):
    velocity, other = halves()
    guided = paths.guided_velocity(velocity, other, scale, GUIDANCE_TIMES)
    torch.testing.assert_close(guided - other, scale * (velocity - other))
    assert guided.dtype == torch.float32


def test_scale_1_is_the_velocity_to_the_bit():
    velocity, other = halves()
    assert torch.equal(paths.guided_velocity(velocity, other, 1.0, GUIDANCE_TIMES), velocity)


def test_outside_its_interval_each_set_keeps_its_velocity_to_the_bit():
    velocity, other = halves()
    guided = paths.guided_velocity(velocity, other, 3.0, GUIDANCE_TIMES, (0.3, 0.5))
    inside = paths.guided_velocity(velocity, other, 3.0, GUIDANCE_TIMES)
    assert torch.equal(guided[[0, 3]], velocity[[0, 3]])
    assert torch.equal(guided[[1, 2]], inside[[1, 2]])
    assert not torch.equal(inside[0], velocity[0])


def test_outside_its_interval_the_other_may_be_anything():
    velocity, _ = halves()
    nothing = torch.full_like(velocity, torch.nan)
    assert torch.equal(paths.guided_velocity(velocity, nothing, 3.0, GUIDANCE_TIMES, (0.95, 1.0)), velocity)


def test_guidance_against_the_mixture_moves_the_mean_of_a_class_away_from_the_other_class():
    path, t = PATHS["linear"], torch.full((1,), 0.5, dtype=torch.float64)
    both = Mixture((0.5, 0.5), (-1.0, 1.0), (0.3, 0.3)).velocity(path)
    one = Mixture((1.0,), (1.0,), (0.3,)).velocity(path)
    y = torch.zeros(1, 1, 1)
    velocity, other = one(y, t), both(y, t)
    guided = paths.guided_velocity(velocity, other, 2.0, t)
    assert float(guided) < float(velocity) < float(other)  # time runs down to data, so that a lower velocity leads up
    torch.testing.assert_close(float(guided), 2 * float(velocity) - float(other))
