"""Muon: an orthogonal update for hidden matrices, AdamW for all other weights, with a multiple of its rate for the matrices.

Sources: Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks", for the momentum and the iteration;
Liu et al. 2025, arXiv:2502.16982, for the scale 0.2 sqrt(max(rows, columns)), with which an update is as large as AdamW's.

`torch.optim.Muon` takes whole matrices alone, one after the other, and iterates in bf16. Here a weight may be in pieces: ZeRO
stages 1 and 2 update one flat tensor per process, with a range of some weights in it. Almost all matrices are whole in one of
the processes, which iterates them; only those that a border cuts are summed up and iterated by each process that has a part.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from inrflow_core.config.training import Config
from inrflow_core.numerics import newton_schulz
from inrflow_core.training.optimizers import MOMENTS, empty_state

MOMENTUM = 0.95
"""Decay of the momentum, by Jordan et al.; `betas` are those of AdamW."""
SCALE = 0.2
"""Root mean square of an update at rate 1, about that of AdamW's (Liu et al.)."""
MOMENT, _ = MOMENTS
"""The momentum of a matrix; its other moment stays 0, so that a checkpoint has one format for all optimizers."""


@dataclass(frozen=True)
class Fragment:
    """Numbers of a matrix that this process updates."""

    owner: Tensor
    """The tensor that the optimizer updates: the matrix itself, or this process's flat partition of all weights."""
    offset: int
    """Of the first number in `owner`."""
    start: int
    """Of the first number in the flat matrix."""
    count: int

    def of(self, tensor: Tensor | None) -> Tensor:
        """These numbers in the owner, its gradient or a moment of it."""
        assert tensor is not None
        return tensor.view(-1)[self.offset : self.offset + self.count]


@dataclass(frozen=True)
class Stack:
    """Matrices of one shape that are iterated together."""

    shape: tuple[int, int]
    fragments: list[Fragment | None]
    """None for a matrix of which this process has no number."""
    is_cut: bool
    """Whether several processes have a part of each of them."""


class Muon(torch.optim.Optimizer):
    """Muon for `matrices`, which are some of `weights`, and AdamW for the rest.

    If `found_inf` is 1, a step changes nothing, as in torch's fused optimizers.
    """

    def __init__(self, weights: Iterable[Tensor], matrices: Sequence[Tensor], settings: Config) -> None:
        options = {
            "lr": settings.learning_rate,
            "matrix_rate": settings.matrix_rate,
            "betas": (settings.betas[0], settings.betas[1]),
            "eps": settings.epsilon,
            "weight_decay": settings.weight_decay,
            "fused": True,  # the step reads `found_inf`, and its count is on the device
        }
        super().__init__(weights, options)
        self.matrices = list(matrices)
        self.found_inf: Tensor | None = None
        self.locate([Fragment(matrix, 0, 0, matrix.numel()) for matrix in matrices], [False] * len(matrices))

    def locate(self, fragments: Sequence[Fragment | None], is_cut: Sequence[bool]) -> None:
        """Set where the numbers of each matrix are, and which matrices several processes share."""
        self._rest: dict[Tensor, list[Fragment]] = {}
        self._stacks: list[Stack] = []
        for cut in (False, True):
            mine = [i for i, f in enumerate(fragments) if is_cut[i] == cut and (cut or f is not None)]
            shapes = [(self.matrices[i].shape[0], self.matrices[i].shape[1]) for i in mine]
            for indices in newton_schulz.stacks(shapes):
                self._stacks.append(Stack(shapes[indices[0]], [fragments[mine[i]] for i in indices], cut))

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Update all weights that have a gradient, without a device synchronization."""
        assert closure is None
        group = self.param_groups[0]
        owners = [p for p in group["params"] if p.grad is not None]
        for owner in owners:
            if not self.state[owner]:
                self.state[owner] |= empty_state(owner, self)
        found = torch.zeros((), device=owners[0].device) if self.found_inf is None else self.found_inf
        steps = [self.state[owner]["step"] for owner in owners]
        torch._foreach_add_(steps, 1)  # pyright: ignore[reportPrivateImportUsage]
        self._update_rest(owners, group, found)
        torch._foreach_sub_(steps, [found] * len(steps))  # pyright: ignore[reportPrivateImportUsage]
        for stack in self._stacks:
            self._update_matrices(stack, group, found)

    def _update_rest(self, owners: list[Tensor], group: dict[str, Any], found: Tensor) -> None:
        """AdamW for the numbers that belong to no matrix."""
        rest = [fragment for owner in owners for fragment in self._rest_of(owner)]
        if not rest:
            return
        momenta, squares = ([f.of(self.state[f.owner][moment]) for f in rest] for moment in MOMENTS)
        torch._fused_adamw_(  # pyright: ignore[reportPrivateImportUsage]
            [f.of(f.owner) for f in rest], [f.of(f.owner.grad) for f in rest], momenta, squares, [],
            [self.state[f.owner]["step"] for f in rest],
            lr=group["lr"], beta1=group["betas"][0], beta2=group["betas"][1], weight_decay=group["weight_decay"],
            eps=group["eps"], amsgrad=False, maximize=False, found_inf=found,
        )  # fmt: skip

    def _rest_of(self, owner: Tensor) -> list[Fragment]:
        """The numbers of a tensor between its matrices."""
        if owner not in self._rest:
            mine = (f for stack in self._stacks for f in stack.fragments if f is not None and f.owner is owner)
            edges = [(0, 0), *sorted((f.offset, f.offset + f.count) for f in mine), (owner.numel(), owner.numel())]
            self._rest[owner] = [
                Fragment(owner, end, 0, start - end) for (_, end), (start, _) in pairwise(edges) if end < start
            ]
        return self._rest[owner]

    def _update_matrices(self, stack: Stack, group: dict[str, Any], found: Tensor) -> None:
        """Nesterov momentum, the iteration, decoupled weight decay and the update, for the matrices of a stack."""
        if not stack.is_cut:  # a weight that the loss does not use has no gradient
            stack = replace(stack, fragments=[f for f in stack.fragments if f is not None and f.owner.grad is not None])
            if not stack.fragments:
                return
        directions = self._directions(stack, found.bool())
        rate, decay = group["lr"] * group["matrix_rate"], group["weight_decay"]
        weights = [f.of(f.owner) for f in stack.fragments if f is not None]
        if not weights:
            return
        if decay:
            torch._foreach_mul_(weights, 1 - rate * decay * (1 - found))  # pyright: ignore[reportPrivateImportUsage]
        step = -rate * SCALE * math.sqrt(max(stack.shape))
        torch._foreach_add_(weights, _cut(stack, directions), alpha=step)  # pyright: ignore[reportPrivateImportUsage]

    def _directions(self, stack: Stack, skips: Bool[Tensor, ""]) -> Tensor:
        """Orthogonal updates of a stack's matrices, K R C; zeros, and momenta as before, in a step that is skipped."""
        owned = [f for f in stack.fragments if f is not None]
        moments = [f.of(self.state[f.owner][MOMENT]) for f in owned]
        gradients = _stacked(stack, [f.of(f.owner.grad) for f in owned], skips.device)
        momenta = _stacked(stack, moments, skips.device)
        gradients = torch.where(skips, momenta, gradients)
        momenta.lerp_(gradients, 1 - MOMENTUM)
        if owned:
            torch._foreach_copy_(moments, _cut(stack, momenta))  # pyright: ignore[reportPrivateImportUsage]
        updates = gradients.lerp_(momenta, MOMENTUM).masked_fill_(skips, 0.0)
        del momenta
        if stack.is_cut:
            torch.distributed.all_reduce(updates)
            if not owned:
                return updates
        return newton_schulz.orthogonalize(updates)


def _stacked(stack: Stack, parts: list[Tensor], device: torch.device) -> Tensor:
    """The parts of a stack's matrices in one tensor, K R C, with zeros in place of those of other processes."""
    whole = torch.zeros(len(stack.fragments), *stack.shape, device=device)
    if parts:
        torch._foreach_copy_(_cut(stack, whole), parts)  # pyright: ignore[reportPrivateImportUsage]
    return whole


def _cut(stack: Stack, whole: Tensor) -> list[Tensor]:
    """This process's numbers of each matrix of a stack, of which `whole` has all, K R C."""
    rows = zip(whole.flatten(1), stack.fragments, strict=True)
    return [row[f.start : f.start + f.count] for row, f in rows if f is not None]
