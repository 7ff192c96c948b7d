"""The gradient's norm, its clipping and the skip of a step that is not finite, decided where the gradient lies.

Nothing here waits for the device: what AdamW's fused kernel reads (`found_inf`) stays a tensor, and so does the norm. It
is called just before AdamW moves the weights, in ZeRO stages 0 to 2 alike: at 0 each process holds the whole gradient,
at 1 and 2 its part of it, whose squares are then added up over the processes.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

RUN = 1 << 22
"""Numbers whose squares are added up in one go: the norm of a flat gradient of 10^9 numbers keeps its digits."""


class Clipping:
    """Hangs before the steps of a fused AdamW, shortens gradients to a norm and stops those that are not finite."""

    def __init__(self, adam: torch.optim.Optimizer, clip: float | None, *, is_shared: bool) -> None:
        self.clip, self.is_shared = clip, is_shared
        self.norm: Float[Tensor, ""] = torch.zeros(())
        """Of the last gradient before clipping; inf where it was not finite."""
        adam.register_step_pre_hook(self._decide)

    @torch.no_grad()
    def _decide(self, adam: Any, *_: Any) -> None:
        gradients = [p.grad for group in adam.param_groups for p in group["params"] if p.grad is not None]
        norm = total_norm(gradients)
        if self.is_shared:
            square = norm.square()
            torch.distributed.all_reduce(square)
            norm = square.sqrt()
        is_finite = norm.isfinite()
        if self.clip is not None:
            factor = torch.clamp(self.clip / (norm + 1e-6), max=1.0)
            torch._foreach_mul_(gradients, factor)  # pyright: ignore[reportPrivateImportUsage]
        adam.found_inf = (~is_finite).float()
        self.norm = torch.where(is_finite, norm, torch.inf)


def total_norm(gradients: list[Tensor]) -> Float[Tensor, ""]:
    """The norm of all numbers of the gradients together."""
    if not gradients:
        return torch.zeros(())
    parts = [part for gradient in gradients for part in gradient.view(-1).split(RUN)]
    return torch.linalg.vector_norm(torch.stack(torch._foreach_norm(parts)))  # pyright: ignore[reportPrivateImportUsage]
