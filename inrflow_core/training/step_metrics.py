"""Counts and means of training steps, kept on the device: no step waits for it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from inrflow_core.training.loader import Stream

LOOK_EVERY = 32
"""Steps between two reads of the count of skipped steps, at most: a diverged run stops that late at the latest."""


class SkippedSteps(NamedTuple):
    """Steps without a finite gradient."""

    total: int
    in_a_row: int
    """Length of the current streak."""
    longest: int
    """Length of the longest streak."""
    longest_end: int
    """The last step of the longest streak."""


class SkippedStepCounter:
    """Counts skipped steps on the device."""

    def __init__(self, device: torch.device, *, total: int, in_a_row: int, step: int) -> None:
        self._numbers = torch.tensor([total, in_a_row, in_a_row, step], dtype=torch.int64, device=device)

    def count(self, is_finite: Bool[Tensor, ""], step: int) -> None:
        """Count step number `step`, from 1, as skipped unless `is_finite`."""
        total, row, longest, end = self._numbers.unbind()
        row = torch.where(is_finite, 0, row + 1)
        is_longest = ~is_finite & (row >= longest)
        end = torch.where(is_longest, step, end)
        self._numbers = torch.stack([total + ~is_finite, row, torch.where(is_longest, row, longest), end])

    def read(self) -> SkippedSteps:
        """The counts so far; waits for the device."""
        return SkippedSteps(*self._numbers.tolist())


class OptimizerStep(NamedTuple):
    """Loss and gradient norm of one optimizer in a step; they stay on the device until a log line is written."""

    loss: Float[Tensor, ""]
    norm: Float[Tensor, ""]
    """Of the gradient before clipping."""


class StepMeans(NamedTuple):
    """Means since the last line of the log."""

    losses: dict[str, float]
    """Mean losses, by optimizer."""
    norms: dict[str, float]
    """Gradient norms of the last step, by optimizer."""
    terms: dict[str, float]
    """Means of parts of the first optimizer's loss, by name."""
    samples: int
    seconds: float
    """Without pauses (`StepMeter.paused`)."""
    waited: float
    """Seconds of these spent waiting for data."""


class StepMeter:
    """Loss, sets and time since the last line of the log; evaluations, previews and checkpoints do not count to the time."""

    def __init__(self, batches: Stream, clock: Callable[[], float] = time.perf_counter) -> None:
        self._batches, self._clock = batches, clock
        self._begin()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Time inside the context is not that of steps."""
        start = self._clock()
        try:
            yield
        finally:
            self._pauses += self._clock() - start

    def peek(self) -> tuple[float, float]:
        """This process's mean loss and seconds of a step since the last line, which stay as they are; waits for the device."""
        loss = float(next(iter(self._losses.values()))) / self._steps
        return loss, self._seconds() / self._steps

    def _seconds(self) -> float:
        return self._clock() - self._start - self._pauses

    def count(self, results: Mapping[str, OptimizerStep], terms: Mapping[str, Tensor], samples: int) -> None:
        """Add a step of each optimizer, and the parts of the first one's loss."""
        for name, term in terms.items():
            self._terms[name] = self._terms.get(name, 0.0) + term
        for name, result in results.items():
            self._losses[name] = self._losses.get(name, 0.0) + result.loss
            self._norms[name] = result.norm
        self._steps += 1
        self._samples += samples

    def take(self) -> StepMeans:
        """The means since the last call; waits for the device."""
        losses = {name: float(loss) / self._steps for name, loss in self._losses.items()}
        terms = {name: float(term) / self._steps for name, term in self._terms.items()}
        norms = {name: float(norm) for name, norm in self._norms.items()}
        seconds, waited = self._seconds(), self._batches.seconds_blocked - self._waited
        means = StepMeans(losses, norms, terms, self._samples, seconds, waited)
        self._begin()
        return means

    def _begin(self) -> None:
        self._losses: dict[str, Any] = {}
        self._terms: dict[str, Any] = {}
        self._norms: dict[str, Tensor] = {}
        self._steps = self._samples = 0
        self._waited = self._batches.seconds_blocked
        self._start, self._pauses = self._clock(), 0.0
