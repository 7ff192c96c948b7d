"""Layers that encoder, trunk and decoder of the set transformer share."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

Modulation = tuple[Tensor, ...]
"""Shift, scale and gate of attention, then those of the MLP, each Float[B 1 W] (adaLN-Zero)."""


def fourier(coordinates: Float[Tensor, "*N D"], width: int, top: float, low: float = 1.0) -> Float[Tensor, "*N W"]:
    """Sines and cosines of each coordinate at frequencies from `low` pi to `top` pi, log-spaced.

    Vaswani et al. 2017 in the form that INRFlow uses for ambient coordinates: width / (2 D) frequencies an axis;
    what does not divide stays 0. Computed in float64, since the highest frequency turns fast.
    """
    axes = coordinates.shape[-1]
    count = width // (2 * axes)
    steps = torch.linspace(0, 1, count, dtype=torch.float64, device=coordinates.device)
    frequency = math.pi * low * (top / low) ** steps
    angle = coordinates.double()[..., None] * frequency
    waves = torch.cat([angle.sin(), angle.cos()], -1).flatten(-2)
    return functional.pad(waves, (0, width - waves.shape[-1])).to(coordinates.dtype)


def octaves(coordinates: Float[Tensor, "*N D"], count: int) -> Float[Tensor, "*N F"]:
    """Sines and cosines at 1, 2, 4, ... rad per unit, `count` octaves an axis: how a moving point is embedded."""
    frequency = 2.0 ** torch.arange(count, dtype=coordinates.dtype, device=coordinates.device)
    angle = (coordinates[..., None] * frequency).flatten(-2)
    return torch.cat([angle.sin(), angle.cos()], -1)


class TimeEmbedding(nn.Module):
    """Time as a vector: 128 frequencies of 1000 t, then two linear layers (Peebles and Xie 2023, DiT)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(256, width), nn.Linear(width, width)

    def forward(self, t: Float[Tensor, " B"]) -> Float[Tensor, "B W"]:
        """The embedding of each time in [0, 1]."""
        frequency = torch.exp(-math.log(10_000) * torch.arange(128, dtype=torch.float32, device=t.device) / 128)
        angle = 1000 * t.float()[:, None] * frequency
        waves = torch.cat([angle.cos(), angle.sin()], -1)
        return self.outer(functional.silu(self.inner(waves)))


class Projection(nn.Module):
    """A linear layer, layer norm and SiLU: how values and embedded points enter."""

    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        self.linear, self.norm = nn.Linear(size, width), nn.LayerNorm(width)

    def forward(self, x: Float[Tensor, "*N F"]) -> Float[Tensor, "*N W"]:
        """Tokens of the inputs."""
        return functional.silu(self.norm(self.linear(x)))


class RmsNorm(nn.Module):
    """Root-mean-square norm of each head's queries or keys."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))

    def forward(self, x: Float[Tensor, "B H N d"]) -> Float[Tensor, "B H N d"]:
        """x at unit root mean square, times the learned gain."""
        return functional.rms_norm(x, x.shape[-1:], self.weight.to(x.dtype), 1e-6)


class SelfAttention(nn.Module):
    """Tokens attend to each other, with normed queries and keys and, where given, rotary positions."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.out = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width)
        self.norm_q, self.norm_k = RmsNorm(width // heads), RmsNorm(width // heads)

    def forward(self, x: Float[Tensor, "B L W"], rope: Tensor | None = None) -> Float[Tensor, "B L W"]:
        """Each token's mixture of all tokens."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # [B H L d] each
        q, k = self.norm_q(q), self.norm_k(k)
        if rope is not None:
            q, k = rotate(q, rope), rotate(k, rope)
        return self.out(functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class CrossAttention(nn.Module):
    """Tokens attend to tokens of another place, whose keys and values are made once and kept."""

    def __init__(self, width: int, heads: int, source_width: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.out = nn.Linear(width, width, bias=False), nn.Linear(width, width)
        self.source = nn.Linear(source_width, 2 * width, bias=False)
        self.norm_q, self.norm_k = RmsNorm(width // heads), RmsNorm(width // heads)

    def read(self, source: Float[Tensor, "B N S"]) -> tuple[Float[Tensor, "B H N d"], Float[Tensor, "B H N d"]]:
        """Keys and values of the source."""
        k, v = self.source(source).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return self.norm_k(k), v

    def forward(
        self, x: Float[Tensor, "B M W"], read: tuple[Tensor, Tensor], mask: Tensor | None = None
    ) -> Float[Tensor, "B M W"]:
        """Each token's mixture of the source."""
        q = self.norm_q(self.query(x).unflatten(-1, (self.heads, -1)).transpose(1, 2))
        allowed = None if mask is None else mask[:, None, None, :]
        mixed = functional.scaled_dot_product_attention(q, *read, attn_mask=allowed)
        return self.out(mixed.transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    """Two linear layers with a GELU between them."""

    def __init__(self, width: int, ratio: float) -> None:
        super().__init__()
        hidden = int(width * ratio)
        self.inner, self.outer = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: Float[Tensor, "B N W"]) -> Float[Tensor, "B N W"]:
        """The transformed tokens."""
        return self.outer(functional.gelu(self.inner(x), approximate="tanh"))


class Block(nn.Module):
    """adaLN-Zero block (Peebles and Xie 2023): attention and MLP, each modulated by the condition and gated from 0.

    With `source_width` the attention is to another place's tokens, else among its own.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        ratio: float,
        condition_width: int | None = None,
        source_width: int | None = None,
    ) -> None:
        super().__init__()
        self.attention: SelfAttention | CrossAttention = (
            SelfAttention(width, heads) if source_width is None else CrossAttention(width, heads, source_width)
        )
        self.mlp = Mlp(width, ratio)
        self.modulation = nn.Linear(condition_width or width, 6 * width)

    def modulate(self, vector: Float[Tensor, "B W"]) -> Modulation:
        """Shifts, scales and gates of a condition."""
        return tuple(self.modulation(functional.silu(vector))[:, None].chunk(6, -1))

    def forward(
        self, x: Float[Tensor, "B N W"], modulation: Modulation, *attended: Tensor | tuple[Tensor, Tensor] | None
    ) -> Float[Tensor, "B N W"]:
        """The tokens after attention (`attended`: rotary positions, or keys and values with a mask) and MLP."""
        shift, scale, gate, shift_mlp, scale_mlp, gate_mlp = modulation
        x = torch.addcmul(x, gate, self.attention(normalise(x, shift, scale), *attended))
        return torch.addcmul(x, gate_mlp, self.mlp(normalise(x, shift_mlp, scale_mlp)))


def normalise(x: Float[Tensor, "B N W"], shift: Tensor, scale: Tensor) -> Float[Tensor, "B N W"]:
    """Layer norm without own gain, then the condition's scale and shift."""
    return torch.addcmul(shift, functional.layer_norm(x, x.shape[-1:], eps=1e-6), 1 + scale)


def rotary(positions: Float[Tensor, "L D"], head_size: int) -> Float[Tensor, "2 L d"]:
    """Cosines and sines that rotate pairs of a head's numbers by each axis' position (Su et al. 2021, RoPE).

    `positions` count latents. The base is 100 and not 10,000: there are tens of latents along an axis, not thousands.
    """
    axes = positions.shape[-1]
    pairs = head_size // (2 * axes)
    frequency = 100.0 ** (-torch.arange(pairs, dtype=torch.float64) / pairs)
    angle = (positions.double()[..., None] * frequency).flatten(1)
    angle = functional.pad(angle, (0, head_size // 2 - angle.shape[1]))
    return torch.stack([angle.cos(), angle.sin()]).repeat(1, 1, 2).float()


def rotate(x: Float[Tensor, "B H L d"], rope: Float[Tensor, "2 L d"]) -> Float[Tensor, "B H L d"]:
    """x with its pairs (i, i + d / 2) rotated."""
    first, second = x.chunk(2, -1)
    return x * rope[0].to(x.dtype) + torch.cat([-second, first], -1) * rope[1].to(x.dtype)
