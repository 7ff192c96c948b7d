"""Exponential moving averages of the weights, in fp32; samples use them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from inrflow_core.config.training import ema_decay


class EMA:
    """average = decay * average + (1 - decay) * weight, after every applied step; it begins as the weights.

    The papers' decay is 0.999, without a warm-up; with one, the decay rises to it (`ema_decay`). `weights` are the tensors that the optimizer changes in place: whole
    parameters, or this process's partition of them under ZeRO stage 3, where the average is partitioned in the same way.
    """

    def __init__(self, decay: float, weights: Sequence[Tensor], warmup: int | None = None) -> None:
        self.decay, self.warmup = decay, warmup
        self.weights = list(weights)
        self.values = [weight.detach().clone() for weight in self.weights]

    @torch.no_grad()
    def update(self, is_applied: Bool[Tensor, ""] | None = None, step: int = 0) -> None:
        """Move the average towards the current weights, unless `is_applied` says that the step was skipped.

        `step` counts the updates of the stage from 0; a warm-up depends on it. `is_applied` is on the device. It multiplies the rate, so that no device synchronization is needed.
        """
        if not self.values:
            return
        weights = [weight.detach() for weight in self.weights]
        share: Any = 1 - ema_decay(self.decay, step, self.warmup)
        if is_applied is not None:
            share = [is_applied.to(self.values[0].dtype) * share] * len(weights)
        torch._foreach_lerp_(self.values, weights, share)  # pyright: ignore[reportPrivateImportUsage]

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Inside the block, the weights hold the average. Both exchange their storage, which takes no memory."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    def _exchange(self) -> None:
        for weight, value in zip(self.weights, self.values, strict=True):
            weight.data, value.data = value.data, weight.data
