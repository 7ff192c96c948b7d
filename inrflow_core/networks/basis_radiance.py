"""A radiance field behind basis fields: densities and colors of points that an MLP reads from planes, rendered along rays.

Source: DDMI (arXiv:2401.12517), section 4; sizes are its release's. There the activations of the MLP are the identity, so that
a density is softplus of an affine function of what is read, the planes of the encoder cover another cube than those of the
renderer, and there is a single field. Here the cube of `Rays.extent` is that of both, it is empty outside, and rays are
rendered between the depths at which they enter and leave it, within `near` and `far` where these are set.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial, reduce
from typing import Literal

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional

from inrflow_core.errors import UsageError
from inrflow_core.geometry import volume_rendering
from inrflow_core.layers.activations import to_fp32
from inrflow_core.layers.convolution import MlpBlock
from inrflow_core.layers.embeddings import Fourier
from inrflow_core.networks._contract import ReadoutState
from inrflow_core.networks._planes import SPACE
from inrflow_core.networks._ray_rendering import MOST_SAMPLES, RaySettings, render
from inrflow_core.sets import Queries, Rays, SetSpec

SKIPPED = (2, 4)
"""Layers of `SkipMlp` that read its input again."""
SKIP_DEPTH = 6
"""Its layers."""
MOST_FREQUENCIES = 20
DENSITY = 10.0
"""The density of an output of 1 (nearly), in units of 1 / extent: surfaces are as dense as that with moderate weights."""
FIRST_OUTPUT = -3.0
"""The bias of that output at the start: a scene is then half transparent, and gradients reach its inside."""


@dataclass(frozen=True)
class Config(RaySettings):
    """Sizes of the MLP, and how rays are rendered."""

    width: int = 256
    """Width of the hidden layers."""
    mlp: Literal["coarse-to-fine", "skips"] = "coarse-to-fine"
    """`coarse-to-fine`: residual blocks that read the fields one after the other, as for shapes, the planes' features added;
    `skips`: the release's six layers, of which the first, third and fifth read all fields, the planes' features side by side."""
    extra_depth: int = 1
    """Blocks of `coarse-to-fine` after the one that reads the finest field."""
    num_frequencies: int = 6
    """Frequencies per axis of the features of a point, which are read beside it: pi / 2, pi, 2 pi ... in units of `domain.extent`."""
    direction_frequencies: int | None = None
    """Such frequencies of a ray's direction, which the color reads; None: the color depends on the point alone."""
    fine_samples: int = 0
    """Further points of a ray, where the first ones absorb light; 0: one pass."""
    near: float | None = None
    """Depth along the optical axis before which nothing is seen, in world units; None: rays start where they enter the cube."""
    far: float | None = None
    """Depth beyond which nothing is seen; None: rays end where they leave the cube."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.width < 2:
            raise ValueError(f"`width` is {self.width}: at least 2")
        if self.extra_depth < 0:
            raise ValueError(f"`extra_depth` is {self.extra_depth}: 0 or more")
        if self.mlp == "skips" and self.extra_depth != 1:
            raise ValueError('`extra_depth` is set, and `mlp` is skips: it acts with `mlp = "coarse-to-fine"` alone')
        for name in ("num_frequencies", "direction_frequencies"):
            if not 0 <= (getattr(self, name) or 0) <= MOST_FREQUENCIES:
                raise ValueError(f"`{name}` is {getattr(self, name)}: from 0 to {MOST_FREQUENCIES}")
        if not 0 <= self.fine_samples <= MOST_SAMPLES:
            raise ValueError(f"`fine_samples` is {self.fine_samples:,}: from 0 to {MOST_SAMPLES:,}")
        near, far = self.depth_range
        if not 0 <= near < far or self.far == math.inf:
            raise ValueError(f"`near` and `far` are {self.near} and {self.far}: from 0, `near` below `far`")

    @property
    def depth_range(self) -> tuple[float, float]:
        """`near` and `far`; 0 and infinity where they are not set."""
        return 0.0 if self.near is None else self.near, math.inf if self.far is None else self.far

    @property
    def reads_cell_size(self) -> bool:
        """Never: a ray has no cell."""
        return False

    @property
    def least_weights(self) -> int:
        """A lower bound on the number of weights."""
        return (self.extra_depth if self.mlp == "coarse-to-fine" else SKIP_DEPTH - 1) * self.width**2


def build_field_readout(config: Config, spec: SetSpec, field_widths: Sequence[int]) -> BasisRadiance:
    """The scenes behind fields of these widths, from coarse to fine.

    Raises:
        UsageError: the sets are no rays of colored views.
    """
    if not isinstance(spec.layout, Rays) or spec.value_size != 3:
        raise UsageError(
            f"`basis-radiance` answers rays with colors, and these sets are {spec.layout}",
            hint='take `name = "radiance"` in [domain], or `basis-readout` in [network.readout]',
        )
    return BasisRadiance(config, spec.layout.extent, field_widths)


class BasisRadiance(nn.Module):
    """Scenes, one for each set of fields."""

    def __init__(self, config: Config, extent: float, field_widths: Sequence[int]) -> None:
        super().__init__()
        self.config, self.extent = config, extent
        self.point = Features(config.num_frequencies)
        kind = CoarseToFineMlp if config.mlp == "coarse-to-fine" else SkipMlp
        self.mlp = kind(config, self.point.size, field_widths)
        self.density, self.feature = nn.Linear(config.width, 1), nn.Linear(config.width, config.width)
        nn.init.constant_(self.density.bias, FIRST_OUTPUT)
        count = config.direction_frequencies
        self.direction = None if count is None else Features(count)
        read = 0 if self.direction is None else self.direction.size
        self.color, self.out = nn.Linear(config.width + read, config.width // 2), nn.Linear(config.width // 2, 3)

    @property
    def last_weight(self) -> Tensor:
        """The weights of the linear layer that makes the colors."""
        return self.out.weight

    def query(
        self, state: ReadoutState, queries: Queries, *, seeds: Int64[Tensor, " B"] | None = None
    ) -> Float[Tensor, "B M 3"]:
        """The colors of rays, in [-1, 1], in front of white; see `render` on the seeds."""
        return self.render(state, queries, seeds=seeds).color

    def render(
        self, state: ReadoutState, queries: Queries, *, seeds: Int64[Tensor, " B"] | None = None
    ) -> volume_rendering.Rendered:
        """The colors of rays, their expected depths and opacities.

        With seeds, depths are drawn at random, keyed by the set's seed, the ray's position among the queries and the sample.

        Args:
            state: the canvases of the fields (B, F, H, 3 W), from coarse to fine.
        """
        return render(
            self.config,
            partial(self._medium, state),
            self._depths,
            queries,
            state,
            seeds,
            fine_samples=self.config.fine_samples,
        )

    def density_and_color(
        self, state: ReadoutState, points: Float[Tensor, "*B P 3"]
    ) -> tuple[Float[Tensor, "B P"], Float[Tensor, "B P 3"]]:
        """The density (at least 0, per world unit) and the color (in [0, 1]) at points in the world, of every set at once.

        A color that depends on the direction is seen along the line from outside to the origin.
        """
        points = to_fp32(points).expand(state[0].shape[0], -1, -1)
        with torch.autocast(points.device.type, enabled=False):
            return self._medium(state, points, -points)

    def _depths(
        self, origins: Float[Tensor, "B M 3"], directions: Float[Tensor, "B M 3"], jitter: Float[Tensor, "B M S"]
    ) -> Float[Tensor, "B M S"]:
        """S depths of each ray in the cube, from `near` to `far`; all are 0 where it is empty there."""
        near, far = self.config.depth_range
        start, end = volume_rendering.depths_in_cube(origins, directions, self.extent, near, far)
        return volume_rendering.depths(start, end, jitter).clamp(max=far)

    def _medium(
        self, state: ReadoutState, points: Float[Tensor, "B P 3"], directions: Float[Tensor, "B P 3"]
    ) -> tuple[Float[Tensor, "B P"], Float[Tensor, "B P 3"]]:
        """Density and color at points, seen along directions of any length; empty outside the cube."""
        at = points / self.extent
        x = self.mlp(self.point(at), [SPACE.interpolate(field, at) for field in state])
        density = functional.softplus(self.density(x)[..., 0]) * (DENSITY / self.extent)
        density = torch.where((at.abs() <= 1).all(-1), density, torch.zeros_like(density))
        x = self.feature(x)
        if self.direction is not None:
            x = torch.cat([x, self.direction(functional.normalize(directions, dim=-1))], -1)
        return density, self.out(functional.relu(self.color(x))).sigmoid()


class Features(nn.Module):
    """Three numbers in [-1, 1], and sines and cosines of them."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.size = 3 + 6 * count
        self.fourier = Fourier(math.pi / 2 * 2.0 ** torch.arange(count))

    def forward(self, numbers: Float[Tensor, "B P 3"]) -> Float[Tensor, "B P E"]:
        """The numbers and their features."""
        return torch.cat([numbers, self.fourier(numbers)], -1)


class CoarseToFineMlp(nn.Module):
    """Residual blocks, each of which adds the next finer field to the block before; the first one adds the point's features."""

    def __init__(self, config: Config, point_size: int, field_widths: Sequence[int]) -> None:
        super().__init__()
        width = config.width
        inputs = [field_widths[0], *(width + size for size in field_widths[1:])]
        self.blocks = nn.ModuleList(MlpBlock(size, width) for size in inputs)
        self.point = nn.Linear(point_size, width)
        self.extra = nn.Sequential(*(MlpBlock(width, width) for _ in range(config.extra_depth)))

    def forward(
        self, point: Float[Tensor, "B P E"], fields: list[list[Float[Tensor, "B P F"]]]
    ) -> Float[Tensor, "B P W"]:
        """Features of points, from theirs and those of each plane of each field."""
        first, *others = (reduce(torch.add, planes) for planes in fields)
        x = self.blocks[0](first) + self.point(point)
        for block, features in zip(self.blocks[1:], others, strict=True):
            x = block(torch.cat([x, features], -1))
        return functional.relu(self.extra(x))


class SkipMlp(nn.Module):
    """The release's layers with an activation: all fields and the point's features, read again on the way."""

    def __init__(self, config: Config, point_size: int, field_widths: Sequence[int]) -> None:
        super().__init__()
        size = len(SPACE) * sum(field_widths) + point_size
        before = [0, *[config.width] * (SKIP_DEPTH - 1)]
        self.layers = nn.ModuleList(
            nn.Linear(width + size * (number == 0 or number in SKIPPED), config.width)
            for number, width in enumerate(before)
        )

    def forward(
        self, point: Float[Tensor, "B P E"], fields: list[list[Float[Tensor, "B P F"]]]
    ) -> Float[Tensor, "B P W"]:
        """Features of points, from theirs and those of each plane of each field."""
        read = torch.cat([*(plane for planes in fields for plane in planes), point], -1)
        x = functional.relu(self.layers[0](read))
        for number, layer in enumerate(self.layers[1:], start=1):
            x = functional.relu(layer(torch.cat([x, read], -1) if number in SKIPPED else x))
        return x
