"""Planes of features behind a function: which axes of a coordinate each spans, and how they lie side by side on one canvas.

All latents and fields of latent diffusion are canvases, so that its two stages cannot disagree on the order or the direction
of planes. An image is one plane. Functions of space have three planes, each of a pair of axes, whose features at a coordinate
are combined (DDMI, section 3.2).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional

from inrflow_core.errors import UsageError
from inrflow_core.sets import Grid, Points, SetSpec


@dataclass(frozen=True)
class Planes:
    """Planes of one size; their cells share [-1, 1] along each axis evenly, and features are at the cells' centers."""

    axes: tuple[tuple[int, int], ...]
    """Of each plane, the axis of the coordinate along its rows, from top to bottom, and the one along its columns."""

    def __len__(self) -> int:
        return len(self.axes)

    def join(self, planes: Float[Tensor, "B P F H W"]) -> Float[Tensor, "B F H PW"]:
        """The canvas with the planes side by side."""
        return planes.permute(0, 2, 3, 1, 4).flatten(3)

    def split(self, canvas: Float[Tensor, "B F H PW"]) -> Float[Tensor, "B P F H W"]:
        """The planes of a canvas."""
        return canvas.unflatten(3, (len(self), -1)).permute(0, 3, 1, 2, 4)

    def interpolate(
        self, canvas: Float[Tensor, "B F H PW"], coordinates: Float[Tensor, "M D"] | Float[Tensor, "B M D"]
    ) -> list[Float[Tensor, "B M F"]]:
        """Each plane's features at coordinates in [-1, 1], bilinearly; beyond the outermost centers those of the edge."""
        canvas = canvas.float()  # bfloat16, as under autocast, would move centers of pixels by up to half a pixel
        at = coordinates.float().expand(canvas.shape[0], -1, -1)[:, :, None]
        read = (
            functional.grid_sample(field, at[..., [columns, rows]], "bilinear", "border", align_corners=False)
            for field, (rows, columns) in zip(self.split(canvas).unbind(1), self.axes, strict=True)
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


IMAGE = Planes(((0, 1),))
"""Rows and columns of an image."""
SPACE = Planes(((1, 0), (2, 1), (2, 0)))
"""The planes xy, yz and xz; the first of the two axes is along the columns."""


def planes_of(spec: SetSpec, network: str) -> Planes:
    """The planes behind functions of a spec.

    Raises:
        UsageError: they are neither images nor functions of space.
    """
    match spec.layout:
        case Grid((_, _)):
            return IMAGE
        case Points(has_coordinates=True) if spec.coordinate_size == 3:
            return SPACE
    raise UsageError(
        f"`{network}` has planes of images or of space, and these sets are {spec.layout}",
        hint='take `name = "image"` or `name = "shape"` in [domain]',
    )
