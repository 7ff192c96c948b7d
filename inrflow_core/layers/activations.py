"""Norms, modulation and activations, each with its derivative (`recompute.Recomputable`).

Norms are computed in fp32 at least, also under autocast.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from inrflow_core.layers.recompute import Recomputable, keeps_everything
from inrflow_core.runtime import cache_blocks

NORM_EPSILON = 1e-6
RUN_BYTES = 1 << 19
GELU_SLOPE, GELU_CUBIC = 2 * (2 / torch.pi) ** 0.5, 0.044715
"""The tanh form of GELU is x sigmoid(slope (x + cubic x^3))."""


def to_fp32(x: Tensor) -> Tensor:
    """x in fp32, or unchanged if its precision is higher."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def modulate(
    x: Float[Tensor, "B N W"], shift: Float[Tensor, "B 1 W"], scale: Float[Tensor, "B 1 W"]
) -> Float[Tensor, "B N W"]:
    """Layer norm without affine parameters, then a condition's shift and scale: `normed * (1 + scale) + shift`."""
    normed = functional.layer_norm(to_fp32(x), x.shape[-1:], eps=NORM_EPSILON)
    return torch.addcmul(to_fp32(shift), normed, 1 + to_fp32(scale))


def _modulate_backward(
    gradient: Tensor, x: Tensor, shift: Tensor, scale: Tensor
) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
    whole, gradient, factor = to_fp32(x), to_fp32(gradient), 1 + to_fp32(scale)
    normed, mean, deviation = torch.native_layer_norm(whole, x.shape[-1:], None, None, NORM_EPSILON)
    value = torch.addcmul(to_fp32(shift), normed, factor)
    d_shift, d_scale = gradient.sum(1, keepdim=True), normed.mul_(gradient).sum(1, keepdim=True)
    d_x, _, _ = torch.ops.aten.native_layer_norm_backward(
        gradient.mul_(factor), whole, x.shape[-1:], mean, deviation, None, None, [True, False, False]
    )
    return value, (d_x, d_shift, d_scale)


def gelu(x: Float[Tensor, "B N W"]) -> Float[Tensor, "B N W"]:
    """The GELU in its tanh form.

    In fp32 on a CPU it is computed by a sigmoid, in blocks that fit into the cache: half the cost of the tanh.
    """
    if _is_native(x):
        return functional.gelu(x, approximate="tanh")
    value = torch.empty_like(x)
    for part, result in _row_blocks(x, value):
        _gelu_sigmoid(part, out=result).mul_(part)
    return value


def _gelu_backward(gradient: Tensor, x: Tensor) -> tuple[Tensor, tuple[Tensor]]:
    """The value and the gradient of x, from one sigmoid."""
    if _is_native(x):
        d_x = torch.ops.aten.gelu_backward(gradient.to(x.dtype), x, approximate="tanh")
        return functional.gelu(x, approximate="tanh"), (d_x,)
    assert gradient.is_contiguous(), "it is overwritten in place"
    value = torch.empty_like(x)
    for part, incoming, result in _row_blocks(x, gradient, value):
        step = _gelu_sigmoid(part)
        torch.mul(part, step, out=result)
        slope = torch.mul(part, part).mul_(3 * GELU_CUBIC * GELU_SLOPE).add_(GELU_SLOPE).mul_(result)
        incoming.mul_(torch.addcmul(slope, slope, step, value=-1).add_(step))
    return value, (gradient,)


MODULATE = Recomputable(modulate, _modulate_backward)
GELU = Recomputable(gelu, _gelu_backward)


def _is_native(x: Tensor) -> bool:
    return cache_blocks.device_type(x.device) != "cpu" or x.dtype != torch.float32 or torch.compiler.is_compiling()


def _gelu_sigmoid(x: Tensor, out: Tensor | None = None) -> Tensor:
    """sigmoid(slope (x + cubic x^3))"""
    return torch.mul(x, x, out=out).mul_(GELU_CUBIC * GELU_SLOPE).add_(GELU_SLOPE).mul_(x).sigmoid_()


def _row_blocks(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Blocks of rows of tensors of one shape, small enough for several to stay in a CPU's first cache."""
    flat = [x.reshape(-1, x.shape[-1]) for x in tensors]
    total = 4 * tensors[0].numel()
    if cache_blocks.is_plan() and total > RUN_BYTES:
        with cache_blocks.traced_as_one(RUN_BYTES, total):
            yield tuple(flat)
        return
    rows = max(1, RUN_BYTES // (4 * tensors[0].shape[-1]))
    yield from zip(*(x.split(rows) for x in flat), strict=True)


def rms_norm(x: Float[Tensor, "*B d"]) -> Float[Tensor, "*B d"]:
    """x at unit root mean square; only the result is saved for the backward pass."""
    return (
        functional.rms_norm(to_fp32(x), x.shape[-1:], None, NORM_EPSILON).to(x.dtype)
        if keeps_everything()
        else _RmsNorm.apply(x)
    )


class _RmsNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        factor = inverse_rms(x)
        normed = (to_fp32(x) * factor).to(x.dtype)
        ctx.save_for_backward(normed, factor)
        return normed

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        normed, factor = ctx.saved_tensors
        return rms_norm_backward(gradients[0], to_fp32(normed), factor).to(normed.dtype)


def inverse_rms(x: Float[Tensor, "*B d"]) -> Float[Tensor, "*B 1"]:
    """1 / root mean square of each row, in fp32 at least."""
    return torch.rsqrt(to_fp32(x).square().mean(-1, keepdim=True) + NORM_EPSILON)


def rms_norm_backward(gradient: Tensor, normed: Tensor, factor: Tensor) -> Tensor:
    """The gradient of x from that of `normed = x * factor`, with `factor = inverse_rms(x)`."""
    along = (gradient * normed).mean(-1, keepdim=True)
    return torch.addcmul(gradient, normed, along, value=-1).mul_(factor)


def normed_silu(x: Float[Tensor, "*B N W"], gain: Float[Tensor, " W"], shift: Float[Tensor, " W"]) -> Tensor:
    """SiLU of a layer norm with gain and shift; only x is saved for the backward pass."""
    if keeps_everything():
        return functional.silu(functional.layer_norm(to_fp32(x), x.shape[-1:], gain, shift))
    return _NormedSilu.apply(x, gain, shift)


class _NormedSilu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, gain: Tensor, shift: Tensor) -> Tensor:
        normed, mean, deviation = torch.native_layer_norm(to_fp32(x), x.shape[-1:], gain, shift, 1e-5)
        ctx.save_for_backward(x, gain, shift, mean, deviation)
        return functional.silu(normed, inplace=True)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, gain, shift, mean, deviation = ctx.saved_tensors
        whole = to_fp32(x)
        normed = torch.native_layer_norm(whole, x.shape[-1:], gain, shift, 1e-5)[0]
        gradient = torch.ops.aten.silu_backward(gradients[0], normed)
        d_x, d_gain, d_shift = torch.ops.aten.native_layer_norm_backward(
            gradient, whole, x.shape[-1:], mean, deviation, gain, shift, [True, True, True]
        )
        return d_x.to(x.dtype), d_gain, d_shift
