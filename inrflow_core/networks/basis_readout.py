"""The function behind basis fields: at each coordinate an MLP reads the fields from coarse to fine (DDMI, section 3.2).

Each field is interpolated at the coordinate; a residual block reads the coarsest, and each further one the block before with
the next field (the paper's coarse-to-fine conditioning). One MLP serves the whole data set, and it has no randomness: the
authors' release adds noise to each pixel, so that two readings of one function differ.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional

from inrflow_core.errors import UsageError
from inrflow_core.layers.convolution import zero_
from inrflow_core.networks._contract import ReadoutState
from inrflow_core.sets import Grid, Queries, SetSpec


@dataclass(frozen=True)
class Config:
    """Sizes of the MLP."""

    width: int = 256
    """Width of every block."""
    extra_depth: int = 1
    """Blocks after the one that reads the finest field."""
    coarse_to_fine: bool = True
    """False: the first block reads all fields at once (the paper's table 8 without its conditioning)."""
    reads_cell_size: bool = False
    """Whether each field comes with one more number, the logarithm of the queries' cell size in units of the training grid's: the
    function then knows how finely it is sampled, and can leave out what a coarser grid would alias."""

    def __post_init__(self) -> None:
        if self.width < 1:
            raise ValueError(f"`width` is {self.width}: at least 1")
        if self.extra_depth < 0:
            raise ValueError(f"`extra_depth` is {self.extra_depth}: 0 or more")


def build_field_readout(config: Config, spec: SetSpec, field_widths: Sequence[int]) -> BasisReadout:
    """The function of images with fields of these widths, from coarse to fine.

    Raises:
        UsageError: the sets are no images.
    """
    if not isinstance(spec.layout, Grid) or len(spec.layout.shape) != 2:
        raise UsageError(
            f"`basis-readout` interpolates planes of images, and these sets are {spec.layout}",
            hint='take `name = "image"` in [domain]',
        )
    return BasisReadout(config, spec, field_widths)


class BasisReadout(nn.Module):
    """Functions of a coordinate, one for each set of fields."""

    def __init__(self, config: Config, spec: SetSpec, field_widths: Sequence[int]) -> None:
        super().__init__()
        self.config, self.field_widths = config, tuple(field_widths)
        assert isinstance(spec.layout, Grid)
        self.training_step = 2 / min(spec.layout.shape)
        extra = int(config.reads_cell_size)
        read = [width + extra for width in self.field_widths]
        read = read if config.coarse_to_fine else [sum(read)]
        inputs = [read[0], *(config.width + width for width in read[1:])]
        self.blocks = nn.ModuleList(MlpBlock(size, config.width) for size in inputs)
        self.extra = nn.Sequential(*(MlpBlock(config.width, config.width) for _ in range(config.extra_depth)))
        self.out = nn.Linear(config.width, spec.value_size)

    def query(
        self, state: ReadoutState, queries: Queries, *, seeds: Int64[Tensor, " B"] | None = None
    ) -> Float[Tensor, "B M C"]:
        """The values of B functions at the queries' coordinates; nothing is random.

        Args:
            state: the fields (B, F, H, W), from coarse to fine; their cells share [-1, 1] along each axis evenly.
            queries: with `reads_cell_size` those of the training grid's cell size unless they have one.
        """
        assert queries.coordinates is not None
        read = [interpolate(field, queries.coordinates) for field in state]
        if self.config.reads_cell_size:
            read = [torch.cat([features, self._cell_size(queries, features)], -1) for features in read]
        if not self.config.coarse_to_fine:
            read = [torch.cat(read, -1)]
        x = self.blocks[0](read[0])
        for block, features in zip(self.blocks[1:], read[1:], strict=True):
            x = block(torch.cat([x, features], -1))
        return self.out(functional.relu(self.extra(x)))

    def _cell_size(self, queries: Queries, features: Float[Tensor, "B M F"]) -> Float[Tensor, "B M 1"]:
        steps = queries.cell_sizes
        number = torch.zeros((), device=features.device) if steps is None else (steps / self.training_step).log()
        return number.to(features.dtype).view(-1, 1, 1).expand(*features.shape[:2], 1)


class MlpBlock(nn.Module):
    """Two linear layers with ReLU before each, added to a linear map of the input; only that map acts at the start."""

    def __init__(self, width: int, out_width: int) -> None:
        super().__init__()
        hidden = min(width, out_width)
        self.first, self.second = nn.Linear(width, hidden), nn.Linear(hidden, out_width)
        self.shortcut = nn.Identity() if width == out_width else nn.Linear(width, out_width, bias=False)
        zero_(self.second)

    def forward(self, x: Float[Tensor, "B M A"]) -> Float[Tensor, "B M E"]:
        """The block's output."""
        return self.shortcut(x) + self.second(functional.relu(self.first(functional.relu(x))))


def interpolate(
    field: Float[Tensor, "B F H W"], coordinates: Float[Tensor, "M 2"] | Float[Tensor, "B M 2"]
) -> Float[Tensor, "B M F"]:
    """A field's features at coordinates (row, column) in [-1, 1], bilinearly; beyond the outermost centers those of the edge."""
    at = coordinates.flip(-1).to(field.dtype).expand(len(field), -1, -1)[:, :, None]
    return functional.grid_sample(field, at, mode="bilinear", padding_mode="border", align_corners=False)[..., 0].mT
