"""Encoder and decoder of planes: what the autoencoders of images, of space and of videos share.

Source of the layers: the autoencoder of latent diffusion (Rombach et al. 2022, arXiv:2112.10752). Every plane goes through the
same weights; of several planes, layers between the levels exchange features.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from inrflow_core.layers.convolution import CellAttention, Downsample, ResidualBlock, Upsample, norm, zero_
from inrflow_core.networks._planes import Planes

LOG_VARIANCES = (-30.0, 20.0)
"""Range that logarithms of variances are clamped to."""
Exchange = Literal["axes", "channels", "cells"]
"""How planes exchange features; see `AxisExchange`, `ChannelExchange` and `CellExchange`."""
EXCHANGE_HEADS = 8
"""Heads of the paper's attention between all cells of a video's planes; each is as wide as the layer."""


@dataclass(frozen=True)
class PlaneSizes:
    """Sizes of encoder and decoder; the defaults are those of the paper's model of AFHQ at 256 x 256."""

    width: int = 128
    """Channels at the full resolution."""
    multipliers: tuple[int, ...] = (1, 2, 4)
    """Channels of each level in units of `width`, from fine to coarse; each level after the first halves the resolution."""
    depth: int = 2
    """Residual blocks of a level of the encoder; the decoder has one more."""
    latent_channels: int = 64
    """Channels of the latents."""
    hidden_channels: int = 128
    """Channels between the networks and the latents: the encoder leaves twice as many, mean and logarithm of the variance."""
    field_channels: int = 64
    """Channels of each basis field."""
    fields: int | None = None
    """How many of the finest levels have a basis field; None: all. With 1 there is no hierarchy (the paper's table 8)."""

    def __post_init__(self) -> None:
        for name in ("width", "depth", "latent_channels", "hidden_channels", "field_channels"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` is {getattr(self, name)}: at least 1")
        if not self.multipliers or min(self.multipliers) < 1:
            raise ValueError(f"`multipliers` is {list(self.multipliers)}: at least one, each 1 or more")
        if self.fields is not None and not 1 <= self.fields <= len(self.multipliers):
            raise ValueError(f"`fields` is {self.fields}: from 1 to the number of levels, {len(self.multipliers)}")

    @property
    def widths(self) -> list[int]:
        """Channels of each level."""
        return [self.width * multiplier for multiplier in self.multipliers]

    @property
    def num_fields(self) -> int:
        """Basis fields."""
        return len(self.multipliers) if self.fields is None else self.fields

    @property
    def least_weights(self) -> int:
        """A lower bound on the number of weights."""
        return sum(9 * self.depth * width**2 for width in self.widths)

    @property
    def factor(self) -> int:
        """Cells of the finest field along a side of a cell of the latents."""
        return 2 ** (len(self.multipliers) - 1)

    def field_shapes(self, planes: Planes, rows: int, columns: int) -> list[tuple[int, int, int]]:
        """Channels, rows and columns of the canvas of each basis field, from coarse to fine; of the finest planes' sides."""
        halvings = reversed(range(self.num_fields))
        return [(self.field_channels, *planes.canvas_shape((rows // 2**n, columns // 2**n))) for n in halvings]


class Encoder(nn.Module):
    """From planes to mean and logarithm of the variance of each latent."""

    def __init__(self, sizes: PlaneSizes, channels: int, planes: Planes, exchange: Exchange = "axes") -> None:
        super().__init__()
        self.planes = planes
        widths, count = sizes.widths, len(planes)
        self.first = nn.Conv2d(channels, widths[0], 3, padding=1)
        layers: list[nn.Module] = []
        for level, width in enumerate(widths):
            before = widths[max(level - 1, 0)]
            layers += [ResidualBlock(before if block == 0 else width, width) for block in range(sizes.depth)]
            layers += exchange_layers(exchange, width, planes)
            if level + 1 < len(widths):
                layers.append(Downsample(width, pads_one_side=True))
        self.levels = nn.Sequential(*layers)
        self.middle = middle(widths[-1], planes, exchange)
        self.norm = norm(widths[-1], 1e-6)
        hidden = 2 * sizes.hidden_channels
        self.last = nn.Conv2d(widths[-1], hidden, 3, padding=1)
        # The planes' own weights, one group of channels for each.
        self.latents = nn.Conv2d(count * hidden, count * 2 * sizes.latent_channels, 1, groups=count)

    def forward(
        self, planes: Float[Tensor, "B P C H W"]
    ) -> tuple[Float[Tensor, "B P E h w"], Float[Tensor, "B P E h w"]]:
        """Mean and standard deviation of the latents of each plane."""
        x = self.middle(self.levels(self.first(planes.flatten(0, 1))))
        x = self.last(functional.silu(self.norm(x))).unflatten(0, (-1, len(self.planes)))
        statistics = self.latents(x.flatten(1, 2)).float().unflatten(1, (len(self.planes), -1))
        mean, log_variance = statistics.chunk(2, 2)
        return mean, (log_variance.clamp(*LOG_VARIANCES) / 2).exp()


class Decoder(nn.Module):
    """From latents to the basis fields."""

    def __init__(self, sizes: PlaneSizes, planes: Planes, exchange: Exchange = "axes") -> None:
        super().__init__()
        self.planes, self.num_fields = planes, sizes.num_fields
        widths = sizes.widths
        self.latents = PlaneConvolution(planes, sizes.latent_channels, sizes.hidden_channels)
        self.first = nn.Conv2d(sizes.hidden_channels, widths[-1], 3, padding=1)
        self.middle = middle(widths[-1], planes, exchange)
        levels, taps = [], []
        for level in reversed(range(len(widths))):
            before = widths[min(level + 1, len(widths) - 1)]
            blocks = [
                ResidualBlock(before if block == 0 else widths[level], widths[level])
                for block in range(sizes.depth + 1)
            ]
            levels.append(nn.Sequential(*blocks, *exchange_layers(exchange, widths[level], planes)))
            if 0 < level < sizes.num_fields:
                taps.append(nn.Conv2d(widths[level], sizes.field_channels, 1))
        self.levels, self.taps = nn.ModuleList(levels), nn.ModuleList(taps)
        self.upsamples = nn.ModuleList(Upsample(width) for width in reversed(widths[1:]))
        self.norm = norm(widths[0], 1e-6)
        self.last = nn.Conv2d(widths[0], sizes.field_channels, 3, padding=1)

    def forward(self, *latents: Float[Tensor, "B _ E _ w"]) -> tuple[Tensor, ...]:
        """The canvas of each basis field, from coarse to fine, of the latents of each group of planes."""
        x = through(self.middle, [self.first(group.flatten(0, 1)) for group in self.latents(*latents)])
        fields: list[Tensor] = []
        first_tap = len(self.levels) - self.num_fields
        for number, level in enumerate(self.levels):
            assert isinstance(level, nn.Sequential)
            x = through(level, x)
            if first_tap <= number < len(self.levels) - 1:
                fields.append(self._canvas(self.taps[number - first_tap](group) for group in x))
            if number + 1 < len(self.levels):
                factors = self.planes.row_factors
                x = [self.upsamples[number](group, factor) for group, factor in zip(x, factors, strict=True)]
        fields.append(self._canvas(self.last(functional.silu(self.norm(group))) for group in x))
        return tuple(fields)

    def _canvas(self, groups: Iterable[Float[Tensor, "_ F _ W"]]) -> Float[Tensor, "B F H V"]:
        """The canvas of all groups' planes."""
        counts = self.planes.counts
        return self.planes.join(*(x.unflatten(0, (-1, count)) for x, count in zip(groups, counts, strict=True)))


class PlaneConvolution(nn.Conv2d):
    """A 1 x 1 convolution with weights of its own for each plane."""

    def __init__(self, planes: Planes, width: int, out_width: int) -> None:
        super().__init__(len(planes) * width, len(planes) * out_width, 1, groups=len(planes))
        self.planes, self.out_width = planes, out_width

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, *groups: Float[Tensor, "B _ E _ _"]
    ) -> list[Float[Tensor, "B _ C _ _"]]:
        """The planes of each group after it."""
        assert self.bias is not None
        made = []
        for group, (first, end) in zip(groups, self.planes.bounds, strict=True):
            own = slice(first * self.out_width, end * self.out_width)
            x = functional.conv2d(group.flatten(1, 2), self.weight[own], self.bias[own], groups=end - first)
            made.append(x.unflatten(1, (end - first, -1)))
        return made


def through(layers: nn.Sequential, groups: Sequence[Tensor]) -> list[Tensor]:
    """The planes (B P, C, H, W) of each group after layers with shared weights, some of which are exchanges between all planes."""
    for layer in layers:
        is_exchange = isinstance(layer, PlaneExchange)
        groups = exchanged(layer, groups) if is_exchange else [layer(group) for group in groups]
    return list(groups)


def exchanged(layer: PlaneExchange, groups: Sequence[Tensor]) -> list[Tensor]:
    """The planes (B P, C, H, W) of each group after an exchange."""
    made = layer(*groups)
    return [made] if isinstance(made, Tensor) else list(made)


def middle(width: int, planes: Planes, exchange: Exchange) -> nn.Sequential:
    """A residual block, attention with one head and another residual block; of several planes also an exchange."""
    blocks = ResidualBlock(width, width), CellAttention(width), ResidualBlock(width, width)
    return nn.Sequential(*blocks, *exchange_layers(exchange, width, planes))


def exchange_layers(exchange: Exchange, width: int, planes: Planes) -> Iterator[nn.Module]:
    """What several planes exchange features by; nothing of a single plane."""
    if len(planes) > 1:
        match exchange:
            case "axes":
                yield AxisExchange(width, planes)
            case "channels":
                yield ChannelExchange(width, planes)
            case "cells":
                yield CellExchange(width, planes, EXCHANGE_HEADS, head_width=width)


class PlaneExchange(nn.Module, ABC):
    """A layer between all planes of a set: a tensor of planes of one size, or one for each group of planes.

    Each set's planes are neighbors along the first axis.
    """

    def __init__(self, planes: Planes) -> None:
        super().__init__()
        self.planes = planes

    def forward(self, *groups: Float[Tensor, "_ C _ _"]) -> Tensor | tuple[Tensor, ...]:
        """The planes after the exchange, as they came."""
        made = self.mixed(groups)
        return made[0] if len(made) == 1 else tuple(made)

    @abstractmethod
    def mixed(self, groups: Sequence[Float[Tensor, "_ C _ _"]]) -> Sequence[Float[Tensor, "_ C _ _"]]:
        """Each group's planes after the exchange."""


class ChannelExchange(PlaneExchange):
    """The paper's of shapes: residual block, attention and residual block on all planes, stacked along the channels.

    It mixes cells of the same row and column, which are not at the same position in space.
    """

    def __init__(self, width: int, planes: Planes) -> None:
        super().__init__(planes)
        stacked = len(planes) * width
        self.first, self.second = ResidualBlock(stacked, stacked), ResidualBlock(stacked, stacked)
        self.attention = CellAttention(stacked)

    def mixed(self, groups: Sequence[Float[Tensor, "_ C _ _"]]) -> list[Float[Tensor, "_ C _ _"]]:
        """The planes after the exchange; they are of one size."""
        (x,) = groups
        stacked = x.unflatten(0, (-1, len(self.planes))).flatten(1, 2)
        stacked = self.second(self.attention(self.first(stacked)))
        return [stacked.unflatten(1, (len(self.planes), -1)).flatten(0, 1)]


class AxisExchange(PlaneExchange):
    """Features of the other planes at the same position along each axis, averaged over their other axis.

    A 1 x 1 convolution of a plane's own features and of these is added, from 0 at the start.
    """

    def __init__(self, width: int, planes: Planes) -> None:
        super().__init__(planes)
        self.norm = norm(width, 1e-6)
        self.mix = nn.Conv2d(3 * width, width, 1)
        zero_(self.mix)

    def mixed(self, groups: Sequence[Float[Tensor, "_ C _ _"]]) -> list[Float[Tensor, "_ C _ _"]]:
        """Each group's planes after the exchange."""
        counts = self.planes.counts
        normed = [
            functional.silu(self.norm(x)).unflatten(0, (-1, count)) for x, count in zip(groups, counts, strict=True)
        ]
        planes = [plane for group in normed for plane in group.unbind(1)]
        profiles = [
            {rows: plane.mean(3), columns: plane.mean(2)}
            for plane, (rows, columns) in zip(planes, self.planes.axes, strict=True)
        ]
        along: list[tuple[Tensor, Tensor]] = []
        for number, axes in enumerate(self.planes.axes):
            others = [each for other, each in enumerate(profiles) if other != number]
            rows, columns = (torch.stack([each[axis] for each in others if axis in each]).sum(0) for axis in axes)
            along.append((rows[..., None], columns[:, :, None]))
        # The mix of the three, without copies of what is the same in each row or column.
        own, *rest = self.mix.weight.chunk(3, 1)
        made = []
        for x, group, (first, end) in zip(groups, normed, self.planes.bounds, strict=True):
            change = functional.conv2d(group.flatten(0, 1), own, self.mix.bias)
            for profile, weight in zip(zip(*along[first:end], strict=True), rest, strict=True):
                change = change + functional.conv2d(torch.stack(profile, 1).flatten(0, 1), weight)
            made.append(x + change)
        return made


class CellExchange(PlaneExchange):
    """The paper's of videos: attention between the cells of all planes, added to them.

    With `head_width = None` its heads share the width. Its cost grows with the square of the number of cells.
    """

    def __init__(
        self, width: int, planes: Planes, heads: int, *, head_width: int | None = None, eps: float = 1e-6
    ) -> None:
        super().__init__(planes)
        self.attention = CellAttention(width, heads, head_width=head_width, eps=eps)

    def mixed(self, groups: Sequence[Float[Tensor, "_ C _ _"]]) -> list[Float[Tensor, "_ C _ _"]]:
        """Each group's planes after the exchange."""
        counts = self.planes.counts
        cells = [
            x.unflatten(0, (-1, count)).transpose(1, 2).flatten(2) for x, count in zip(groups, counts, strict=True)
        ]
        joined = self.attention(torch.cat(cells, 2)[..., None])[..., 0]
        parts = joined.split([part.shape[2] for part in cells], 2)
        return [
            part.unflatten(2, (count, *x.shape[2:])).transpose(1, 2).flatten(0, 1)
            for part, x, count in zip(parts, groups, counts, strict=True)
        ]
