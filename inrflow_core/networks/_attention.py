"""Attention with normed queries and keys, and the adaLN-Zero block around it.

Source: DiT (Peebles and Xie 2023, arXiv:2212.09748), with the RMS norm of queries and keys that INRFlow adds.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from inrflow_core.networks._embeddings import rotate
from inrflow_core.networks._recompute import linear_of, recomputed

Modulation = tuple[Tensor, ...]
"""Shift, scale and gate of attention, then those of the MLP, each Float[B 1 W]."""


class Reading(NamedTuple):
    """Keys and values of tokens that others attend to; made once, whoever reads."""

    keys: Float[Tensor, "B H N d"]
    values: Float[Tensor, "B H N d"]


def rms_norm(x: Float[Tensor, "B N H d"], gain: Float[Tensor, " d"]) -> Float[Tensor, "B N H d"]:
    """Each head's vector at unit root mean square, times the learned gain; the sum of squares is fp32."""
    size = x.shape[-1:]
    return functional.rms_norm(x.float(), size, gain.float(), 1e-6).to(x.dtype)


def turned_rms_norm(
    x: Float[Tensor, "B L H d"], gain: Float[Tensor, " d"], turns: Float[Tensor, "2 L d"]
) -> Float[Tensor, "B L H d"]:
    """`rms_norm`, then the rotation of RoPE."""
    return rotate(rms_norm(x, gain), turns)


def modulate(x: Float[Tensor, "B N W"], shift: Float[Tensor, "B 1 W"], scale: Float[Tensor, "B 1 W"]) -> Tensor:
    """Layer norm without own gain, in fp32, then the condition's scale and shift."""
    normed = functional.layer_norm(x.float(), x.shape[-1:], eps=1e-6)
    return torch.addcmul(shift.float(), normed, 1 + scale.float())


def gelu(x: Float[Tensor, "*B N W"]) -> Float[Tensor, "*B N W"]:
    """The GELU in its tanh form."""
    return functional.gelu(x, approximate="tanh")


class ModulatedLinear(nn.Linear):
    """A linear layer behind a modulated layer norm; the norm's output is not kept."""

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, x: Tensor, shift: Tensor, scale: Tensor
    ) -> Tensor:
        """`linear(modulate(x, shift, scale))`."""
        return linear_of(modulate, x, shift, scale, weight=self.weight, bias=self.bias)


class GeluLinear(nn.Linear):
    """A linear layer behind a GELU, whose output is not kept."""

    def forward(self, input: Tensor) -> Tensor:
        """`linear(gelu(input))`."""
        return linear_of(gelu, input, weight=self.weight, bias=self.bias)


class SelfAttention(nn.Module):
    """Tokens attend to each other."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.out = ModulatedLinear(width, 3 * width, bias=False), nn.Linear(width, width)
        self.query_gain, self.key_gain = (
            nn.Parameter(torch.ones(width // heads)),
            nn.Parameter(torch.ones(width // heads)),
        )

    def forward(
        self, x: Float[Tensor, "B L W"], shift: Tensor, scale: Tensor, turns: Float[Tensor, "2 L d"] | None
    ) -> Float[Tensor, "B L W"]:
        """Each modulated token's mixture of all tokens; `turns` are RoPE's."""
        q, k, v = self.qkv(x, shift, scale).unflatten(-1, (3, self.heads, -1)).unbind(2)  # [B L H d] each
        if turns is None:
            q, k = recomputed(rms_norm, q, self.query_gain), recomputed(rms_norm, k, self.key_gain)
        else:
            q = recomputed(turned_rms_norm, q, self.query_gain, turns)
            k = recomputed(turned_rms_norm, k, self.key_gain, turns)
        mixed = functional.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))
        return self.out(mixed.transpose(1, 2).flatten(2))


class CrossAttention(nn.Module):
    """Tokens attend to tokens of another place."""

    def __init__(self, width: int, heads: int, source_width: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.out = ModulatedLinear(width, width, bias=False), nn.Linear(width, width)
        self.source = nn.Linear(source_width, 2 * width, bias=False)
        self.query_gain, self.key_gain = (
            nn.Parameter(torch.ones(width // heads)),
            nn.Parameter(torch.ones(width // heads)),
        )

    def read(self, source: Float[Tensor, "B N S"]) -> Reading:
        """Keys and values of the source."""
        k, v = self.source(source).unflatten(-1, (2, self.heads, -1)).unbind(2)
        return Reading(recomputed(rms_norm, k, self.key_gain).transpose(1, 2), v.transpose(1, 2))

    def forward(
        self,
        x: Float[Tensor, "B M W"],
        shift: Tensor,
        scale: Tensor,
        reading: Reading,
        mask: Bool[Tensor, "B N"] | None = None,
    ) -> Float[Tensor, "B M W"]:
        """Each modulated token's mixture of the source; `mask` is False at padding."""
        q = recomputed(rms_norm, self.query(x, shift, scale).unflatten(-1, (self.heads, -1)), self.query_gain)
        allowed = None if mask is None else mask[:, None, None, :]
        mixed = functional.scaled_dot_product_attention(q.transpose(1, 2), *reading, attn_mask=allowed)
        return self.out(mixed.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """adaLN-Zero block: attention and MLP, each modulated by the condition and gated from 0.

    With `source_width` the attention is to another place's tokens (`forward` then takes their reading and a mask),
    else among its own (`forward` then takes RoPE's turns or None).
    """

    def __init__(
        self, width: int, heads: int, mlp_ratio: float, *, condition_width: int, source_width: int | None = None
    ) -> None:
        super().__init__()
        self.attention: SelfAttention | CrossAttention = (
            SelfAttention(width, heads) if source_width is None else CrossAttention(width, heads, source_width)
        )
        hidden = round(width * mlp_ratio)
        self.inner, self.outer = ModulatedLinear(width, hidden), GeluLinear(hidden, width)
        self.modulation = nn.Linear(condition_width, 6 * width)

    def read(self, source: Float[Tensor, "B N S"]) -> Reading:
        """Keys and values of the tokens that this block attends to."""
        assert isinstance(self.attention, CrossAttention)
        return self.attention.read(source)

    def modulate(self, condition: Float[Tensor, "B S"]) -> Modulation:
        """Shifts, scales and gates of a condition, which has passed its SiLU."""
        return self.modulation(condition)[:, None].chunk(6, -1)

    def forward(
        self, x: Float[Tensor, "B N W"], modulation: Modulation, *attended: Tensor | Reading | None
    ) -> Float[Tensor, "B N W"]:
        """The tokens after attention and MLP."""
        shift, scale, gate, shift_mlp, scale_mlp, gate_mlp = modulation
        x = torch.addcmul(x, gate, self.attention(x, shift, scale, *attended))
        return torch.addcmul(x, gate_mlp, self.outer(self.inner(x, shift_mlp, scale_mlp)))
