"""Linear interpolation of tokens that lie on a regular grid, at any coordinates.

A result is the weighted sum of a bag of tokens, those of the corners around its coordinate, and so is the gradient of a token: the
weighted sum of the gradients that reach it. Both are computed as bags, which never store the corners of every coordinate;
torch's own derivative of bags takes longer than this one on a CPU.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from inrflow_core.layers.recompute import keeps_everything


def corners(
    sides: tuple[int, ...], at: Float[Tensor, "*B M D"]
) -> tuple[Int64[Tensor, "*B M K"], Float[Tensor, "*B M K"]]:
    """The 2^D tokens around each coordinate, and their weights, whose sum is 1; the weights of coordinates that are NaN are NaN.

    Beyond the outermost tokens the weights are those of the edge.

    Args:
        sides: of the grid, whose tokens are row by row at the centers of equal cells of [-1, 1]^D.
        at: coordinates, shared by all sets or of each; without gradient.
    """
    index = torch.zeros(*at.shape[:-1], 1, dtype=torch.int64, device=at.device)
    weight = torch.ones(*at.shape[:-1], 1, dtype=at.dtype, device=at.device)
    for axis, side in enumerate(sides):
        place = ((at[..., axis] + 1) * (side / 2) - 0.5).clamp(0, side - 1)
        low = place.floor().long().clamp(0, max(0, side - 2))  # as whole numbers, so that NaN has a token too
        part = (place - low)[..., None]
        both = torch.stack([low, (low + 1).clamp(max=side - 1)], -1)
        index = (index[..., :, None] * side + both[..., None, :]).flatten(-2)
        weight = (weight[..., :, None] * torch.cat([1 - part, part], -1)[..., None, :]).flatten(-2)
    return index, weight


def mix(
    tokens: Float[Tensor, "B L W"], index: Int64[Tensor, "*B M K"], weight: Float[Tensor, "*B M K"]
) -> Float[Tensor, "B M W"]:
    """Tokens interpolated at the coordinates of these `corners`, which all sets share or each has its own."""
    if index.ndim == 2:
        index, weight = index[None], weight[None]
    weight = weight.to(tokens.dtype)
    if torch.compiler.is_exporting():  # exporters do not know bags
        index, weight = (part.expand(tokens.shape[0], -1, -1) for part in (index, weight))
        rows = index.flatten(1)[..., None].expand(-1, -1, tokens.shape[-1])
        return (tokens.gather(1, rows).unflatten(1, index.shape[1:]) * weight[..., None]).sum(2)
    if keeps_everything():
        return _bags(tokens, index, weight)
    return _Interpolation.apply(tokens, index, weight)


class _Interpolation(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tokens: Tensor, index: Tensor, weight: Tensor) -> Tensor:
        ctx.count = tokens.shape[1]
        ctx.save_for_backward(index, weight)
        return _bags(tokens, index, weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        index, weight = ctx.saved_tensors
        (gradient,) = gradients
        batch, queries, width = gradient.shape
        order = index.flatten(1).argsort(dim=1, stable=True)
        by_token = index.flatten(1).gather(1, order)
        tokens = torch.arange(ctx.count, device=index.device).expand(len(index), -1).contiguous()
        first = torch.searchsorted(by_token, tokens)
        sets = torch.arange(batch, device=index.device)[:, None]
        reached = functional.embedding_bag(
            (order // index.shape[2] + queries * sets).flatten(),
            gradient.flatten(0, 1),
            (first + order.shape[1] * sets).flatten(),
            per_sample_weights=weight.flatten(1).gather(1, order).expand(batch, -1).flatten(),
            mode="sum",
        )
        return reached.view(batch, ctx.count, width), None, None


def _bags(
    tokens: Float[Tensor, "B L W"], index: Int64[Tensor, "S M K"], weight: Float[Tensor, "S M K"]
) -> Float[Tensor, "B M W"]:
    """The weighted sum of each bag; S is B, or 1 where all sets share theirs."""
    batch, count, _ = tokens.shape
    sets = torch.arange(batch, device=tokens.device)[:, None, None]
    mixed = functional.embedding_bag(
        (index + count * sets).flatten(0, 1),
        tokens.flatten(0, 1),
        per_sample_weights=weight.expand(batch, -1, -1).flatten(0, 1).contiguous(),
        mode="sum",
    )
    return mixed.unflatten(0, (batch, index.shape[1]))
