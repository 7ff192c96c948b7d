"""Carrying states along a velocity: the one loop around every sampler.

The context of a sample walks: it decides the steps. Other pairs advance: they take the same steps afterwards, each
with the velocity that the context's evaluations left for them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from types import ModuleType
from typing import Any

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from inrflow_core.paths import Path

Velocity = Callable[[Tensor, Tensor], Tensor]
"""(y, t Float64[B]) to dy/dt."""
Increments = Callable[[int], Tensor]
"""Standard normals of a step, for the pairs that take it."""


@dataclass(frozen=True)
class Step:
    """One step of a batch. A sample that rests in it has `t_next == t`."""

    index: int
    t: Float64[Tensor, " B"]
    t_next: Float64[Tensor, " B"]


def walk(
    sampler: ModuleType,
    config: Any,
    velocity: Velocity,
    y: Float[Tensor, "B N C"],
    *,
    path: Path,
    noise: Increments | None = None,
    times: Float64[Tensor, " T"] | None = None,
) -> Iterator[tuple[Step, Float[Tensor, "B N C"]]]:
    """Each step in which some sample moved, and the states after it.

    `times` replaces the sampler's own grid; it may ascend, from data to noise.
    """
    if sampler.IS_ADAPTIVE:
        yield from _walk_adaptively(sampler, config, velocity, y)
        return
    grid = sampler.grid(config) if times is None else times
    for index, (t, t_next) in enumerate(pairwise(grid.tolist())):
        ends = [torch.full((len(y),), end, dtype=torch.float64, device=y.device) for end in (t, t_next)]
        step = Step(index, *ends)
        y = advance(sampler, config, velocity, y, step, path=path, noise=noise)
        yield step, y


def advance(
    sampler: ModuleType,
    config: Any,
    velocity: Velocity,
    y: Float[Tensor, "B M C"],
    step: Step,
    *,
    path: Path,
    noise: Increments | None = None,
) -> Float[Tensor, "B M C"]:
    """The states after one step; those of a resting sample are returned as they are.

    Calls `velocity` as often as the sampler's `REPLAYED` says.
    """
    if sampler.IS_STOCHASTIC:
        assert noise is not None
        moved = sampler.step(velocity, y, step.t, step.t_next, path=path, config=config, noise=noise(step.index))
    else:
        moved = sampler.step(velocity, y, step.t, step.t_next)
    return torch.where((step.t != step.t_next).view(-1, 1, 1), moved, y)


def integrate(
    sampler: ModuleType,
    config: Any,
    velocity: Velocity,
    y: Float[Tensor, "B N C"],
    *,
    path: Path,
    noise: Increments | None = None,
    times: Float64[Tensor, " T"] | None = None,
) -> Float[Tensor, "B N C"]:
    """The states at the end of the walk."""
    for _, y in walk(sampler, config, velocity, y, path=path, noise=noise, times=times):
        pass
    return y


def evaluations(sampler: ModuleType, config: Any) -> int:
    """Velocity calls of a whole walk (NFE); for adaptive samplers the most that they may take."""
    if sampler.IS_ADAPTIVE:
        return config.max_nfe
    return sampler.EVALUATIONS * (len(sampler.grid(config)) - 1)


def _walk_adaptively(
    sampler: ModuleType, config: Any, velocity: Velocity, y: Float[Tensor, "B N C"]
) -> Iterator[tuple[Step, Float[Tensor, "B N C"]]]:
    """Steps from 1 to 0 whose size each sample chooses by its own error.

    The attempts that `max_nfe` leaves always suffice: no step is smaller than an equal share of the way that is left,
    and one of that size is taken whatever its error.
    """
    t = torch.ones(len(y), dtype=torch.float64, device=y.device)
    size = torch.full_like(t, config.first_step)
    left = config.max_nfe // sampler.EVALUATIONS
    index = 0
    while bool((t > 0).any()):
        least = t / left
        size = torch.maximum(torch.minimum(size, t), least)
        t_next = torch.where(size >= t, torch.zeros_like(t), t - size)
        moved, error = sampler.attempt(velocity, y, t, t_next, config)
        accepted = ((error <= 1) | (size <= least * (1 + 1e-9))) & (t > 0)
        step = Step(index, t, torch.where(accepted, t_next, t))
        y = torch.where(accepted.view(-1, 1, 1), moved, y)
        t, left, index = step.t_next, left - 1, index + 1
        size = size * sampler.factor(error)
        if bool(accepted.any()):
            yield step, y
