"""Rotary position embedding (RoPE, Su et al. 2021): queries and keys are rotated by the positions of their latents.

`rotary` computes the cosines and sines, `apply_rope` rotates by them, and `normed_heads` is what attention calls.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from inrflow_core.layers.activations import inverse_rms, rms_norm_backward, to_fp32
from inrflow_core.layers.recompute import keeps_everything


def rotary(positions: Float[Tensor, "L D"], head_size: int) -> Float[Tensor, "2 L d"]:
    """Cosines and sines that rotate pairs of a head's numbers by each axis' position (RoPE, Su et al. 2021).

    `positions` count latents along an axis. The base is 100 and not 10,000: an axis has tens of latents, not
    thousands. Where the axes do not share the head evenly, its last pairs stay as they are.
    """
    axes = positions.shape[-1]
    pairs = head_size // (2 * axes)
    frequencies = 100.0 ** (-torch.arange(pairs, dtype=torch.float64, device=positions.device) / pairs)
    phase = (positions.double()[..., None] * frequencies).flatten(1)
    phase = functional.pad(phase, (0, head_size // 2 - phase.shape[1]))
    return torch.stack([phase.cos(), phase.sin()]).repeat(1, 1, 2).float()


def apply_rope(x: Float[Tensor, "*B d"], rope: Float[Tensor, "2 *N d"]) -> Float[Tensor, "*B d"]:
    """x with its pairs of numbers (i, i + d / 2) rotated by the cosines and sines of `rotary`."""
    first, second = x.chunk(2, -1)
    return torch.addcmul(x * rope[0], torch.cat([-second, first], -1), rope[1])


def normed_heads(
    qkv: Float[Tensor, "B N 3 H d"], gains: Float[Tensor, "2 d"], rope: Float[Tensor, "2 N d"] | None
) -> tuple[Float[Tensor, "B N H d"], Float[Tensor, "B N H d"], Float[Tensor, "B N H d"]]:
    """Queries, keys and values: queries and keys at unit root mean square times their gain, then rotated (RoPE).

    Saved for the backward pass: `qkv`, which attention needs for the values anyway, and the results.
    """
    if keeps_everything():
        return _normed_heads(qkv, inverse_rms(qkv[:, :, :2]), gains, rope)
    return _NormedHeads.apply(qkv, gains, rope)


def _normed_heads(qkv: Tensor, factor: Tensor, gains: Tensor, rope: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    normed = (to_fp32(qkv[:, :, :2]) * factor).mul_(gains[:, None])
    if rope is not None:
        normed = apply_rope(normed, rope[:, :, None, None])
    q, k = normed.to(qkv.dtype).unbind(2)
    return q, k, qkv[:, :, 2]


class _NormedHeads(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, qkv: Tensor, gains: Tensor, rope: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        factor = inverse_rms(qkv[:, :, :2])
        ctx.save_for_backward(qkv, factor, gains, rope)
        return _normed_heads(qkv, factor, gains, rope)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        qkv, factor, gains, rope = ctx.saved_tensors
        d_qkv, d_gains = torch.empty_like(qkv), torch.empty_like(gains)
        d_qkv[:, :, 2] = gradients[2]
        for index in range(2):
            gradient = to_fp32(gradients[index])
            if rope is not None:
                gradient = apply_rope(gradient, torch.stack([rope[0], -rope[1]])[:, :, None])
            normed = to_fp32(qkv[:, :, index]) * factor[:, :, index]
            d_gains[index] = (gradient * normed).sum((0, 1, 2))
            d_qkv[:, :, index] = rms_norm_backward(gradient * gains[index], normed, factor[:, :, index])
        return d_qkv, d_gains, None
