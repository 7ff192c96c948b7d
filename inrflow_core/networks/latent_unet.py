"""A U-Net on the plane or the planes of latents: the denoiser of latent diffusion (DDMI, section 3.3).

Source of the form: ADM (Dhariwal and Nichol 2021, arXiv:2105.05233). Its weights and values are those of the UNet2DModel of
the library diffusers with one DownBlock2D and AttnDownBlock2D after it. A condition of tokens, such as a text, is read by
cross-attention, which only such models have.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from inrflow_core.errors import UsageError
from inrflow_core.layers.convolution import (
    CellAttention,
    CellCrossAttention,
    Downsample,
    ResidualBlock,
    Upsample,
    norm,
    zero_,
)
from inrflow_core.networks._plane_networks import CellExchange, PlaneExchange, exchanged
from inrflow_core.networks._planes import IMAGE, Canvas, Planes
from inrflow_core.sets import ConditionEmbedding, ConditionSpec, Grid, SetSpec

EPS = 1e-5
TIME_SCALE = 1000.0
"""Times in [0, 1] are embedded as steps of a schedule of a thousand."""
READING_LEVELS = 2
"""Levels that read the tokens of a condition, the coarsest ones; the middle reads them too."""


@dataclass(frozen=True)
class Config:
    """Sizes of the U-Net; the defaults are the paper's for AFHQ."""

    width: int = 224
    """Channels at the full resolution of the latents; even."""
    multipliers: tuple[int, ...] = (1, 2, 4, 6)
    """Channels of each level in units of `width`, from fine to coarse; each level after the first halves the resolution."""
    depth: int = 2
    """Residual blocks of a level on the way down; on the way up there is one more."""
    head_width: int = 32
    """Channels of an attention head; it divides the channels of every level with attention."""
    attention_from: int = 1
    """The first level with attention, counted from 0; the levels before it have none."""
    plane_heads: int | None = None
    """Heads of an attention between the cells of all planes after every layer, as the paper has it for videos with 16: each
    plane then passes the other layers by itself, with shared weights. None: a canvas of several planes is one plane."""

    def __post_init__(self) -> None:
        for name in ("width", "depth", "head_width"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` is {getattr(self, name)}: at least 1")
        if self.width % 2:
            raise ValueError(f"`width` is {self.width}: even, for the sines and cosines of the time")
        if not self.multipliers or min(self.multipliers) < 1:
            raise ValueError(f"`multipliers` is {list(self.multipliers)}: at least one, each 1 or more")
        if self.attention_from < 0:
            raise ValueError(f"`attention_from` is {self.attention_from}: 0 or more")
        attended = [*self.widths[self.attention_from :], self.widths[-1]]  # the middle always attends
        if any(width % self.head_width for width in attended):
            raise ValueError(f"`head_width` is {self.head_width}: it divides {', '.join(map(str, attended))}")
        if self.plane_heads is not None and (
            self.plane_heads < 1 or any(width % self.plane_heads for width in self.widths)
        ):
            raise ValueError(f"`plane_heads` is {self.plane_heads}: it divides {', '.join(map(str, self.widths))}")

    @property
    def least_weights(self) -> int:
        """A lower bound on the number of weights."""
        return sum(9 * self.depth * width**2 for width in self.widths)

    @property
    def widths(self) -> list[int]:
        """Channels of each level."""
        return [self.width * multiplier for multiplier in self.multipliers]


def build_denoiser(config: Config, spec: SetSpec, condition: ConditionSpec) -> LatentUNet:
    """The U-Net for latents of this spec.

    Raises:
        UsageError: a plane cannot be halved so often, `plane_heads` has no planes, heads do not divide the levels that read
            tokens, or the condition has features of groups.
    """
    assert isinstance(spec.layout, Grid)
    planes = planes_apart(config, spec)
    if config.plane_heads is not None and len(planes) == 1:
        raise UsageError(
            "`plane_heads` is between several planes of latents, and these have one",
            hint="leave it out of [network.denoiser]",
        )
    factor = 2 ** (len(config.multipliers) - 1)
    rows, columns = spec.layout.shape
    for sides in planes.sides(rows, columns):
        if any(side % factor for side in sides):
            raise UsageError(
                f"{len(config.multipliers)} levels halve the plane of latents {len(config.multipliers) - 1} times, and "
                f"{' x '.join(map(str, sides))} is not divisible by {factor}",
                hint="take fewer `multipliers` in [network.denoiser]",
            )
    if condition.features:
        raise UsageError(
            "`latent-unet` takes a condition of one vector, such as a class, or of tokens, such as a text",
            hint='take `name = "label"` or `name = "text"` in [condition]',
        )
    readers = config.widths[-READING_LEVELS:] if condition.tokens else []
    if any(width % config.head_width for width in readers):
        raise UsageError(
            f"`head_width` is {config.head_width}, and the levels that read the condition's tokens are {readers} wide",
            hint="change `head_width` in [network.denoiser] to one that divides them",
        )
    return LatentUNet(config, spec, reads_tokens=condition.tokens > 0)


def planes_apart(config: Config, spec: SetSpec) -> Planes:
    """The planes that pass the layers by themselves; one, the whole canvas, unless there is an attention between planes."""
    return spec.layout.planes if config.plane_heads is not None and isinstance(spec.layout, Canvas) else IMAGE


class LatentUNet(nn.Module):
    """From noisy latents and a time to latents, such as a velocity; 0 with initial weights."""

    def __init__(self, config: Config, spec: SetSpec, *, reads_tokens: bool = False) -> None:
        super().__init__()
        assert isinstance(spec.layout, Grid)
        self.config, self.grid, self.reads_tokens = config, spec.layout.shape, reads_tokens
        self.planes = planes_apart(config, spec)
        widths, vector = config.widths, self.vector_width
        self.time = nn.Sequential(nn.Linear(config.width, vector), nn.SiLU(), nn.Linear(vector, vector))
        self.first = nn.Conv2d(spec.value_size, widths[0], 3, padding=1)
        self.down, skips = nn.ModuleList(), [widths[0]]
        for level, width in enumerate(widths):
            before = widths[max(level - 1, 0)]
            blocks = [self._block(before if number == 0 else width, width, level) for number in range(config.depth)]
            self.down.extend(layer for block in blocks for layer in self._with_exchange(block, width))
            skips += [width] * config.depth
            if level + 1 < len(widths):
                self.down.extend(self._with_exchange(Downsample(width, pads_one_side=False), width))
                skips.append(width)
        reading = self._reading(len(widths) - 1)
        attended = AttentiveBlock(widths[-1], widths[-1], vector, config.head_width, reading)
        last = AttentiveBlock(widths[-1], widths[-1], vector)
        self.middle = nn.ModuleList([attended, *self._with_exchange(last, widths[-1])])
        self.up, width = nn.ModuleList(), widths[-1]
        for level in reversed(range(len(widths))):
            for number in range(config.depth + 1):
                block, width = self._block(width + skips.pop(), widths[level], level), widths[level]
                if number == config.depth and level:
                    self.up.append(block)  # the exchange follows at twice the resolution
                else:
                    self.up.extend(self._with_exchange(block, width))
            if level:
                self.up.extend(self._with_exchange(Upsample(width), width))
        self.norm = norm(widths[0], EPS)
        self.last = nn.Conv2d(widths[0], spec.value_size, 3, padding=1)
        zero_(self.last)

    @property
    def vector_width(self) -> int:
        """Size of a condition's vector, and of its tokens."""
        return 4 * self.config.width

    def forward(
        self, latents: Float[Tensor, "B K E"], t: Float[Tensor, " B"], embedding: ConditionEmbedding
    ) -> Float[Tensor, "B K E"]:
        """The output at each cell of the plane, listed row by row."""
        vector = self.time(time_features(t, self.config.width).to(latents.dtype))
        if embedding.vector is not None:
            vector = vector + embedding.vector
        embeddings = [_of_planes(embedding._replace(vector=vector), count) for count in self.planes.counts]
        groups = self.planes.split_groups(latents.mT.unflatten(2, self.grid))
        x = [self.first(group.flatten(0, 1)) for group in groups]
        skips = [x]
        for layer in self.down:
            x = self._run(layer, x, embeddings)
            if isinstance(layer, PlaneExchange):
                skips[-1] = x
            else:
                skips.append(x)
        for layer in self.middle:
            x = self._run(layer, x, embeddings)
        for layer in self.up:
            if isinstance(layer, AttentiveBlock):
                x = [torch.cat(pair, 1) for pair in zip(x, skips.pop(), strict=True)]
            x = self._run(layer, x, embeddings)
        made = (self.last(functional.silu(self.norm(group))) for group in x)
        canvas = self.planes.join(
            *(group.unflatten(0, (-1, count)) for group, count in zip(made, self.planes.counts, strict=True))
        )
        return canvas.flatten(2).mT

    def _run(
        self, layer: nn.Module, groups: Sequence[Tensor], embeddings: Sequence[ConditionEmbedding]
    ) -> list[Tensor]:
        """The planes (B P, C, H, W) of each group after a layer."""
        if isinstance(layer, PlaneExchange):
            return exchanged(layer, groups)
        if isinstance(layer, AttentiveBlock):
            return [layer(group, each) for group, each in zip(groups, embeddings, strict=True)]
        return [layer(group) for group in groups]

    def _with_exchange(self, layer: nn.Module, width: int) -> list[nn.Module]:
        heads = self.config.plane_heads
        return [layer] if heads is None else [layer, CellExchange(width, self.planes, heads, eps=EPS)]

    def _block(self, width: int, out_width: int, level: int) -> AttentiveBlock:
        attends = level >= self.config.attention_from
        head_width = self.config.head_width if attends else None
        return AttentiveBlock(width, out_width, self.vector_width, head_width, self._reading(level))

    def _reading(self, level: int) -> int | None:
        """The width of a head that reads tokens at a level; None where no token is read."""
        reads = self.reads_tokens and level >= len(self.config.multipliers) - READING_LEVELS
        return self.config.head_width if reads else None


class AttentiveBlock(nn.Module):
    """A residual block, and after it self-attention and cross-attention to a condition's tokens, each where it has heads."""

    def __init__(
        self,
        width: int,
        out_width: int,
        vector_width: int,
        head_width: int | None = None,
        reading_head_width: int | None = None,
    ) -> None:
        super().__init__()
        self.block = ResidualBlock(width, out_width, embedding_width=vector_width, eps=EPS, is_zero=True)
        self.attention = None if head_width is None else CellAttention(out_width, out_width // head_width, eps=EPS)
        self.reading = None
        if reading_head_width is not None:
            self.reading = CellCrossAttention(out_width, out_width // reading_head_width, vector_width, eps=EPS)

    def forward(self, x: Float[Tensor, "B C H W"], embedding: ConditionEmbedding) -> Tensor:
        """The block's output (B, out_width, H, W); the vector is that of the time, with the condition's."""
        x = self.block(x, embedding.vector)
        if self.attention is not None:
            x = self.attention(x)
        if self.reading is None:
            return x
        assert embedding.tokens is not None
        return self.reading(x, embedding.tokens, embedding.is_token)


def _of_planes(embedding: ConditionEmbedding, count: int) -> ConditionEmbedding:
    """What each of `count` planes of a set reads: the set's vector and tokens."""
    if count == 1:
        return embedding
    vector, tokens, is_token = (
        None if each is None else each.repeat_interleave(count, 0)
        for each in (embedding.vector, embedding.tokens, embedding.is_token)
    )
    return embedding._replace(vector=vector, tokens=tokens, is_token=is_token)


def time_features(t: Float[Tensor, " B"], width: int) -> Float[Tensor, "B F"]:
    """Cosines, then sines, of a thousand t at width / 2 frequencies from 1 down to 1/10,000."""
    half = width // 2
    frequencies = torch.exp(torch.arange(half, device=t.device, dtype=torch.float64) * (-math.log(10000.0) / half))
    phase = TIME_SCALE * t.double()[:, None] * frequencies
    return torch.cat([phase.cos(), phase.sin()], -1).float()
