"""Attention with normed queries and keys, and the adaLN-Zero block around it.

Source: DiT (Peebles and Xie 2023, arXiv:2212.09748), with the RMS norm of queries and keys that INRFlow adds.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from inrflow_core.layers.activations import GELU, MODULATE, rms_norm
from inrflow_core.layers.recompute import linear_of
from inrflow_core.layers.rope import normed_heads

Modulation = tuple[Tensor, ...]
"""Shift, scale and gate of attention, then those of the MLP, each Float[B 1 W]."""


class KeyValue(NamedTuple):
    """Keys and values of tokens, computed once for all tokens that attend to them."""

    keys: Float[Tensor, "B H N d"]
    values: Float[Tensor, "B H N d"]


class ModulatedLinear(nn.Linear):
    """A linear layer after a modulated layer norm, whose output is not saved for the backward pass."""

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, x: Tensor, shift: Tensor, scale: Tensor
    ) -> Tensor:
        """`linear(modulate(x, shift, scale))`."""
        return linear_of(MODULATE, x, shift, scale, weight=self.weight, bias=self.bias)


class GeluLinear(nn.Linear):
    """A linear layer after a GELU, whose output is not saved. No other layer may use its input, which it overwrites."""

    def forward(self, input: Tensor) -> Tensor:
        """`linear(gelu(input))`."""
        return linear_of(GELU, input, weight=self.weight, bias=self.bias, is_handed_over=True)


class SelfAttention(nn.Module):
    """Tokens attend to each other."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.out = ModulatedLinear(width, 3 * width, bias=False), nn.Linear(width, width)
        self.gains = nn.Parameter(torch.ones(2, width // heads))

    def forward(
        self,
        x: Float[Tensor, "B L W"],
        shift: Tensor,
        scale: Tensor,
        rope: Float[Tensor, "2 L d"] | None,
        mask: Bool[Tensor, "B L"] | None = None,
    ) -> Float[Tensor, "B L W"]:
        """Attention of the modulated tokens to each other.

        `rope` are the cosines and sines of rotary embeddings; `mask` is False at padding.
        """
        qkv = self.qkv(x, shift, scale).unflatten(-1, (3, self.heads, -1))
        q, k, v = (part.transpose(1, 2) for part in normed_heads(qkv, self.gains, rope))
        allowed = None if mask is None else mask[:, None, None, :]
        mixed = functional.scaled_dot_product_attention(q, k, v, attn_mask=allowed)
        return self.out(mixed.transpose(1, 2).flatten(2))


class CrossAttention(nn.Module):
    """Tokens attend to the tokens of a source.

    The gains of the normed queries and keys both multiply one of the two: the scores are the same, and the backward
    pass stores one tensor less of the other. The other should be the larger: the queries if they `outnumber` their
    source.
    """

    def __init__(self, width: int, heads: int, source_width: int, *, outnumber: bool = False) -> None:
        super().__init__()
        self.heads, self.outnumber = heads, outnumber
        self.query, self.out = ModulatedLinear(width, width, bias=False), nn.Linear(width, width)
        self.key, self.value = (nn.Linear(source_width, width, bias=False) for _ in range(2))
        self.gains = nn.Parameter(torch.ones(2, width // heads))

    def project_kv(self, source: Float[Tensor, "B N S"]) -> KeyValue:
        """Keys and values of the source."""
        k, v = (layer(source).unflatten(-1, (self.heads, -1)) for layer in (self.key, self.value))
        k = self._apply_gains(rms_norm(k)) if self.outnumber else rms_norm(k)
        return KeyValue(k.transpose(1, 2), v.transpose(1, 2))

    def forward(
        self,
        x: Float[Tensor, "B M W"],
        shift: Tensor,
        scale: Tensor,
        source: KeyValue,
        mask: Bool[Tensor, "B N"] | None = None,
    ) -> Float[Tensor, "B M W"]:
        """Attention of the modulated tokens to the source; `mask` is False at padding of the source."""
        q = rms_norm(self.query(x, shift, scale).unflatten(-1, (self.heads, -1)))
        q = (q if self.outnumber else self._apply_gains(q)).transpose(1, 2)
        allowed = None if mask is None else mask[:, None, None, :]
        mixed = functional.scaled_dot_product_attention(q, *source, attn_mask=allowed)
        return self.out(mixed.transpose(1, 2).flatten(2))

    def _apply_gains(self, x: Float[Tensor, "*B d"]) -> Float[Tensor, "*B d"]:
        return x * self.gains.prod(0).to(x.dtype)


class Block(nn.Module):
    """adaLN-Zero block: attention and MLP, each modulated by the condition and gated from 0.

    With `source_width` the attention is cross-attention to the tokens of a source, which the block's tokens may
    `outnumber`; `forward` then takes the source's keys and values and a mask. Without, it is self-attention; `forward`
    then takes `rope` or None, and a mask. With `has_tokens` a second cross-attention, to the condition's tokens,
    precedes the MLP: it is neither modulated nor gated (INRFlow's image-to-3D model), but its last layer starts at 0.
    (Submodules keep their names: these are keys of weights files.)
    """

    def __init__(
        self,
        width: int,
        heads: int,
        mlp_ratio: float,
        *,
        condition_width: int,
        source_width: int | None = None,
        has_tokens: bool = False,
        outnumber: bool = False,
    ) -> None:
        super().__init__()
        self.told = CrossAttention(width, heads, width) if has_tokens else None
        self.attention: SelfAttention | CrossAttention = (
            SelfAttention(width, heads)
            if source_width is None
            else CrossAttention(width, heads, source_width, outnumber=outnumber)
        )
        hidden = round(width * mlp_ratio)
        self.inner, self.outer = ModulatedLinear(width, hidden), GeluLinear(hidden, width)
        self.modulation = nn.Linear(condition_width, 6 * width)

    def project_kv(self, source: Float[Tensor, "B N S"]) -> KeyValue:
        """Keys and values of the tokens that this block attends to."""
        assert isinstance(self.attention, CrossAttention)
        return self.attention.project_kv(source)

    def modulate(self, condition: Float[Tensor, "B S"]) -> Modulation:
        """Shifts, scales and gates from a condition after its SiLU."""
        return self.modulation(condition)[:, None].chunk(6, -1)

    def forward(
        self,
        x: Float[Tensor, "B N W"],
        modulation: Modulation,
        *attended: Tensor | KeyValue | None,
        condition_tokens: KeyValue | Float[Tensor, "B K W"] | None = None,
    ) -> Float[Tensor, "B N W"]:
        """The tokens after attention and MLP; `condition_tokens` may be projected to keys and values already."""
        shift, scale, gate, shift_mlp, scale_mlp, gate_mlp = modulation
        x = torch.addcmul(x, gate, self.attention(x, shift, scale, *attended))
        if self.told is not None:
            assert condition_tokens is not None, "a block with `has_tokens` needs the condition's tokens"
            zero = x.new_zeros(x.shape[0], 1, x.shape[2])
            if isinstance(condition_tokens, Tensor):
                condition_tokens = self.told.project_kv(condition_tokens)
            x = x + self.told(x, zero, zero, condition_tokens)
        return torch.addcmul(x, gate_mlp, self.outer(self.inner(x, shift_mlp, scale_mlp)))
