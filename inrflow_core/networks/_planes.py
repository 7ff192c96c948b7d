"""Planes of features behind a function: which axes of a coordinate each spans, and how they lie on one canvas.

All latents and fields of latent diffusion are canvases, so that its two stages cannot disagree on the order or the direction
of planes. An image is one plane. Functions of space have three planes, each of a pair of axes, and so have videos, functions of
time and space; the features of the planes at a coordinate are combined (DDMI, section 3.2).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional

from inrflow_core.errors import UsageError
from inrflow_core.sets import Grid, Points, SetSpec


@dataclass(frozen=True)
class Planes:
    """Planes whose cells share [-1, 1] along each axis evenly; features are at the cells' centers.

    Planes of one size are a group. Those of a single group lie side by side on a canvas. Several groups lie one below the
    other, and so do their planes, which are of one width; those of the first group are square.
    """

    axes: tuple[tuple[int, int], ...]
    """Of each plane, the axis of the coordinate along its rows, from top to bottom, and the one along its columns."""
    groups: tuple[int, ...] = ()
    """Number of planes of each group, in the order of `axes`; empty: all are of one size."""
    constant: int | None = None
    """The axis that no level halves or doubles, along the rows of its planes."""

    def __len__(self) -> int:
        return len(self.axes)

    @property
    def counts(self) -> tuple[int, ...]:
        """Number of planes of each group."""
        return self.groups or (len(self),)

    @property
    def bounds(self) -> list[tuple[int, int]]:
        """Of each group, the number of its first plane and of the one after its last."""
        ends = [sum(self.counts[:number]) for number in range(len(self.counts) + 1)]
        return list(pairwise(ends))

    @property
    def row_factors(self) -> tuple[float, ...]:
        """By how much each group's rows grow where a level doubles the resolution; its columns are doubled."""
        return tuple(1.0 if self.axes[first][0] == self.constant else 2.0 for first, _ in self.bounds)

    def canvas_shape(self, *sides: tuple[int, int]) -> tuple[int, int]:
        """Rows and columns of the canvas of planes with these rows and columns, one pair for each group."""
        if len(self.counts) == 1:
            ((rows, columns),) = sides
            return rows, len(self) * columns
        return sum(count * rows for count, (rows, _) in zip(self.counts, sides, strict=True)), sides[0][1]

    def sides(self, rows: int, columns: int) -> list[tuple[int, int]]:
        """Rows and columns of the planes of each group on a canvas; undoes `canvas_shape`."""
        if len(self.counts) == 1:
            return [(rows, columns // len(self))]
        first, *others = self.counts
        return [(columns, columns), *(((rows - first * columns) // sum(others), columns) for _ in others)]

    def stack(self, planes: Sequence[Float[Tensor, "B F _ _"]]) -> tuple[Float[Tensor, "B _ F _ _"], ...]:
        """Each group's planes in one tensor."""
        return tuple(torch.stack(tuple(planes[first:end]), 1) for first, end in self.bounds)

    def join(self, *groups: Float[Tensor, "B _ F _ W"]) -> Float[Tensor, "B F H V"]:
        """The canvas of the planes of each group."""
        if len(self.counts) == 1:
            (planes,) = groups
            return planes.permute(0, 2, 3, 1, 4).flatten(3)
        return torch.cat([planes.transpose(1, 2).flatten(2, 3) for planes in groups], 2)

    def split(self, canvas: Float[Tensor, "B F H V"]) -> Float[Tensor, "B P F H W"]:
        """The planes of a canvas, where all are of one size."""
        (planes,) = self.split_groups(canvas)
        return planes

    def split_groups(self, canvas: Float[Tensor, "B F H V"]) -> tuple[Float[Tensor, "B _ F _ W"], ...]:
        """Each group's planes of a canvas."""
        if len(self.counts) == 1:
            return (canvas.unflatten(3, (len(self), -1)).permute(0, 3, 1, 2, 4),)
        rows, columns = canvas.shape[2:]
        heights = [count * rows for count, (rows, _) in zip(self.counts, self.sides(rows, columns), strict=True)]
        parts = canvas.split(heights, 2)
        return tuple(
            part.unflatten(2, (count, -1)).transpose(1, 2) for part, count in zip(parts, self.counts, strict=True)
        )

    def interpolate(
        self, canvas: Float[Tensor, "B F H V"], coordinates: Float[Tensor, "M D"] | Float[Tensor, "B M D"]
    ) -> list[Float[Tensor, "B M F"]]:
        """Each plane's features at coordinates in [-1, 1], bilinearly; beyond the outermost centers those of the edge."""
        canvas = canvas.float()  # bfloat16, as under autocast, would move centers of pixels by up to half a pixel
        at = coordinates.float().expand(canvas.shape[0], -1, -1)[:, :, None]
        planes = [plane for group in self.split_groups(canvas) for plane in group.unbind(1)]
        read = (
            functional.grid_sample(plane, at[..., [columns, rows]], "bilinear", "border", align_corners=False)
            for plane, (rows, columns) in zip(planes, self.axes, strict=True)
        )
        return [features[..., 0].mT for features in read]

    def cells(self, coordinates: Float[Tensor, "B N D"], side: int) -> Int64[Tensor, "B P N"]:
        """The cell of square planes that each coordinate is in: its number on all planes, plane by plane and row by row."""
        numbers = ((coordinates + 1) * (side / 2)).floor().long().clamp(0, side - 1)
        cells = [
            (plane * side + numbers[..., rows]) * side + numbers[..., columns]
            for plane, (rows, columns) in enumerate(self.axes)
        ]
        return torch.stack(cells, 1)


@dataclass(frozen=True)
class Canvas(Grid):
    """The grid of a canvas of latents, with its planes."""

    planes: Planes


IMAGE = Planes(((0, 1),))
"""Rows and columns of an image."""
SPACE = Planes(((1, 0), (2, 1), (2, 0)))
"""The planes xy, yz and xz; the first of the two axes is along the columns."""
VIDEO = Planes(((1, 2), (0, 2), (0, 1)), groups=(1, 2), constant=0)
"""Frame, and time with columns and with rows, of the coordinate (t, row, column): rows x columns, t x columns, t x rows."""


def planes_of(spec: SetSpec, network: str) -> Planes:
    """The planes behind functions of a spec.

    Raises:
        UsageError: they are neither images, videos nor functions of space.
    """
    match spec.layout:
        case Grid((_, _)):
            return IMAGE
        case Grid((_, _, _)):
            return VIDEO
        case Points(has_coordinates=True) if spec.coordinate_size == 3:
            return SPACE
    raise UsageError(
        f"`{network}` has planes of images or of space and time, and these sets are {spec.layout}",
        hint='take `name = "image"`, `name = "video"` or `name = "shape"` in [domain]',
    )
