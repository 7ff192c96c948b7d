"""An autoencoder between clips of video and basis fields on three planes of time and space (DDMI, sections 3.2 and 4).

The encoder turns patches of frames into tokens, lets them attend along time and inside each frame, and pools them along each axis
to the three planes of the other two. The decoder is that of images, shared by the planes; it never refines time. Sources: the
encoder of TimeSformer (Bertasius et al. 2021, arXiv:2102.05095) and the planes of PVDM (Yu et al. 2023, arXiv:2302.07685), which
DDMI takes. Each plane is read at the query that is learned for it; the releases of both read the first token of the axis in its
place.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from inrflow_core.errors import UsageError
from inrflow_core.layers.rope import apply_rope, rotary
from inrflow_core.networks._contract import ReadoutState
from inrflow_core.networks._plane_networks import LOG_VARIANCES, Decoder, PlaneSizes
from inrflow_core.networks._planes import VIDEO, Canvas
from inrflow_core.sets import Grid, SetSpec

POSITION_DEVIATION = 0.02
"""Standard deviation of learned queries and positions at the start."""


@dataclass(frozen=True)
class Config(PlaneSizes):
    """Sizes of the autoencoder; the defaults are those of the paper's model of SkyTimelapse at 256 x 256 but for `exchange` and its
    three `fields`."""

    width: int = 64
    """Channels of the decoder at the full resolution."""
    multipliers: tuple[int, ...] = (1, 2, 4, 8)
    """Channels of each level of the decoder in units of `width`, from fine to coarse; each level after the first halves the
    resolution of frames, and none that of time."""
    depth: int = 2
    """A level of the decoder has one residual block more than this."""
    hidden_channels: int = 64
    """Channels between the latents and the decoder."""
    patch: int = 8
    """Pixels along a side of a patch of a frame, which is one cell of the latents."""
    token_width: int = 384
    """Width of the encoder's tokens."""
    token_depth: int = 8
    """Blocks of the encoder: attention along time, attention inside each frame and a gated MLP."""
    heads: int = 8
    """Attention heads of these blocks."""
    head_width: int = 64
    """Channels of each of these heads; a multiple of 4, for rotary embeddings of rows and columns."""
    pool_depth: int = 4
    """Blocks that pool the tokens along an axis."""
    pool_heads: int = 4
    """Attention heads of these blocks."""
    pool_head_width: int = 48
    """Channels of each of these heads."""
    pool_width: int = 512
    """Width of the MLP of these blocks."""
    exchange: Literal["axes", "cells"] = "axes"
    """How the planes exchange features in the decoder: `axes` by averages over one axis at the same position along the other;
    `cells` as in the paper, by attention between all cells, whose cost grows with the square of their number."""

    def __post_init__(self) -> None:
        super().__post_init__()
        sizes = (
            "patch",
            "token_width",
            "token_depth",
            "heads",
            "pool_depth",
            "pool_heads",
            "pool_head_width",
            "pool_width",
        )
        for name in sizes:
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` is {getattr(self, name)}: at least 1")
        if self.head_width < 1 or self.head_width % 4:
            raise ValueError(f"`head_width` is {self.head_width}: a multiple of 4")

    @property
    def least_weights(self) -> int:
        """A lower bound on the number of weights."""
        return super().least_weights + 12 * self.token_depth * self.token_width**2


def field_shapes(config: Config, spec: SetSpec) -> list[tuple[int, int, int]]:
    """Channels, rows and columns of the canvas of each basis field, from coarse to fine."""
    assert isinstance(spec.layout, Grid)
    frames, rows, _ = spec.layout.shape
    finest = rows // config.patch * config.factor
    sides = [finest // 2**halvings for halvings in reversed(range(config.num_fields))]
    return [(config.field_channels, *VIDEO.canvas_shape((side, side), (frames, side))) for side in sides]


def build_autoencoder(config: Config, spec: SetSpec) -> VideoAutoencoder:
    """The autoencoder for clips of square frames.

    Raises:
        UsageError: the sets are others, or patches do not tile a frame.
    """
    if not isinstance(spec.layout, Grid) or len(spec.layout.shape) != 3:
        raise UsageError(
            f"`video-autoencoder` reads clips, and these sets are {spec.layout}",
            hint='take `name = "video"` in [domain], or `plane-autoencoder` for images',
        )
    _, rows, columns = spec.layout.shape
    if rows != columns:
        raise UsageError(
            f"`video-autoencoder` reads square frames, and these have {rows} x {columns} pixels",
            hint="take frames of one side; the function is evaluated at any aspect",
        )
    if rows % config.patch:
        raise UsageError(
            f"patches of {config.patch} do not tile frames of {rows} x {columns} pixels",
            hint="take another `patch` in [network.autoencoder], or another resolution",
        )
    return VideoAutoencoder(config, spec)


class VideoAutoencoder(nn.Module):
    """Encoder of clips and decoder of three planes."""

    def __init__(self, config: Config, spec: SetSpec) -> None:
        super().__init__()
        assert isinstance(spec.layout, Grid)
        frames, rows, columns = spec.layout.shape
        side = rows // config.patch
        self.config = config
        self.canvas = VIDEO.canvas_shape((side, side), (frames, side))
        self.latent_spec = SetSpec(2, config.latent_channels, Canvas(self.canvas, VIDEO))
        self.encoder = ClipEncoder(config, (frames, rows, columns), spec.value_size)
        self.decoder = Decoder(config, VIDEO, config.exchange)

    def encode(self, values: Float[Tensor, "B N C"]) -> tuple[Float[Tensor, "B K E"], Float[Tensor, "B K E"]]:
        """Mean and standard deviation of the latents of clips whose pixels are listed frame by frame, row by row."""
        mean, log_variance = self.encoder(values).flatten(2).mT.float().chunk(2, -1)
        return mean, (log_variance.clamp(*LOG_VARIANCES) / 2).exp()

    def decode(self, latents: Float[Tensor, "B K E"]) -> ReadoutState:
        """The canvas of each basis field of latents, from coarse to fine."""
        return self.decoder(*VIDEO.split_groups(latents.mT.unflatten(2, self.canvas)))


class ClipEncoder(nn.Module):
    """From clips to the canvas of three planes."""

    def __init__(self, config: Config, grid: tuple[int, int, int], channels: int) -> None:
        super().__init__()
        self.grid, self.patch = grid, config.patch
        cells = (grid[0], grid[1] // config.patch, grid[2] // config.patch)
        self.patches = nn.Linear(channels * config.patch**2, config.token_width)
        self.blocks = nn.ModuleList(TimeSpaceBlock(config, cells) for _ in range(config.token_depth))
        axes = (pooled_axis(*plane) for plane in VIDEO.axes)
        self.pooling = nn.ModuleList(AxisPooling(config, cells[axis]) for axis in axes)
        self.latents = nn.ModuleList(nn.Linear(config.token_width, 2 * config.latent_channels) for _ in VIDEO.axes)

    def forward(self, values: Float[Tensor, "B N C"]) -> Float[Tensor, "B E H W"]:
        """Mean and logarithm of the variance of each latent, the former's channels first."""
        x = self.patches(self._patches(values))
        for block in self.blocks:
            x = block(x)
        planes = []
        for (rows, columns), pooling, latents in zip(VIDEO.axes, self.pooling, self.latents, strict=True):
            along = x.permute(0, 1 + rows, 1 + columns, 1 + pooled_axis(rows, columns), 4)
            cells = latents(pooling(along.flatten(0, 2)))
            planes.append(cells.unflatten(0, along.shape[:3]).permute(0, 3, 1, 2))
        return VIDEO.join(*VIDEO.stack(planes))

    def _patches(self, values: Float[Tensor, "B N C"]) -> Float[Tensor, "B T h w P"]:
        """The pixels of each patch."""
        (frames, rows, columns), patch = self.grid, self.patch
        pixels = values.reshape(-1, frames, rows // patch, patch, columns // patch, patch, values.shape[-1])
        return pixels.transpose(3, 4).flatten(4)


class TimeSpaceBlock(nn.Module):
    """Attention along time for each patch, inside each frame, and a gated MLP (GEGLU)."""

    time_rope: Tensor
    space_rope: Tensor

    def __init__(self, config: Config, cells: tuple[int, int, int]) -> None:
        super().__init__()
        width = config.token_width
        self.time, self.space = (TokenAttention(width, config.heads, config.head_width) for _ in range(2))
        self.norm, self.inner, self.outer = (
            nn.LayerNorm(width),
            nn.Linear(width, 8 * width),
            nn.Linear(4 * width, width),
        )
        times, rows, columns = (torch.arange(count).float() for count in cells)
        space = torch.stack(torch.meshgrid(rows, columns, indexing="ij"), -1).flatten(0, 1)
        for name, positions in (("time_rope", times[:, None]), ("space_rope", space)):
            self.register_buffer(name, rotary(positions, config.head_width), persistent=False)

    def forward(self, x: Float[Tensor, "B T h w W"]) -> Float[Tensor, "B T h w W"]:
        """The tokens after the block."""
        along = x.permute(0, 2, 3, 1, 4)
        read = self.time(along.flatten(0, 2), self.time_rope)
        x = x + read.unflatten(0, along.shape[:3]).permute(0, 3, 1, 2, 4)
        frames = x.flatten(0, 1)
        x = x + self.space(frames.flatten(1, 2), self.space_rope).view_as(x)
        value, gate = self.inner(self.norm(x)).chunk(2, -1)
        return x + self.outer(value * functional.gelu(gate))


class AxisPooling(nn.Module):
    """A learned query that reads the tokens of an axis, and is what is left of them."""

    def __init__(self, config: Config, length: int) -> None:
        super().__init__()
        width = config.token_width
        self.query = nn.Parameter(POSITION_DEVIATION * torch.randn(width))
        self.positions = nn.Parameter(POSITION_DEVIATION * torch.randn(length + 1, width))
        self.attention = nn.ModuleList(
            TokenAttention(width, config.pool_heads, config.pool_head_width) for _ in range(config.pool_depth)
        )
        self.mlps = nn.ModuleList(
            nn.Sequential(
                nn.LayerNorm(width), nn.Linear(width, config.pool_width), nn.GELU(), nn.Linear(config.pool_width, width)
            )
            for _ in range(config.pool_depth)
        )

    def forward(self, tokens: Float[Tensor, "B N W"]) -> Float[Tensor, "B W"]:
        """One token for each row of tokens along the axis."""
        query = self.query.expand(len(tokens), 1, -1)
        x = torch.cat([tokens, query.to(tokens.dtype)], 1) + self.positions
        for number, (attention, mlp) in enumerate(zip(self.attention, self.mlps, strict=True), start=1):
            read = attention(
                x, last=1 if number == len(self.mlps) else None
            )  # of the last block the query alone is used
            x = x[:, -read.shape[1] :] + read
            x = x + mlp(x)
        return x[:, -1]


class TokenAttention(nn.Module):
    """Attention of normed tokens to each other."""

    def __init__(self, width: int, heads: int, head_width: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * heads * head_width, bias=False), nn.Linear(heads * head_width, width)

    def forward(
        self, x: Float[Tensor, "B N W"], rope: Float[Tensor, "2 N d"] | None = None, last: int | None = None
    ) -> Float[Tensor, "B M W"]:
        """What the tokens read, or the `last` of them alone; `rope` are cosines and sines of rotary embeddings."""
        q, k, v = self.qkv(self.norm(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        if rope is not None:
            q, k = (apply_rope(each, rope).to(v.dtype) for each in (q, k))
        q = q if last is None else q[:, :, -last:]
        return self.out(functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


def pooled_axis(rows: int, columns: int) -> int:
    """The axis of (t, row, column) that a plane of the other two lacks."""
    return 3 - rows - columns
