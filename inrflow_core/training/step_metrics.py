"""What a run counts where it computes, so that no step waits for the device to be counted."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from inrflow_core.training.loader import Stream

LOOK_EVERY = 32
"""Steps after which skipped ones are looked at, at the latest: so late may a run that diverged be stopped."""


class SkippedSteps(NamedTuple):
    """Steps without a finite gradient."""

    total: int
    in_a_row: int
    """The last steps up to now."""
    longest: int
    """The longest row so far."""
    longest_end: int
    """The last step of that row."""


class SkippedStepCounter:
    """Counts skipped steps on the device."""

    def __init__(self, device: torch.device, *, total: int, in_a_row: int, step: int) -> None:
        self._numbers = torch.tensor([total, in_a_row, in_a_row, step], dtype=torch.int64, device=device)

    def count(self, is_finite: Bool[Tensor, ""], step: int) -> None:
        """Step number `step`, counted from 1, was skipped or not."""
        total, row, longest, end = self._numbers.unbind()
        row = torch.where(is_finite, 0, row + 1)
        is_longest = ~is_finite & (row >= longest)
        end = torch.where(is_longest, step, end)
        self._numbers = torch.stack([total + ~is_finite, row, torch.where(is_longest, row, longest), end])

    def read(self) -> SkippedSteps:
        """The counts up to now; waits for the device."""
        return SkippedSteps(*self._numbers.tolist())


class OptimizerStep(NamedTuple):
    """What one optimizer did in a step; both numbers stay on their device until a line is written."""

    loss: Float[Tensor, ""]
    norm: Float[Tensor, ""]
    """Of the gradient before clipping."""


class StepMeans(NamedTuple):
    """What happened since the last line."""

    losses: dict[str, float]
    """Their means, by optimizer."""
    norms: dict[str, float]
    """The last ones, by optimizer."""
    samples: int
    seconds: float
    waited: float
    """Seconds of these that were spent waiting for data."""


class StepMeter:
    """Loss, sets and time since the last line."""

    def __init__(self, batches: Stream) -> None:
        self._batches = batches
        self._begin()

    def count(self, results: Mapping[str, OptimizerStep], samples: int) -> None:
        """One step more, of each optimizer."""
        for name, result in results.items():
            self._losses[name] = self._losses.get(name, 0.0) + result.loss
            self._norms[name] = result.norm
        self._steps += 1
        self._samples += samples

    def take(self) -> StepMeans:
        """The means up to now, and begin anew; waits for the device."""
        losses = {name: float(loss) / self._steps for name, loss in self._losses.items()}
        norms = {name: float(norm) for name, norm in self._norms.items()}
        seconds, waited = time.perf_counter() - self._start, self._batches.seconds_blocked - self._waited
        taken = StepMeans(losses, norms, self._samples, seconds, waited)
        self._begin()
        return taken

    def _begin(self) -> None:
        self._losses: dict[str, Any] = {}
        self._norms: dict[str, Tensor] = {}
        self._steps = self._samples = 0
        self._waited = self._batches.seconds_blocked
        self._start = time.perf_counter()
