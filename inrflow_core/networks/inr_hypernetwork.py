"""A transformer that reads a noisy observation and writes the tokens of its neural function (INRCT, section 4.1).

The observation, a grid or the pixels of one posed view, becomes patches, which blocks of DiT encode under the noise level.
Learned tokens then attend to each other and to the patches; a read-out turns them into a function. INRCT, appendix B.2,
follows DiT (Peebles and Xie 2023, arXiv:2212.09748) and ANR (Zhang et al. 2024).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Float32
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from inrflow_core.errors import UsageError
from inrflow_core.layers.attention import GeluLinear, ModulatedLinear
from inrflow_core.layers.embeddings import TimeEmbedding
from inrflow_core.networks._contract import TokenShape
from inrflow_core.sets import Grid, Queries, Rays, SetSpec

RAY_CHANNELS = 6
"""Numbers of a pixel's ray, its origin and direction, beside its color."""


@dataclass(frozen=True)
class Config:
    """Sizes of the hyper-network; the defaults are the paper's."""

    width: int = 768
    """Width of a token."""
    heads: int = 12
    """Attention heads; they divide the width."""
    encoder_depth: int = 8
    """Blocks that encode the patches."""
    decoder_depth: int = 6
    """Blocks that write the tokens."""
    mlp_width: int = 3072
    """Hidden size of the MLPs."""
    patch: int = 4
    """Side of a patch, in pixels; it divides the sides of the training grid."""
    checkpoint_activations: bool = False
    """Recompute each block's activations in the backward pass instead of saving them."""

    def __post_init__(self) -> None:
        for name in ("width", "heads", "encoder_depth", "decoder_depth", "mlp_width", "patch"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` is {getattr(self, name)}: at least 1")
        if self.width % self.heads or self.width % 4:
            raise ValueError(f"`width` is {self.width}: a multiple of `heads` ({self.heads}) and of 4")

    @property
    def least_weights(self) -> int:
        """A number of weights that such a network has at least."""
        blocks = self.encoder_depth + self.decoder_depth
        return blocks * (4 * self.width**2 + 2 * self.width * self.mlp_width)


def build_hypernetwork(config: Config, spec: SetSpec, tokens: TokenShape) -> Hypernetwork:
    """The hyper-network of a grid, or of one posed view, that writes tokens of a shape.

    Raises:
        UsageError: the sets have no raster, patches do not tile it, or the read-out reads tokens of another width.
    """
    match spec.layout:
        case Grid((rows, columns)):
            raster, channels = (rows, columns), spec.value_size
        case Rays(1, rows, columns, surface_points=None):
            raster, channels = (rows, columns), spec.value_size + RAY_CHANNELS
        case _:
            raise UsageError(
                f"the hyper-network reads images or one posed view, and these sets are {spec.layout}",
                hint="take the domain `image`, or `radiance` without `surface_points`",
            )
    if rows % config.patch or columns % config.patch:
        raise UsageError(
            f"patches of {config.patch} do not tile {rows} x {columns} pixels",
            hint="take a `patch` that divides both sides",
        )
    if tokens.width != config.width:
        raise UsageError(
            f"the hyper-network writes tokens of width {config.width}, and the read-out reads {tokens.width}",
            hint="give `width` of [network.hypernetwork] and `token_width` of [network.readout] one value",
        )
    return Hypernetwork(config, raster, channels, has_rays=isinstance(spec.layout, Rays), num_tokens=tokens.num)


class Hypernetwork(nn.Module):
    """Patches to tokens."""

    PARTS = {"patches": "encoder", "level": "encoder", "tokens": "decoder"}
    positions: Tensor

    def __init__(
        self, config: Config, raster: tuple[int, int], channels: int, *, has_rays: bool, num_tokens: int
    ) -> None:
        super().__init__()
        self.config, self.raster, self.has_rays = config, raster, has_rays
        self.patches = nn.Linear(channels * config.patch**2, config.width)
        self.level = TimeEmbedding(config.width, scale=1.0)
        self.encoder = nn.ModuleList(EncoderBlock(config) for _ in range(config.encoder_depth))
        self.tokens = nn.Parameter(torch.randn(num_tokens, config.width))
        self.decoder = nn.ModuleList(DecoderBlock(config) for _ in range(config.decoder_depth))
        sides = raster[0] // config.patch, raster[1] // config.patch
        # Rays say where a pixel is; patches of a grid need a code of their position.
        code = torch.zeros(math.prod(sides), config.width) if has_rays else position_code(sides, config.width)
        self.register_buffer("positions", code, persistent=False)

    def forward(
        self, context: Queries, values: Float[Tensor, "B N C"], level: Float[Tensor, " B"]
    ) -> Float[Tensor, "B L W"]:
        """See `_contract.Hypernetwork`; `context` are the pixels row by row."""
        if self.has_rays:
            assert context.coordinates is not None and context.directions is not None
            rays = (each.expand(values.shape[0], -1, -1) for each in (context.coordinates, context.directions))
            values = torch.cat([values, *rays], -1)
        x = self.patches(patches_of(values, self.raster, self.config.patch)) + self.positions
        condition = functional.silu(self.level(level))
        for block in self.encoder:
            x = self._run(block, x, condition)
        tokens = self.tokens.expand(values.shape[0], -1, -1)
        for block in self.decoder:
            tokens = self._run(block, tokens, x)
        return tokens

    def recomputed_blocks(self) -> list[nn.Module]:
        """The blocks of both transformers."""
        return [*self.encoder, *self.decoder]

    def _run(self, block: Callable[..., Tensor], *inputs: Tensor) -> Float[Tensor, "B L W"]:
        if self.config.checkpoint_activations and torch.is_grad_enabled():
            result: Any = checkpoint(block, *inputs, use_reentrant=False, preserve_rng_state=False)
            return result
        return block(*inputs)


class EncoderBlock(nn.Module):
    """adaLN-Zero block of DiT, without norms of queries and keys."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        width = config.width
        self.heads = config.heads
        self.qkv, self.out = ModulatedLinear(width, 3 * width), nn.Linear(width, width)
        self.inner, self.outer = ModulatedLinear(width, config.mlp_width), GeluLinear(config.mlp_width, width)
        self.modulation = nn.Linear(width, 6 * width)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    def forward(self, x: Float[Tensor, "B N W"], condition: Float[Tensor, "B W"]) -> Float[Tensor, "B N W"]:
        """The patches after attention and MLP."""
        shift, scale, gate, shift_mlp, scale_mlp, gate_mlp = self.modulation(condition)[:, None].chunk(6, -1)
        x = torch.addcmul(x, gate, self.out(attend(*self.qkv(x, shift, scale).chunk(3, -1), heads=self.heads)))
        return torch.addcmul(x, gate_mlp, self.outer(self.inner(x, shift_mlp, scale_mlp)))


class Attention(nn.Module):
    """Attention of normed tokens to themselves, or to a source as it is."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.query, self.key_value = nn.Linear(width, width, bias=False), nn.Linear(width, 2 * width, bias=False)
        self.out = nn.Linear(width, width)

    def forward(
        self, x: Float[Tensor, "B L W"], source: Float[Tensor, "B N W"] | None = None
    ) -> Float[Tensor, "B L W"]:
        """What the tokens read."""
        x = self.norm(x)
        keys, values = self.key_value(x if source is None else source).chunk(2, -1)
        return self.out(attend(self.query(x), keys, values, heads=self.heads))


class DecoderBlock(nn.Module):
    """Tokens attend to each other, then to the patches."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.own, self.cross = (Attention(config.width, config.heads) for _ in range(2))
        self.mlp = nn.Sequential(
            nn.LayerNorm(config.width),
            nn.Linear(config.width, config.mlp_width),
            nn.GELU(),
            nn.Linear(config.mlp_width, config.width),
        )

    def forward(self, tokens: Float[Tensor, "B L W"], patches: Float[Tensor, "B N W"]) -> Float[Tensor, "B L W"]:
        """The tokens after both attentions and the MLP."""
        tokens = tokens + self.own(tokens)
        tokens = tokens + self.cross(tokens, patches)
        return tokens + self.mlp(tokens)


def attend(
    query: Float[Tensor, "B L W"], key: Float[Tensor, "B N W"], value: Float[Tensor, "B N W"], *, heads: int
) -> Float[Tensor, "B L W"]:
    """Softmax attention in several heads."""
    q, k, v = (each.unflatten(-1, (heads, -1)).transpose(1, 2) for each in (query, key, value))
    return functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


def patches_of(values: Float[Tensor, "B N C"], raster: tuple[int, int], patch: int) -> Float[Tensor, "B P E"]:
    """The pixels of each patch in one row: patches row by row, and inside each its pixels row by row."""
    rows, columns = raster
    grid = values.reshape(values.shape[0], rows // patch, patch, columns // patch, patch, -1)
    return grid.transpose(2, 3).flatten(3).flatten(1, 2)


def position_code(sides: tuple[int, int], width: int) -> Float32[Tensor, "N width"]:
    """Fixed sines and cosines of the row, then of the column, of each cell (DiT; Vaswani et al. 2017)."""
    frequencies = 10_000.0 ** -(torch.arange(width // 4, dtype=torch.float64) / (width // 4))
    codes = []
    for index in torch.meshgrid(*(torch.arange(side, dtype=torch.float64) for side in sides), indexing="ij"):
        phase = index.flatten()[:, None] * frequencies
        codes += [phase.sin(), phase.cos()]
    return torch.cat(codes, -1).float()
