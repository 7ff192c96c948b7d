"""Layers of networks of planes: residual blocks of cells and of points, attention over cells, and changes of resolution.

Source of the form: ADM (Dhariwal and Nichol 2021, arXiv:2105.05233) and latent diffusion (Rombach et al. 2022,
arXiv:2112.10752), whose networks DDMI takes.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

GROUPS = 32
"""Groups of a norm, at most."""
GROUP_WIDTH = 4
"""Channels of a group, at least: a norm of single channels would take out every vector that is added to them."""


def norm(width: int, eps: float) -> nn.GroupNorm:
    """A group norm of `width` channels: 32 groups, or of narrow layers fewer."""
    groups = math.gcd(GROUPS, width)
    while groups > 1 and width // groups < GROUP_WIDTH:
        groups //= 2
    return nn.GroupNorm(groups, width, eps=eps)


class ResidualBlock(nn.Module):
    """Norm, SiLU and a convolution, twice, added to the input; a 1 x 1 convolution where the widths differ.

    With `embedding_width` a vector, such as that of the time, is added to each channel between the two halves.
    """

    def __init__(
        self,
        width: int,
        out_width: int,
        *,
        embedding_width: int | None = None,
        eps: float = 1e-6,
        is_zero: bool = False,
    ) -> None:
        super().__init__()
        self.first_norm, self.second_norm = norm(width, eps), norm(out_width, eps)
        self.first = nn.Conv2d(width, out_width, 3, padding=1)
        self.second = nn.Conv2d(out_width, out_width, 3, padding=1)
        self.embedding = None if embedding_width is None else nn.Linear(embedding_width, out_width)
        self.shortcut = nn.Identity() if width == out_width else nn.Conv2d(width, out_width, 1)
        if is_zero:
            zero_(self.second)

    def forward(self, x: Float[Tensor, "B C H W"], vector: Float[Tensor, "B E"] | None = None) -> Tensor:
        """The block's output (B, out_width, H, W)."""
        y = self.first(functional.silu(self.first_norm(x)))
        if self.embedding is not None:
            assert vector is not None
            y = y + self.embedding(functional.silu(vector))[:, :, None, None]
        return self.shortcut(x) + self.second(functional.silu(self.second_norm(y)))


class CellAttention(nn.Module):
    """Self-attention between the cells of a plane, added to the input; its heads share the width unless they have their own."""

    def __init__(self, width: int, heads: int = 1, *, head_width: int | None = None, eps: float = 1e-6) -> None:
        super().__init__()
        self.heads = heads
        self.norm = norm(width, eps)
        inner = width if head_width is None else heads * head_width
        self.query, self.key, self.value = (nn.Linear(width, inner) for _ in range(3))
        self.out = nn.Linear(inner, width)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        """The cells after one exchange."""
        cells = self.norm(x).flatten(2).mT
        q, k, v = (
            layer(cells).unflatten(-1, (self.heads, -1)).transpose(1, 2) for layer in (self.query, self.key, self.value)
        )
        read = functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return x + self.out(read).mT.unflatten(2, x.shape[-2:])


class CellCrossAttention(nn.Module):
    """The cells of a plane attend to the tokens of a condition; added to the input, 0 at the start."""

    def __init__(self, width: int, heads: int, source_width: int, *, eps: float = 1e-6) -> None:
        super().__init__()
        self.heads = heads
        self.norm, self.query = norm(width, eps), nn.Linear(width, width)
        self.key, self.value = (nn.Linear(source_width, width) for _ in range(2))
        self.out = nn.Linear(width, width)
        zero_(self.out)

    def forward(
        self, x: Float[Tensor, "B C H W"], tokens: Float[Tensor, "B K S"], is_token: Bool[Tensor, "B K"] | None = None
    ) -> Float[Tensor, "B C H W"]:
        """The cells after they read the tokens; where `is_token` is False there is padding, which none reads."""
        cells = self.norm(x).flatten(2).mT
        q, k, v = (
            y.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for y in (self.query(cells), self.key(tokens), self.value(tokens))
        )
        allowed = None if is_token is None else is_token[:, None, None, :]
        read = functional.scaled_dot_product_attention(q, k, v, attn_mask=allowed).transpose(1, 2).flatten(2)
        return x + self.out(read).mT.unflatten(2, x.shape[-2:])


class Downsample(nn.Module):
    """Half the resolution, by a convolution of stride 2; odd sides are rounded down.

    `pads_one_side`: one row and column of zeros after the last, as in latent diffusion's autoencoder, in place of one on
    every side.
    """

    def __init__(self, width: int, *, pads_one_side: bool) -> None:
        super().__init__()
        self.pads_one_side = pads_one_side
        self.convolution = nn.Conv2d(width, width, 3, stride=2, padding=0 if pads_one_side else 1)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C h w"]:
        """The plane at half the resolution."""
        return self.convolution(functional.pad(x, (0, 1, 0, 1)) if self.pads_one_side else x)


class Upsample(nn.Module):
    """Twice the resolution, or that of the columns alone: each cell four times, or twice, then a convolution."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Float[Tensor, "B C H W"], row_factor: float = 2.0) -> Float[Tensor, "B C h w"]:
        """The plane with twice the columns and `row_factor` times the rows."""
        return self.convolution(functional.interpolate(x, scale_factor=(row_factor, 2.0), mode="nearest"))


class MlpBlock(nn.Module):
    """Two linear layers with ReLU before each, added to a linear map of the input.

    With `is_zero` only that map acts at the start.
    """

    def __init__(self, width: int, out_width: int, *, is_zero: bool = True) -> None:
        super().__init__()
        hidden = min(width, out_width)
        self.first, self.second = nn.Linear(width, hidden), nn.Linear(hidden, out_width)
        self.shortcut = nn.Identity() if width == out_width else nn.Linear(width, out_width, bias=False)
        if is_zero:
            zero_(self.second)

    def forward(self, x: Float[Tensor, "*B A"]) -> Float[Tensor, "*B E"]:
        """The block's output."""
        return self.shortcut(x) + self.second(functional.relu(self.first(functional.relu(x))))


@torch.no_grad()
def zero_(layer: nn.Conv2d | nn.Linear) -> None:
    """Set the weights of a layer to 0, so that it adds nothing at the start."""
    layer.weight.zero_()
    if layer.bias is not None:
        layer.bias.zero_()
