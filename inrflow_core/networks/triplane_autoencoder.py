"""An autoencoder between points on a surface and basis fields on three planes of space (DDMI, sections 3.2 and 4).

The points of scenes have a color beside their position.

A point encoder spreads features of the points on the planes xy, yz and xz; encoder and decoder are those of images, shared by
the planes, with an exchange between these. Source of the point encoder: the local pooling of Convolutional Occupancy Networks
(Peng et al. 2020, arXiv:2003.04618).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional

from inrflow_core.errors import UsageError
from inrflow_core.layers.convolution import MlpBlock
from inrflow_core.networks._contract import ReadoutState
from inrflow_core.networks._plane_networks import Decoder, Encoder, PlaneSizes
from inrflow_core.networks._planes import SPACE, Canvas, Planes
from inrflow_core.sets import Grid, Points, Rays, SetSpec


@dataclass(frozen=True)
class Config(PlaneSizes):
    """Sizes of the autoencoder; the defaults are those of the paper's model of ShapeNet but for `exchange` and `canvas`."""

    width: int = 64
    """Channels at the full resolution."""
    resolution: int = 64
    """Cells along a side of each plane."""
    point_width: int = 256
    """Width of the point encoder."""
    point_depth: int = 7
    """Residual blocks of the point encoder; after each but the last the points of a cell exchange features."""
    point_channels: int = 32
    """Channels of the planes that the point encoder writes."""
    exchange: Literal["axes", "channels"] = "axes"
    """How the planes exchange features: `axes` by averages over one axis at the same position along the other; `channels`
    as in the paper, by blocks of all planes' channels, with twice as many weights."""
    canvas: Literal["beside", "channels"] = "beside"
    """How the denoiser sees the latents' planes: side by side, so that its convolutions are shared by them and its attention
    reaches across, or stacked along the channels as in the paper."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("resolution", "point_width", "point_depth", "point_channels"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` is {getattr(self, name)}: at least 1")
        if self.resolution % self.factor:
            raise ValueError(
                f"`resolution` is {self.resolution}: {len(self.multipliers)} levels need a multiple of {self.factor}"
            )


def field_shapes(config: Config, spec: SetSpec) -> list[tuple[int, int, int]]:
    """Channels, rows and columns of the canvas of each basis field, from coarse to fine."""
    return config.field_shapes(SPACE, config.resolution, config.resolution)


def build_autoencoder(config: Config, spec: SetSpec) -> TriplaneAutoencoder:
    """The autoencoder for functions of space that are encoded from points.

    Raises:
        UsageError: the sets are others.
    """
    match spec.layout:
        case Points(has_coordinates=True) if spec.coordinate_size == 3:
            return TriplaneAutoencoder(config, point_size=3)
        case Rays(surface_points=int()):
            return TriplaneAutoencoder(config, point_size=6)
    raise UsageError(
        f"`triplane-autoencoder` reads points of shapes or of the surfaces of scenes, and these sets are {spec.layout}",
        hint='take `name = "shape"` in [domain], or "radiance" with `surface_points`, or `plane-autoencoder` for images',
    )


class TriplaneAutoencoder(nn.Module):
    """Point encoder, and encoder and decoder of three planes."""

    def __init__(self, config: Config, point_size: int) -> None:
        super().__init__()
        self.config = config
        self.side = config.resolution // config.factor
        count = len(SPACE)
        if config.canvas == "beside":
            self.latent_spec = SetSpec(
                2, config.latent_channels, Canvas(SPACE.canvas_shape((self.side, self.side)), SPACE)
            )
        else:
            self.latent_spec = SetSpec(2, count * config.latent_channels, Grid((self.side, self.side)))
        self.points = PointEncoder(config, SPACE, point_size)
        self.encoder = Encoder(config, config.point_channels, SPACE, config.exchange)
        self.decoder = Decoder(config, SPACE, config.exchange)

    def encode(self, values: Float[Tensor, "B N C"]) -> tuple[Float[Tensor, "B K E"], Float[Tensor, "B K E"]]:
        """Mean and standard deviation of the latents of surfaces whose points are at `values`, in any order.

        The first three numbers are in [-1, 1]; of scenes the color follows.
        """
        mean, std = self.encoder(self.points(values))
        return self._cells(mean), self._cells(std)

    def decode(self, latents: Float[Tensor, "B K E"]) -> ReadoutState:
        """The canvas of each basis field (B, F, H, 3 W) of latents, from coarse to fine."""
        assert isinstance(self.latent_spec.layout, Grid)
        canvas = latents.mT.unflatten(2, self.latent_spec.layout.shape)
        is_beside = self.config.canvas == "beside"
        return self.decoder(SPACE.split(canvas) if is_beside else canvas.unflatten(1, (len(SPACE), -1)))

    def _cells(self, planes: Float[Tensor, "B P E h w"]) -> Float[Tensor, "B K F"]:
        """The latents of each cell of the canvas, row by row; `decode` undoes it."""
        canvas = SPACE.join(planes) if self.config.canvas == "beside" else planes.flatten(1, 2)
        return canvas.flatten(2).mT


class PointEncoder(nn.Module):
    """Features of points, and their average in each cell of each plane; those of empty cells are 0."""

    def __init__(self, config: Config, planes: Planes, point_size: int) -> None:
        super().__init__()
        self.planes, self.side = planes, config.resolution
        width = config.point_width
        self.first = nn.Linear(point_size, 2 * width)
        self.blocks = nn.ModuleList(MlpBlock(2 * width, width, is_zero=False) for _ in range(config.point_depth))
        self.last = nn.Linear(width, config.point_channels)

    def forward(self, points: Float[Tensor, "B N C"]) -> Float[Tensor, "B P F H W"]:
        """Planes of features of points, whose first three numbers are coordinates in [-1, 1]."""
        cells = self.planes.cells(points[..., :3].float(), self.side)
        count = len(self.planes) * self.side**2
        num_points = cells.shape[1] * cells.shape[2]
        groups = cells if count <= num_points else ranks(cells.flatten(1)).view_as(cells)
        x = self.blocks[0](self.first(points))
        for block in self.blocks[1:]:
            x = block(torch.cat([x, pooled(x, groups, min(count, num_points))], -1))
        planes = reduced(self.last(x), cells, count, "mean")
        return planes.unflatten(1, (len(self.planes), self.side, self.side)).permute(0, 1, 4, 2, 3)


def ranks(cells: Int64[Tensor, "B M"]) -> Int64[Tensor, "B M"]:
    """The rank of each cell among the different ones of its row, from 0: fewer than M, though cells may be far more."""
    ordered, order = cells.sort(1)
    steps = functional.pad(ordered.diff(dim=1) > 0, (1, 0))
    return torch.empty_like(cells).scatter_(1, order, steps.cumsum(1))


def pooled(x: Float[Tensor, "B N F"], groups: Int64[Tensor, "B P N"], count: int) -> Float[Tensor, "B N F"]:
    """For each point the largest features of the points in its group, of `count`, summed over the P groups in which it is."""
    largest = reduced(x, groups, count, "amax")
    indices = groups.flatten(1)[..., None].expand(-1, -1, x.shape[-1])
    return largest.gather(1, indices).unflatten(1, (groups.shape[1], -1)).sum(1)


def reduced(
    x: Float[Tensor, "B N F"], groups: Int64[Tensor, "B P N"], count: int, reduce: Literal["mean", "amax"]
) -> Float[Tensor, "B G F"]:
    """The features of each of `count` groups' points, reduced; 0 in empty groups."""
    copies = x.repeat(1, groups.shape[1], 1)
    empty = copies.new_zeros(len(x), count, x.shape[-1])
    indices = groups.flatten(1)[..., None].expand_as(copies)
    return empty.scatter_reduce(1, indices, copies, reduce, include_self=False)
