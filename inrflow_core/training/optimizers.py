"""Optimizers by name, gradient clipping, and skipped steps: those whose gradient is not finite.

Nothing here waits for the device. `Clipping` runs just before an optimizer updates the weights, in ZeRO stages 0 to 2: at 0
each process has the whole gradient, at 1 and 2 its partition, whose squared norm is summed over the processes. Fused kernels
read `found_inf` and skip the step themselves; after other steps the earlier state is restored if the gradient was not finite.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from inrflow_core.config.training import Config

MOMENTS = ("exp_avg", "exp_avg_sq")
"""The state of each weight in each of these optimizers."""
RUN = 1 << 22
"""Numbers whose squares are summed at a time, so that the norm of a flat gradient of 10^9 numbers stays exact enough."""


def build(weights: Iterable[Tensor], settings: Config, device: torch.device) -> torch.optim.Optimizer:
    """torch's AdamW or Adam (fused), or RAdam, with the settings' rate, betas, epsilon and weight decay.

    RAdam: Liu et al. 2020, arXiv:1908.03265. Its weight decay, as Adam's, is added to the gradient.
    """
    options: dict[str, Any] = {
        "lr": settings.learning_rate,
        "betas": (settings.betas[0], settings.betas[1]),
        "eps": settings.epsilon,
        "weight_decay": settings.weight_decay,
    }
    if settings.optimizer == "radam":
        # On a GPU `capturable` counts steps there, without a synchronization.
        is_on_gpu = device.type == "cuda" and settings.offload_optimizer is None
        return torch.optim.RAdam(weights, **options, capturable=is_on_gpu)
    kind = torch.optim.AdamW if settings.optimizer == "adamw" else torch.optim.Adam
    return kind(weights, **options, fused=True)


class Clipping:
    """Clips gradients to a norm before each step of an optimizer, and skips the step if their norm is not finite."""

    def __init__(self, optimizer: torch.optim.Optimizer, clip: float | None, *, is_shared: bool) -> None:
        self.clip, self.is_shared = clip, is_shared
        self.norm: Float[Tensor, ""] = torch.zeros(())
        """Norm of the last gradient before clipping; inf if it was not finite."""
        self._before: list[tuple[Tensor, Tensor]] = []
        optimizer.register_step_pre_hook(self._decide)
        if not optimizer.defaults.get("fused"):
            optimizer.register_step_post_hook(self._undo)

    @torch.no_grad()
    def _decide(self, optimizer: Any, *_: Any) -> None:
        weights = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        gradients = [p.grad for p in weights]
        norm = total_norm(gradients)
        if self.is_shared:
            square = norm.square()
            torch.distributed.all_reduce(square)
            norm = square.sqrt()
        is_finite = norm.isfinite()
        if self.clip is not None:
            factor = torch.clamp(self.clip / (norm + 1e-6), max=1.0)
            torch._foreach_mul_(gradients, factor)  # pyright: ignore[reportPrivateImportUsage]
        optimizer.found_inf = (~is_finite).float()
        self.norm = torch.where(is_finite, norm, torch.inf)
        if not optimizer.defaults.get("fused"):
            self._before = [(tensor, tensor.clone()) for p in weights for tensor in (p, *_state(optimizer, p))]

    @torch.no_grad()
    def _undo(self, optimizer: Any, *_: Any) -> None:
        is_finite: Bool[Tensor, ""] = self.norm.isfinite()
        for now, before in self._before:
            now.copy_(torch.where(is_finite.to(now.device), now, before))
        self._before = []


def _state(optimizer: Any, weight: Tensor) -> list[Tensor]:
    """The moments of a weight and its count of steps; created before the first step, so that they can be restored."""
    state = optimizer.state[weight]
    if not state:
        state |= empty_state(weight, optimizer)
    return [state["step"], *(state[moment] for moment in MOMENTS)]


def empty_state(weight: Tensor, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The state of a weight before the first step; the count of steps is on the device that the optimizer reads it from."""
    is_on_device = optimizer.defaults.get("fused") or optimizer.defaults.get("capturable")
    step = torch.zeros((), dtype=torch.float32, device=weight.device if is_on_device else "cpu")
    return {"step": step} | {moment: torch.zeros_like(weight) for moment in MOMENTS}


def total_norm(gradients: list[Tensor]) -> Float[Tensor, ""]:
    """The norm of all numbers of the gradients together."""
    if not gradients:
        return torch.zeros(())
    parts = [part for gradient in gradients for part in gradient.view(-1).split(RUN)]
    return torch.linalg.vector_norm(torch.stack(torch._foreach_norm(parts)))  # pyright: ignore[reportPrivateImportUsage]
