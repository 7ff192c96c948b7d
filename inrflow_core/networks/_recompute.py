"""Cheap functions that are computed again in the backward pass instead of being kept.

A transformer block spends its time in matrix products and its memory on what lies between them: norms, modulations,
activations. Those are quick to compute again. `linear_of` keeps the inputs of such a function and not what it hands
to the linear layer behind it, so that no matrix product is repeated; `recomputed` does the same for a function alone.
Both are ordinary code where no gradient is asked for and under `torch.compile`, whose partitioner decides by itself.
Second derivatives are not defined.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

Function = Callable[..., Tensor]


def linear_of(
    function: Function,
    *inputs: Tensor,
    weight: Float[Tensor, "out in"],
    bias: Float[Tensor, " out"] | None,
) -> Float[Tensor, "*B N out"]:
    """`linear(function(*inputs), weight, bias)`, of which only the inputs and the weight are kept."""
    if _keeps_nothing():
        return functional.linear(function(*inputs), weight, bias)
    return _LinearOf.apply(function, weight, bias, *inputs)


def recomputed(function: Function, *inputs: Tensor) -> Tensor:
    """`function(*inputs)`, of which only the inputs are kept."""
    if _keeps_nothing():
        return function(*inputs)
    return _Recomputed.apply(function, *inputs)


def _keeps_nothing() -> bool:
    return torch.compiler.is_compiling() or not torch.is_grad_enabled()


class _Recomputed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, function: Function, *inputs: Tensor) -> Tensor:
        _keep(ctx, function, inputs)
        return function(*inputs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        output, leaves = _again(ctx, ctx.saved_tensors, ctx.needs_input_grad[1:])
        return None, *_gradients(output, leaves, gradients[0])


class _LinearOf(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, function: Function, weight: Tensor, bias: Tensor | None, *inputs: Tensor) -> Tensor:
        _keep(ctx, function, (weight, *inputs))
        return functional.linear(function(*inputs), weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        gradient = gradients[0]
        weight, *inputs = ctx.saved_tensors
        _, of_weight, of_bias, *of_inputs = ctx.needs_input_grad
        output, leaves = _again(ctx, inputs, of_inputs)
        rows = gradient.reshape(-1, gradient.shape[-1])
        d_weight = d_bias = None
        if of_weight:
            kept = output.detach().reshape(-1, output.shape[-1]).to(gradient.dtype)
            d_weight = (rows.t() @ kept).to(weight.dtype)
        if of_bias:
            d_bias = rows.sum(0, dtype=weight.dtype)
        d_inputs: list[Tensor | None] = [None] * len(leaves)
        if any(of_inputs):
            d_output = (rows @ weight.to(gradient.dtype)).view(output.shape).to(output.dtype)
            d_inputs = _gradients(output, leaves, d_output)
        return None, d_weight, d_bias, *d_inputs


def _keep(ctx: Any, function: Function, tensors: tuple[Tensor, ...]) -> None:
    device = tensors[-1].device.type
    ctx.function = function
    ctx.autocast = (device, torch.get_autocast_dtype(device), torch.is_autocast_enabled(device))
    ctx.save_for_backward(*tensors)


def _again(ctx: Any, inputs: Any, needed: Any) -> tuple[Tensor, list[Tensor]]:
    """The function's output once more, with a graph from it to fresh copies of its inputs."""
    leaves = [x.detach().requires_grad_(need) for x, need in zip(inputs, needed, strict=True)]
    device, dtype, enabled = ctx.autocast
    with torch.enable_grad(), torch.autocast(device, dtype, enabled=enabled):
        return ctx.function(*leaves), leaves


def _gradients(output: Tensor, leaves: list[Tensor], gradient: Tensor) -> list[Tensor | None]:
    wanted = [leaf for leaf in leaves if leaf.requires_grad]
    found = iter(torch.autograd.grad(output, wanted, gradient) if wanted else ())
    return [next(found) if leaf.requires_grad else None for leaf in leaves]
