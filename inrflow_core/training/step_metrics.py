"""What a run counts where it computes, so that no step waits for the device to be counted."""

from __future__ import annotations

import math
import time
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


class StepMeter:
    """Loss, sets and time since the last line."""

    def __init__(self, batches: Stream) -> None:
        self._batches = batches
        self._begin()

    def count(self, loss: Float[Tensor, ""], norm: Float[Tensor, ""], samples: int) -> None:
        """One step more; loss and norm stay on their device until somebody asks."""
        self._loss = self._loss + loss
        self._norm = norm
        self._steps += 1
        self._samples += samples

    def take(self) -> tuple[float, float, int, float, float]:
        """Mean loss, last norm, sets, seconds, and how many of these were spent waiting for data; and begin anew."""
        loss, norm = float(self._loss) / self._steps, float(self._norm)
        seconds, waited = time.perf_counter() - self._start, self._batches.waited - self._waited
        taken = loss, norm, self._samples, seconds, waited
        self._begin()
        return taken

    def _begin(self) -> None:
        self._loss: Any = 0.0
        self._steps = self._samples = 0
        self._norm: Any = math.nan
        self._waited = self._batches.waited
        self._start = time.perf_counter()
