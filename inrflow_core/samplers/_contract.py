"""The contract of a sampler's file: one step of a solver, its settings, and its properties for the loop around it.

`numerics/solver.py` is that loop. The settings are a frozen dataclass `Config`; those with a field `steps` take `--steps`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Float64
from torch import Tensor


@runtime_checkable
class Sampler(Protocol):
    """A sampler's module."""

    ORDER: int
    """The error of a deterministic sampler falls with this power of the step; for stochastic ones the weak order."""
    NFE_PER_STEP: int
    """Velocity calls of a step of the context."""
    NFE_PER_REPLAY: int
    """The first of these calls, which other queries repeat when they replay the context's steps."""
    IS_STOCHASTIC: bool
    """Whether `step` takes `path`, `config` and `noise` (standard normals like y) as keywords."""
    USES_PATH: bool
    """Whether `step` takes `path` as a keyword; stochastic samplers do."""
    IS_ADAPTIVE: bool
    """Whether it chooses its own steps; it is then an `AdaptiveSampler`."""
    Config: Any
    step: Callable[..., Tensor]
    """`step(velocity, y, t, t_next)`: y (B, N, C) at times t_next (B,) from y at t; `velocity(y, t)` is dy/dt."""

    def time_grid(self, config: Any) -> Float64[Tensor, " T"]:
        """Times of the steps' ends from 1 (noise) to 0 (data); of an adaptive sampler the two ends."""
        ...


@runtime_checkable
class AdaptiveSampler(Sampler, Protocol):
    """A sampler whose steps follow each sample's own error; its settings have `max_nfe` and `first_step`."""

    trial_step: Callable[..., tuple[Tensor, Tensor]]
    """`trial_step(velocity, y, t, t_next, config, real)`: y at t_next, and the error (B,) in units of what is allowed."""

    def step_size_factor(self, error: Float64[Tensor, " B"]) -> Float64[Tensor, " B"]:
        """The ratio of the next step's size to this one's."""
        ...
