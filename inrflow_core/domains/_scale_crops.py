"""Crops of images at random scales: the decoder learns detail beyond the grid that the encoder reads.

At scale s an image is reduced to s times the training grid, and the decoder is trained on a crop of it, at the crop's own
coordinates and with its cell size.

Source: the release of DDMI (arXiv:2401.12517) draws one of the scales 1, 1.5 and 2 and one crop for a whole batch; here the scale
is continuous, and each image has its own.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional

from inrflow_core.numerics import keyed_random
from inrflow_core.sets import Queries


@dataclass(frozen=True)
class ScaleCrops:
    """Square crops of images on grids of between `low` and `high` times `resolution` pixels along a side."""

    resolution: int
    low: float
    high: float

    @property
    def side(self) -> int:
        """Pixels along a side of a crop: those of the training grid, or of the smallest grid where it is smaller."""
        return max(1, round(self.resolution * min(1.0, self.low)))

    @property
    def largest(self) -> int:
        """Pixels along a side of the largest grid."""
        return max(self.side, round(self.resolution * self.high))

    def draw(self, seeds: Int64[Tensor, " B"]) -> Int64[Tensor, "B 3"]:
        """The side of each image's grid, and the first row and column of its crop there; keyed by the seed.

        The logarithm of the scale is uniform: each octave is as frequent.
        """
        u = keyed_random.uniform(seeds, purpose="scale crop", count=3)
        grids = self.resolution * self.low * (self.high / self.low) ** u[:, :1]
        grids = grids.round().long().clamp(self.side, self.largest)
        room = grids - self.side + 1
        return torch.cat([grids, (u[:, 1:] * room).long().clamp(max=room - 1)], 1)

    def cut(self, image: Float[Tensor, "S S C"], at: Int64[Tensor, " 3"]) -> Float[Tensor, "R R C"]:
        """The crop of one image: `at` is a row of `draw`."""
        grid, top, left = at.tolist()
        return reduced(image, grid)[top : top + self.side, left : left + self.side]

    def queries(self, at: Int64[Tensor, "B 3"]) -> Queries:
        """The pixel centers of each crop, row by row, and its cell size."""
        grids = at[:, :1]
        odd = 2 * (at[:, 1:, None] + torch.arange(self.side, device=at.device)) + 1
        axes = ((odd - grids[..., None]).double() / grids[..., None]).float()
        rows, columns = axes[:, 0, :, None], axes[:, 1, None, :]
        coordinates = torch.stack(torch.broadcast_tensors(rows, columns), -1).flatten(1, 2)
        keys = torch.arange(self.side**2, device=at.device)
        return Queries(coordinates, keys, cell_sizes=(2 / grids[:, 0].double()).float())


def reduced(image: Float[Tensor, "S S C"], side: int) -> Float[Tensor, "R R C"]:
    """A square image with values from 0 to 255 at `side` x `side` pixels, by the bicubic filter with antialiasing.

    Of an image of that size itself. Black images, such as those that are read without their values, take no time.
    """
    if side == len(image):
        return image
    if not image.any():
        return image.new_zeros(side, side, image.shape[2])
    planes = image.movedim(-1, 0)[None]
    made = functional.interpolate(planes, (side, side), mode="bicubic", antialias=True, align_corners=False)
    return made[0].movedim(0, -1).clamp(0, 255)
