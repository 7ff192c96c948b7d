"""The loop around every sampler: integrate states along a velocity.

`iter_steps` takes the context of a sample and chooses the steps. `replay_step` takes other queries through the same steps,
with velocities decoded from the context's evaluations.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from types import ModuleType
from typing import Any

import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor

from inrflow_core.numerics.paths import Path

Velocity = Callable[[Tensor, Tensor], Tensor]
"""(y, t Float64[B]) to dy/dt."""
BrownianIncrements = Callable[[int], Tensor]
"""Standard normals of the step with an index."""


@dataclass(frozen=True)
class Step:
    """One step of a batch. A sample that does not move in it has `t_next == t`."""

    index: int
    t: Float64[Tensor, " B"]
    t_next: Float64[Tensor, " B"]


def iter_steps(
    sampler: ModuleType,
    config: Any,
    velocity: Velocity,
    y: Float[Tensor, "B N C"],
    *,
    path: Path,
    noise: BrownianIncrements | None = None,
    real: Bool[Tensor, "B N"] | None = None,
) -> Iterator[tuple[Step, Float[Tensor, "B N C"]]]:
    """Each step in which some sample moved, and the states after it.

    The last `NFE_PER_STEP` calls of `velocity` before a step is yielded are that step's; `replay_step` repeats the first
    `NFE_PER_REPLAY` of them. An adaptive sampler may have called it before for trial steps that no sample accepted.

    Args:
        noise: what a stochastic sampler needs.
        real: which pairs an adaptive sampler's error is of; all without it.
    """
    grid = sampler.time_grid(config)
    if sampler.IS_ADAPTIVE:
        trial = functools.partial(sampler.trial_step, config=config, real=real)
        yield from _walk_adaptively(sampler, config, trial, velocity, y, (float(grid[0]), float(grid[-1])))
        return
    yield from _walk_along(grid, sampler, config, velocity, y, path=path, noise=noise)


def replay_step(
    sampler: ModuleType,
    config: Any,
    velocity: Velocity,
    y: Float[Tensor, "B M C"],
    step: Step,
    *,
    path: Path,
    noise: BrownianIncrements | None = None,
) -> Float[Tensor, "B M C"]:
    """The states after one step; those of a sample that does not move are returned as they are.

    Calls `velocity` `NFE_PER_REPLAY` times.
    """
    own: dict[str, Any] = {"path": path} if sampler.USES_PATH else {}
    if sampler.IS_STOCHASTIC:
        assert noise is not None
        own |= {"config": config, "noise": noise(step.index)}
    moved = sampler.step(velocity, y, step.t, step.t_next, **own)
    return torch.where((step.t != step.t_next).view(-1, 1, 1), moved, y)


def integrate(
    sampler: ModuleType,
    config: Any,
    velocity: Velocity,
    y: Float[Tensor, "B N C"],
    *,
    path: Path,
    noise: BrownianIncrements | None = None,
    times: Float64[Tensor, " T"] | None = None,
) -> Float[Tensor, "B N C"]:
    """The states after the last step.

    Args:
        times: replace the sampler's own grid, and may ascend, from data to noise; an adaptive sampler integrates from
            the first to the last.
    """
    state = y
    if times is None:
        steps = iter_steps(sampler, config, velocity, y, path=path, noise=noise)
    elif sampler.IS_ADAPTIVE:
        trial = functools.partial(sampler.trial_step, config=config, real=None)
        steps = _walk_adaptively(sampler, config, trial, velocity, y, (float(times[0]), float(times[-1])))
    else:
        steps = _walk_along(times, sampler, config, velocity, y, path=path, noise=noise)
    for _, moved in steps:
        state = moved
    return state


def num_function_evaluations(sampler: ModuleType, config: Any) -> int:
    """Velocity calls of a whole sample (NFE); of an adaptive sampler the maximum."""
    if sampler.IS_ADAPTIVE:
        return config.max_nfe // sampler.NFE_PER_STEP * sampler.NFE_PER_STEP
    return sampler.NFE_PER_STEP * (len(sampler.time_grid(config)) - 1)


def evaluation_times(sampler: ModuleType, config: Any, path: Path) -> list[float]:
    """The times at which a solver with a fixed time grid calls the velocity of a sample, in their order."""
    times: list[float] = []

    def velocity(y: Tensor, t: Tensor) -> Tensor:
        times.append(float(t[0]))
        return torch.zeros_like(y)

    state = torch.zeros(1, 1, 1)
    integrate(sampler, config, velocity, state, path=path, noise=lambda index: torch.zeros_like(state))
    return times


def _walk_along(
    grid: Float64[Tensor, " T"],
    sampler: ModuleType,
    config: Any,
    velocity: Velocity,
    y: Float[Tensor, "B N C"],
    *,
    path: Path,
    noise: BrownianIncrements | None,
) -> Iterator[tuple[Step, Float[Tensor, "B N C"]]]:
    """The steps from each time of a grid to the next."""
    for index, (t, t_next) in enumerate(pairwise(grid.tolist())):
        ends = [torch.full((len(y),), end, dtype=torch.float64, device=y.device) for end in (t, t_next)]
        step = Step(index, *ends)
        y = replay_step(sampler, config, velocity, y, step, path=path, noise=noise)
        yield step, y


def _walk_adaptively(
    sampler: ModuleType,
    config: Any,
    trial: Callable[..., tuple[Tensor, Tensor]],
    velocity: Velocity,
    y: Float[Tensor, "B N C"],
    ends: tuple[float, float],
) -> Iterator[tuple[Step, Float[Tensor, "B N C"]]]:
    """Steps from one end to the other whose size each sample chooses by its own error.

    The trial steps that `max_nfe` leaves always suffice: no step is smaller than an equal share of the remaining time, and a
    step of that size is accepted whatever its error.
    """
    start, end = ends
    t = torch.full((len(y),), start, dtype=torch.float64, device=y.device)
    size = torch.full_like(t, config.first_step)
    index = 0
    for left in range(config.max_nfe // sampler.NFE_PER_STEP, 0, -1):
        way = (end - t).abs()
        if not bool((way > 0).any()):
            return
        least = way / left
        size = torch.maximum(torch.minimum(size, way), least)
        t_next = torch.where(size >= way, end, t + math.copysign(1, end - start) * size)
        moved, error = trial(velocity, y, t, t_next)
        accepted = ((error <= 1) | (size <= least)) & (way > 0)
        step = Step(index, t, torch.where(accepted, t_next, t))
        size = size * sampler.step_size_factor(error)
        if bool(accepted.any()):
            y = torch.where(accepted.view(-1, 1, 1), moved, y)
            yield step, y
            t, index = step.t_next, index + 1
