"""Recompute cheap functions in the backward pass instead of saving their outputs.

A transformer spends its time in matrix products and its memory on the outputs between them: norms, modulations,
activations. Those are quick to recompute. `linear_of` saves the inputs of such a function, not its output (the input of
the linear layer after it), so that no matrix product is repeated, and works on blocks of rows that stay in a CPU's
cache. Without gradients, and under `torch.compile`, whose partitioner decides what to recompute, it is ordinary code.
Second derivatives are not defined.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from inrflow_core.runtime import cache_blocks

SPLIT_BYTES, PART_BYTES = 32 << 20, 4 << 20
"""On a CPU, an output of more than SPLIT_BYTES is computed in parts of PART_BYTES, which stay in its cache."""
WHOLE = (slice(None), slice(None))


@dataclass(frozen=True)
class Recomputable:
    """A function of tensors (sets, rows, ...), with its derivative."""

    value: Callable[..., Tensor]
    """The function of its inputs."""
    value_and_grad: Callable[..., tuple[Tensor, tuple[Tensor, ...]]]
    """Takes the gradient of the value, which it may overwrite, and the inputs; returns the value and the gradients of
    the inputs."""


def keeps_everything() -> bool:
    """Whether autograd runs as usual: without gradients nothing is saved, and under a compiler that decides what is."""
    return torch.compiler.is_compiling() or not torch.is_grad_enabled()


def linear_of(
    function: Recomputable,
    *inputs: Float[Tensor, "B _ _"],
    weight: Float[Tensor, "out in"],
    bias: Float[Tensor, " out"] | None,
    is_handed_over: bool = False,
) -> Float[Tensor, "B N out"]:
    """`linear(function.value(*inputs), weight, bias)`, which saves only the inputs and the weight.

    The first input has all rows; others may have one row for each set. If it `is_handed_over`, no other code uses it,
    and its gradient may overwrite it in the backward pass. (Autograd raises an error if it is used.)
    """
    if keeps_everything():
        return functional.linear(function.value(*inputs), weight, bias)
    return _LinearOf.apply((function, is_handed_over), weight, bias, *inputs)


class _LinearOf(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, options: tuple[Recomputable, bool], weight: Tensor, bias: Tensor | None, *inputs: Tensor
    ) -> Tensor:
        function, _ = ctx.options = options
        ctx.save_for_backward(weight, *inputs)
        x = inputs[0]
        output = _Assembled(x.shape[:2], x.shape[1])
        for part in _parts(x, weight):
            value = function.value(*(_select_part(part, x, each) for each in inputs))
            output.put(part, functional.linear(value, weight, bias))
        return output.tensor

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        weight, *inputs = ctx.saved_tensors
        x, gradient = inputs[0], gradients[0]
        d_weight, cast_weight = torch.empty_like(weight), weight.to(gradient.dtype)
        function, is_handed_over = ctx.options
        d_inputs = [_Assembled(each.shape[:2], x.shape[1]) for each in inputs]
        if is_handed_over and x.grad_fn is not None and not _is_graph_retained():
            d_inputs[0].memory = x
        for part in _parts(x, weight):
            piece = gradient[part]
            value, d_parts = function.value_and_grad(
                piece @ cast_weight, *(_select_part(part, x, each) for each in inputs)
            )
            rows, value = piece.flatten(0, 1).t(), value.flatten(0, 1).to(piece.dtype)
            _add_product(d_weight, rows, value, is_first=d_inputs[0].is_empty)
            for d_input, new in zip(d_inputs, d_parts, strict=True):
                d_input.put(part, new)
        d_bias = gradient.flatten(0, 1).sum(0, dtype=weight.dtype) if ctx.needs_input_grad[2] else None
        return None, d_weight, d_bias, *(d_input.tensor for d_input in d_inputs)


class _Assembled:
    """A tensor assembled from parts; a single part is the tensor itself."""

    tensor: Tensor
    memory: Tensor | None = None
    """A tensor that it may overwrite, part by part."""

    def __init__(self, leading: torch.Size, rows: int) -> None:
        self.leading, self.has_rows, self.is_empty = leading, leading[1] == rows, True

    def put(self, part: tuple[slice, slice], new: Tensor) -> None:
        """Write a part; a tensor with one row per set is summed over the parts of its rows."""
        if part is WHOLE:
            self.tensor = new
        elif self.is_empty and self.memory is not None:
            self.tensor = self.memory.detach()
        elif self.is_empty:
            with cache_blocks.outside_of_blocks():
                self.tensor = (new.new_empty if self.has_rows else new.new_zeros)(*self.leading, *new.shape[2:])
        self.is_empty = False
        if part is WHOLE:
            return
        if self.has_rows:
            self.tensor[part] = new
        else:
            self.tensor[part[0]] += new


def _is_graph_retained() -> bool:
    """Whether the running backward pass keeps its graph for another one (`retain_graph`)."""
    keeps: Any = getattr(torch._C._autograd, "_get_current_graph_task_keep_graph", None)  # pyright: ignore
    return keeps is None or keeps()


def _parts(x: Float[Tensor, "B N _"], weight: Float[Tensor, "out in"]) -> Iterator[tuple[slice, slice]]:
    """Blocks of whole sets, or of one set's rows, whose intermediate results stay in a CPU's cache."""
    sets, rows = x.shape[:2]
    row_bytes = 4 * weight.shape[1]
    total = sets * rows * row_bytes
    if cache_blocks.device_type(x.device) != "cpu" or total <= SPLIT_BYTES:
        yield WHOLE
        return
    if cache_blocks.is_plan():
        with cache_blocks.traced_as_one(PART_BYTES, total):
            yield slice(0, sets), slice(0, rows)
        return
    num_rows = max(1, min(rows, PART_BYTES // row_bytes // 64 * 64))
    num_sets = max(1, PART_BYTES // (rows * row_bytes))
    for first_set in range(0, sets, num_sets):
        for first_row in range(0, rows, num_rows):
            yield slice(first_set, first_set + num_sets), slice(first_row, first_row + num_rows)


def _has_rows(x: Tensor, each: Tensor) -> bool:
    """Whether an input has a value for every row, not one per set."""
    return each.shape[1] == x.shape[1]


def _select_part(part: tuple[slice, slice], x: Tensor, each: Tensor) -> Tensor:
    return each[part] if _has_rows(x, each) else each[part[0]]


def _add_product(total: Tensor, left: Tensor, right: Tensor, *, is_first: bool) -> None:
    """total += left @ right, or total = left @ right the first time; summed in the precision of `total`."""
    if left.dtype == total.dtype:
        torch.addmm(total, left, right, beta=0 if is_first else 1, out=total)
    elif is_first:
        total.copy_(left @ right)
    else:
        total += left @ right
