"""The function behind basis fields: at each coordinate an MLP reads the fields from coarse to fine (DDMI, section 3.2).

Each field is interpolated at the coordinate; a residual block reads the coarsest, and each further one the block before with
the next field (the paper's coarse-to-fine conditioning). One MLP serves the whole data set, and it has no randomness: the
authors' release adds noise to each pixel, so that two readings of one function differ.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Literal

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional

from inrflow_core.errors import UsageError
from inrflow_core.layers.convolution import MlpBlock
from inrflow_core.networks._contract import ReadoutState
from inrflow_core.networks._planes import planes_of
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
    planes: Literal["sum", "concatenate"] = "sum"
    """How the features of several planes are combined at a coordinate; the paper adds those of shapes, and concatenates those of
    videos."""
    reads_coordinate: bool = False
    """Whether a linear map of the coordinate itself is added to the first block's output, as the paper has it for shapes."""

    def __post_init__(self) -> None:
        if self.width < 1:
            raise ValueError(f"`width` is {self.width}: at least 1")
        if self.extra_depth < 0:
            raise ValueError(f"`extra_depth` is {self.extra_depth}: 0 or more")


def build_field_readout(config: Config, spec: SetSpec, field_widths: Sequence[int]) -> BasisReadout:
    """The function of images, of videos or of space with fields of these widths, from coarse to fine.

    Raises:
        UsageError: the sets are others, have no grid of images, whose cell size the function would read, or one plane alone,
            with nothing to concatenate.
    """
    is_image = isinstance(spec.layout, Grid) and len(spec.layout.shape) == 2
    if config.reads_cell_size and not is_image:
        raise UsageError(
            f"`reads_cell_size` needs the grid of images, and these sets are {spec.layout}",
            hint="leave the setting out",
        )
    if config.planes == "concatenate" and is_image:
        raise UsageError(
            '`planes = "concatenate"` needs several planes, and images have one', hint="leave the setting out"
        )
    return BasisReadout(config, spec, field_widths)


class BasisReadout(nn.Module):
    """Functions of a coordinate, one for each set of fields."""

    def __init__(self, config: Config, spec: SetSpec, field_widths: Sequence[int]) -> None:
        super().__init__()
        self.config, self.field_widths = config, tuple(field_widths)
        self.planes = planes_of(spec, "basis-readout")
        copies = len(self.planes) if config.planes == "concatenate" else 1
        self.training_step = 2 / min(spec.layout.shape) if isinstance(spec.layout, Grid) else 1.0
        extra = int(config.reads_cell_size)
        read = [copies * width + extra for width in self.field_widths]
        read = read if config.coarse_to_fine else [sum(read)]
        inputs = [read[0], *(config.width + width for width in read[1:])]
        self.blocks = nn.ModuleList(MlpBlock(size, config.width) for size in inputs)
        self.extra = nn.Sequential(*(MlpBlock(config.width, config.width) for _ in range(config.extra_depth)))
        self.coordinate = nn.Linear(spec.coordinate_size, config.width) if config.reads_coordinate else None
        self.out = nn.Linear(config.width, spec.value_size)

    @property
    def last_weight(self) -> Tensor:
        """The weights of the linear layer that makes the values."""
        return self.out.weight

    def query(
        self, state: ReadoutState, queries: Queries, *, seeds: Int64[Tensor, " B"] | None = None
    ) -> Float[Tensor, "B M C"]:
        """The values of B functions at the queries' coordinates; nothing is random.

        Args:
            state: the canvases of the fields (B, F, H, W), from coarse to fine.
            queries: with `reads_cell_size` those of the training grid's cell size unless they have one.
        """
        assert queries.coordinates is not None
        read = [self._features(field, queries.coordinates) for field in state]
        if self.config.reads_cell_size:
            read = [torch.cat([features, self._cell_size(queries, features)], -1) for features in read]
        if not self.config.coarse_to_fine:
            read = [torch.cat(read, -1)]
        x = self.blocks[0](read[0])
        if self.coordinate is not None:
            x = x + self.coordinate(queries.coordinates.to(x.dtype))
        for block, features in zip(self.blocks[1:], read[1:], strict=True):
            x = block(torch.cat([x, features], -1))
        return self.out(functional.relu(self.extra(x)))

    def _features(self, field: Tensor, coordinates: Tensor) -> Float[Tensor, "B M F"]:
        """The features of a field's planes at coordinates, combined."""
        planes = self.planes.interpolate(field, coordinates)
        return torch.cat(planes, -1) if self.config.planes == "concatenate" else reduce(torch.add, planes)

    def _cell_size(self, queries: Queries, features: Float[Tensor, "B M F"]) -> Float[Tensor, "B M 1"]:
        steps = queries.cell_sizes
        number = torch.zeros((), device=features.device) if steps is None else (steps / self.training_step).log()
        return number.to(features.dtype).view(-1, 1, 1).expand(*features.shape[:2], 1)
