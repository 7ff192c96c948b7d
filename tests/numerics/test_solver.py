"""The loop around the samplers: other pairs that replay a walk go where the walk went."""

from __future__ import annotations

import pytest
import torch

from inrflow_core import registry
from inrflow_core.numerics import solver
from inrflow_core.numerics.paths import PATHS
from inrflow_core.samplers import _fixed_steps, euler, heun
from tests.samplers.known import GAUSSIAN, normals

LINEAR = PATHS["linear"]
CASES = {
    "euler": {"steps": 13},
    "heun": {"steps": 9},
    "midpoint": {"steps": 9},
    "euler-maruyama": {"steps": 25},
    "ddim": {"steps": 12},
    "ddpm": {"steps": 25},
    "dopri5": {"rtol": 1e-5, "atol": 1e-5, "max_nfe": 1400},
}
RATES = torch.tensor([0.1, 3.0, 15.0])


def tokens_of(y: torch.Tensor, t: torch.Tensor, rates: torch.Tensor = RATES) -> torch.Tensor:
    """One number a set: the context's, with a bend in time that makes step control reject."""
    bend = torch.tanh(40 * (t - 0.6)).to(y.dtype)[:, None, None]
    return rates[:, None, None] * bend * (1 + torch.sin(y).square().mean(1, keepdim=True))


class Network:
    """A velocity of the kind that we have: latents from the context, then each pair by itself."""

    def __init__(self) -> None:
        self.latents: list[tuple[torch.Tensor, torch.Tensor]] = []

    def of_context(self, y: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """Encode the context, remember the latents, answer the context."""
        self.latents.append((t, tokens_of(y, t)))
        return self.of_queries(y, t, self.latents[-1])

    @staticmethod
    def of_queries(y, t, latents, moving=True) -> torch.Tensor:
        """Answer pairs from what an evaluation left; for sets that move the time must be that of then."""
        seen, tokens = latents
        assert ((seen == t) | ~torch.as_tensor(moving)).all()
        return tokens * torch.sin(3 * y + 1)


def noise_of(part: slice):
    """Increments that depend on the pair and the step alone."""
    return lambda index: normals(3, 40, 2, seed=100 + index)[:, part]


def recorded(sampler, config, y):
    """The steps of a walk, the values after each, and the evaluations that each left."""
    network, out = Network(), []
    for step, state in solver.iter_steps(
        sampler, config, network.of_context, y, path=LINEAR, noise=noise_of(slice(None))
    ):
        out.append((step, state, network.latents[-sampler.NFE_PER_STEP :][: sampler.NFE_PER_REPLAY]))
        network.latents.clear()
    return out


@pytest.mark.parametrize("name", registry.names("samplers"))
def test_pairs_that_replay_a_walk_go_where_it_went_to_the_bit(name):
    sampler = registry.find("samplers", name)
    config, start = sampler.Config(**CASES[name]), normals(3, 40, 2)
    walk = recorded(sampler, config, start)
    if sampler.IS_ADAPTIVE:
        rests = torch.stack([(step.t == step.t_next) & (step.t > 0) for step, *_ in walk])
        assert rests.any(), "no step of the walk was rejected for one set and accepted for another"
    for part in (slice(None), slice(3, 17), slice(39, 40)):
        y = start[:, part]
        for step, state, evaluations in walk:
            replayed, moving = iter(evaluations), step.t != step.t_next
            y = solver.replay_step(
                sampler,
                config,
                lambda y, t, replayed=replayed, moving=moving: Network.of_queries(y, t, next(replayed), moving),
                y,
                step,
                path=LINEAR,
                noise=noise_of(part),
            )
            assert next(replayed, None) is None, "an evaluation was not asked for"
            torch.testing.assert_close(y, state[:, part], rtol=0, atol=0)


@pytest.mark.parametrize("name", registry.names("samplers"))
def test_a_walk_of_one_set_is_its_walk_in_a_batch(name):
    sampler = registry.find("samplers", name)
    config, start = sampler.Config(**CASES[name]), normals(3, 40, 2)
    together = recorded(sampler, config, start)[-1][1]
    for row in range(3):

        def velocity(y, t, row=row):
            return tokens_of(y, t, RATES[row : row + 1]) * torch.sin(3 * y + 1)

        alone = solver.integrate(
            sampler,
            config,
            velocity,
            start[row : row + 1],
            path=LINEAR,
            noise=lambda index, row=row: normals(3, 40, 2, seed=100 + index)[row : row + 1],
        )
        torch.testing.assert_close(alone[0], together[row], rtol=0, atol=1e-5)


def test_steps_cover_time_once_in_order():
    steps = [step for step, *_ in recorded(euler, _fixed_steps.Config(steps=7), normals(3, 40, 2))]
    assert [step.index for step in steps] == list(range(7))
    torch.testing.assert_close(sum(step.t - step.t_next for step in steps), torch.ones(3, dtype=torch.float64))


def test_going_up_to_noise_and_down_again_returns_the_data():
    data = 0.5 * normals(2, 30, 3)
    up = torch.linspace(0, 1, 41, dtype=torch.float64)
    config, velocity = _fixed_steps.Config(steps=40), GAUSSIAN.velocity(LINEAR)
    noise = solver.integrate(heun, config, velocity, data, path=LINEAR, times=up)
    torch.testing.assert_close(noise, 2 * data, rtol=2e-3, atol=0)
    torch.testing.assert_close(solver.integrate(heun, config, velocity, noise, path=LINEAR), data, rtol=2e-3, atol=0)


@pytest.mark.parametrize(
    ("name", "settings", "expected"),
    [
        ("euler", {"steps": 100}, 100),
        ("heun", {"steps": 50}, 100),
        ("midpoint", {"steps": 3}, 6),
        ("euler-maruyama", {"steps": 500}, 501),
        ("dopri5", {"max_nfe": 100}, 98),
    ],
)
def test_the_number_of_evaluations_is_known_before(name, settings, expected):
    sampler = registry.find("samplers", name)
    assert solver.num_function_evaluations(sampler, sampler.Config(**settings)) == expected
