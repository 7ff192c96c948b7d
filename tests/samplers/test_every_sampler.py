"""What holds for every sampler; a new one is found by being there."""

from __future__ import annotations

import importlib
import math
import re
import types
from pathlib import Path

import pytest
import torch

from inrflow_core import registry
from inrflow_core.numerics import solver
from inrflow_core.numerics.paths import PATHS
from inrflow_core.samplers._contract import Sampler
from inrflow_core.samplers._fixed_steps import Tableau, runge_kutta_step
from tests import contracts
from tests.samplers.known import EVEN, GAUSSIAN, MIXTURE, normals

ROOT = Path(__file__).resolve().parent.parent.parent
SAMPLERS = [registry.find("samplers", name) for name in registry.names("samplers")]
DETERMINISTIC = [sampler for sampler in SAMPLERS if not sampler.IS_STOCHASTIC]
GRIDDED = [sampler for sampler in SAMPLERS if not sampler.IS_ADAPTIVE]
SPACED = [sampler for sampler in GRIDDED if "spacing" in sampler.Config.__dataclass_fields__]
SPACINGS = ["equal", "log"]
STEPS = {1: 400, 2: 60, 3: 40, 4: 30, 5: 30}
"""Steps with which a method of an order is accurate to about 1 %."""
FINE = {1: 256, 2: 256, 3: 128, 4: 64, 5: 32}
"""Steps with which the leading term of its error is what is left, above rounding in float64."""


def name(sampler) -> str:
    """The sampler's name in a test's name."""
    return sampler.__name__.rpartition(".")[2]


def a_config(sampler):
    """Settings that make the sampler accurate to about 1 %."""
    if sampler.IS_ADAPTIVE:
        return sampler.Config()
    return sampler.Config(steps=STEPS[sampler.ORDER])


def a_step(sampler, velocity, y, t, t_next, *, path):
    """One step of a sampler by itself."""
    own = {"path": path} if sampler.USES_PATH else {}
    if sampler.IS_STOCHASTIC:
        own |= {"config": sampler.Config(), "noise": torch.ones_like(y)}
    return sampler.step(velocity, y, t, t_next, **own)


@pytest.mark.parametrize("sampler", DETERMINISTIC, ids=name)
def test_the_error_falls_with_the_order_that_the_sampler_claims(sampler):
    order = measured_order(sampler)
    assert abs(order - sampler.ORDER) < 0.2, order


@pytest.mark.parametrize(
    ("order", "tableau"),
    [
        (2, Tableau(nodes=(0.0, 2 / 3), stages=((), (2 / 3,)), weights=(1 / 4, 3 / 4))),  # Ralston's
        (3, Tableau(nodes=(0.0, 0.5, 1.0), stages=((), (0.5,), (-1.0, 2.0)), weights=(1 / 6, 2 / 3, 1 / 6))),  # Kutta's
    ],
)
def test_the_order_of_other_methods_is_measured_rightly(order, tableau):
    step = runge_kutta_step(tableau)
    sampler = types.SimpleNamespace(ORDER=order, USES_PATH=False, IS_STOCHASTIC=False, step=step)
    assert abs(measured_order(sampler) - order) < 0.2


def test_the_sampler_of_the_documentation_has_the_order_that_it_says():
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs/adding-a-sampler.md").read_text(), re.DOTALL)
    sampler = types.ModuleType("rk4")
    exec(compile(code, "rk4.py", "exec"), sampler.__dict__)
    contracts.check(sampler, Sampler)
    assert abs(measured_order(sampler) - 4) < 0.2
    path, start = EVEN["linear"], normals(2, 500, 3)
    y = solver.integrate(sampler, a_config(sampler), GAUSSIAN.velocity(path), start, path=path)
    torch.testing.assert_close(y, start / 2, rtol=0.012, atol=0)


def measured_order(sampler) -> float:
    """The power of the step with which the error of a sampler falls, on dy/dt = cos(2t + 1) sin y, of which
    log tan(y / 2) = sin(2t + 1) / 2 + constant."""
    start = torch.linspace(-1, 1, 40, dtype=torch.float64).view(1, 40, 1)
    exact = 2 * torch.atan(torch.tan(start / 2) * math.exp((math.sin(1) - math.sin(3)) / 2))
    errors = []
    for steps in (FINE[sampler.ORDER], 2 * FINE[sampler.ORDER]):
        y, times = start, torch.linspace(1, 0, steps + 1, dtype=torch.float64)
        for t, t_next in zip(times[:-1, None], times[1:, None], strict=True):
            speed = lambda y, t: torch.cos(2 * t + 1) * torch.sin(y)  # noqa: E731
            y = a_step(sampler, speed, y, t, t_next, path=PATHS["linear"])
        errors.append(float((y - exact).square().mean().sqrt()))
    return math.log2(errors[0] / errors[1])


@pytest.mark.parametrize("sampler", [s for s in SPACED if s in DETERMINISTIC], ids=name)
def test_steps_that_shrink_keep_the_order(sampler):
    """The equation of `measured_order` on the sampler's own grid."""
    start = torch.linspace(-1, 1, 40, dtype=torch.float64).view(1, 40, 1)
    exact = 2 * torch.atan(torch.tan(start / 2) * math.exp((math.sin(1) - math.sin(3)) / 2))
    speed = lambda y, t: torch.cos(2 * t + 1).view(-1, 1, 1) * torch.sin(y)  # noqa: E731
    errors = []
    for steps in (FINE[sampler.ORDER], 2 * FINE[sampler.ORDER]):
        config = sampler.Config(steps=steps, spacing="log")
        y = solver.integrate(sampler, config, speed, start, path=PATHS["linear"])
        errors.append(float((y - exact).square().mean().sqrt()))
    assert abs(math.log2(errors[0] / errors[1]) - sampler.ORDER) < 0.2, errors


@pytest.mark.parametrize("path", EVEN.values(), ids=EVEN)
@pytest.mark.parametrize("sampler", DETERMINISTIC, ids=name)
def test_the_ode_reaches_the_gaussians_deviation_and_keeps_every_rank(sampler, path):
    start = normals(2, 500, 3)
    y = solver.integrate(sampler, a_config(sampler), GAUSSIAN.velocity(path), start, path=path)
    torch.testing.assert_close(y, start / 2, rtol=0.012, atol=0)


@pytest.mark.parametrize("path", EVEN.values(), ids=EVEN)
@pytest.mark.parametrize("sampler", DETERMINISTIC, ids=name)
def test_the_ode_reaches_the_mixtures_weights_means_and_deviations(sampler, path):
    """20,000 numbers: a weight's standard error is 0.0032, a mean's 0.003, a deviation's 0.002."""
    y = solver.integrate(sampler, a_config(sampler), MIXTURE.velocity(path), normals(2, 10_000, 1), path=path)
    weights, means, deviations = MIXTURE.measured(y)
    torch.testing.assert_close(weights, torch.tensor(MIXTURE.weights), rtol=0, atol=0.012)
    torch.testing.assert_close(means, torch.tensor(MIXTURE.means), rtol=0, atol=0.012)
    torch.testing.assert_close(deviations, torch.tensor(MIXTURE.deviations), rtol=0, atol=0.01)


@pytest.mark.parametrize(
    ("sampler", "settings"),
    [
        *(("ddim", {"steps": 1000}), ("dopri5", {}), ("heun", {"steps": 60, "spacing": "log"})),
        ("euler", {"steps": 400, "spacing": "log"}),
    ],
)
def test_every_kind_of_solver_reaches_gaussian_data_on_the_papers_schedule(sampler, settings):
    module, path, start = registry.find("samplers", sampler), PATHS["scaled-linear"], normals(2, 500, 3)
    y = solver.integrate(module, module.Config(**settings), GAUSSIAN.velocity(path), start, path=path)
    torch.testing.assert_close(y, start / 2, rtol=0.03, atol=0)


@pytest.mark.parametrize("sampler", SAMPLERS, ids=name)
def test_values_stay_float32_and_times_float64(sampler):
    seen = set()

    def velocity(y, t):
        seen.add((y.dtype, t.dtype))
        return -y

    config = a_config(sampler)
    walk = solver.iter_steps(
        sampler, config, velocity, normals(2, 3, 1), path=PATHS["linear"], noise=lambda _: normals(2, 3, 1)
    )
    for step, y in walk:
        assert (y.dtype, step.t.dtype, step.t_next.dtype) == (torch.float32, torch.float64, torch.float64)
    assert seen == {(torch.float32, torch.float64)}


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
@pytest.mark.parametrize("sampler", SAMPLERS, ids=name)
@pytest.mark.parametrize("time", [0.0, 0.3, 1.0])
def test_a_step_of_no_length_returns_the_values_as_they_are(sampler, path, time):
    y, t = normals(2, 4, 3), torch.full((2,), time, dtype=torch.float64)
    assert torch.equal(a_step(sampler, MIXTURE.velocity(path), y, t, t, path=path), y)


@pytest.mark.parametrize("sampler", SAMPLERS, ids=name)
def test_a_resting_set_keeps_its_values_even_where_the_velocity_is_not_a_number(sampler):
    y, t = normals(2, 4, 3), torch.tensor([0.5, 0.5], dtype=torch.float64)
    step = solver.Step(0, t, torch.tensor([0.5, 0.4], dtype=torch.float64))
    bad = torch.tensor([torch.nan, 1.0]).view(2, 1, 1)
    moved = solver.replay_step(
        sampler, sampler.Config(), lambda y, t: bad * y, y, step, path=PATHS["linear"], noise=lambda _: y
    )
    assert torch.equal(moved[0], y[0])
    assert moved[1].isfinite().all()
    assert not torch.equal(moved[1], y[1])


@pytest.mark.parametrize("sampler", SPACED, ids=name)
@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("steps", [1, 2, 100])
def test_the_grid_falls_from_1_to_0_exactly(sampler, steps, spacing):
    grid = sampler.time_grid(sampler.Config(steps=steps, spacing=spacing))
    assert grid.dtype == torch.float64
    assert (grid[0], grid[-1]) == (1, 0)
    assert (grid.diff() < 0).all()


@pytest.mark.parametrize("sampler", SPACED, ids=name)
@pytest.mark.parametrize("steps", [2, 100, 500])
def test_log_spaced_steps_shrink_by_one_factor_a_hundredfold_in_all(sampler, steps):
    lengths = -sampler.time_grid(sampler.Config(steps=steps, spacing="log")).diff()[:steps]
    torch.testing.assert_close(lengths[1:] / lengths[:-1], torch.full((steps - 1,), 100 ** (-1 / steps)).double())


def test_log_spacing_is_simplefolds_with_time_turned_round():
    """Their times t run from noise at 0 to data at 1: one minus powers of ten from 10^0 to 10^-2, stretched to [0, 1]."""
    theirs = 1 - torch.logspace(0, -2, 501, dtype=torch.float64)
    theirs = theirs / theirs.max()
    euler = registry.find("samplers", "euler")
    ours = euler.time_grid(euler.Config(steps=500, spacing="log"))
    torch.testing.assert_close(ours, 1 - theirs, rtol=0, atol=1e-14)


@pytest.mark.parametrize("sampler", SAMPLERS, ids=name)
def test_each_step_calls_the_velocity_as_often_as_the_sampler_says(sampler):
    calls = []

    def velocity(y, t):
        calls.append(t)
        return MIXTURE.velocity(PATHS["linear"])(y, t)

    y, config = normals(3, 5, 1), a_config(sampler)
    walk = solver.iter_steps(sampler, config, velocity, y, path=PATHS["linear"], noise=lambda _: torch.zeros_like(y))
    steps = [step for step, _ in walk]
    if sampler.IS_ADAPTIVE:
        assert len(steps) * sampler.NFE_PER_STEP <= len(calls) <= solver.num_function_evaluations(sampler, config)
    else:
        assert len(calls) == len(steps) * sampler.NFE_PER_STEP == solver.num_function_evaluations(sampler, config)
    calls.clear()
    solver.replay_step(
        sampler, config, velocity, y, steps[0], path=PATHS["linear"], noise=lambda _: torch.zeros_like(y)
    )
    assert len(calls) == sampler.NFE_PER_REPLAY


@pytest.mark.parametrize(
    ("sampler", "settings", "message"),
    [
        ("euler", {"steps": 0}, "`steps` is 0: at least 1"),
        ("heun", {"steps": -3}, "`steps` is -3: at least 1"),
        ("midpoint", {"steps": 0}, "`steps` is 0: at least 1"),
        ("euler_maruyama", {"steps": 0}, "`steps` is 0: at least 1"),
        ("euler_maruyama", {"scale": -1.0}, "`scale` is -1.0: 0 or more"),
        ("euler_maruyama", {"temperature": -0.1}, "`temperature` is -0.1: 0 or more, 1 keeps the marginals"),
        ("euler_maruyama", {"temperature": math.inf}, "`temperature` is inf: 0 or more, 1 keeps the marginals"),
        ("euler_maruyama", {"last_step": 1.0}, "`last_step` is 1.0: above 0 and below 1"),
        ("euler_maruyama", {"last_step": 0.0}, "`last_step` is 0.0: above 0 and below 1"),
        ("ddim", {"steps": 0}, "`steps` is 0: from 1 to 1000"),
        ("ddim", {"steps": 1001}, "`steps` is 1001: from 1 to 1000"),
        ("ddpm", {"steps": 2000}, "`steps` is 2000: from 1 to 1000"),
        ("dopri5", {"max_nfe": 6}, "`max_nfe` is 6: at least 7, one step"),
        ("dopri5", {"rtol": -1.0}, "`rtol` is -1.0 and `atol` is 0.001: 0 or more each, and one of them above 0"),
        ("dopri5", {"rtol": 0.0, "atol": 0.0}, "`rtol` is 0.0 and `atol` is 0.0: 0 or more each"),
        ("dopri5", {"first_step": 0.0}, "`first_step` is 0.0: above 0, at most 1"),
    ],
)
def test_an_impossible_setting_is_refused_with_what_is_allowed(sampler, settings, message):
    with pytest.raises(ValueError, match=message):
        importlib.import_module(f"inrflow_core.samplers.{sampler}").Config(**settings)
