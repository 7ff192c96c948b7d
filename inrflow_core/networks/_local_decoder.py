"""The local decoder: each query reads the latents of the cells around it, in place of attention to all of them (not in the papers).

The latents lie on a regular grid. A query interpolates them linearly at its coordinate, multiplies the result by learned functions
of its position in a cell, which are periodic, adds its own value and passes a narrow MLP. All of this is continuous in the
coordinate, so that the decoder answers between the training pixels as the attention of `Decoder` does, for a small part of its cost:
`decoder_width` numbers of a query are computed once, whatever the number of latents.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional

from inrflow_core.layers.activations import to_fp32
from inrflow_core.layers.attention import ModulatedLinear
from inrflow_core.layers.embeddings import Fourier
from inrflow_core.layers.interpolation import corners, mix
from inrflow_core.networks import _set_grouping
from inrflow_core.networks._set_config import Config
from inrflow_core.networks._set_decoder import Latents
from inrflow_core.sets import Grid, Queries, SetSpec

POSITION_WIDTH = 64
"""Hidden units of the functions of the position in a cell; they are computed once for all sets that share coordinates."""
EXPANSION = 2
"""Hidden units of the MLP over `decoder_width`."""


@dataclass(frozen=True)
class LocalState:
    """What all queries of one evaluation share."""

    cells: Float[Tensor, "B L d"]
    """What a query interpolates, cell by cell."""
    value: Float[Tensor, "B C d"]
    """The map of own values, scaled by the condition."""
    inner: Float[Tensor, "B d E"]
    """The first layer of the MLP, scaled by the condition."""
    bias: Float[Tensor, "B 1 E"]
    direct: Float[Tensor, "B 1 C"]
    """The shift by the condition, as the MLP's hidden units and the outputs have it."""
    skip: Float[Tensor, "B 1 C"]
    """The factor of the own value in the output."""


@dataclass(frozen=True)
class LocalEmbedding:
    """What all evaluations of some queries share, as it depends on their coordinates alone."""

    factor: Float[Tensor, "*B M d"]
    summand: Float[Tensor, "*B M d"]
    """What interpolated latents are multiplied by, and what is added."""
    index: Int64[Tensor, "*B M K"]
    """The latents around each query, and their weights."""
    weight: Float[Tensor, "*B M K"]

    @property
    def nbytes(self) -> int:
        """Bytes of all."""
        return sum(tensor.nbytes for tensor in (self.factor, self.summand, self.index, self.weight))


class LocalDecoder(nn.Module):
    """Compute the velocity of each query from the latents around it."""

    def __init__(self, config: Config, spec: SetSpec) -> None:
        super().__init__()
        source, width, size = config.width, config.query_width, spec.value_size
        self.spec, self.width = spec, width
        self.sides = _set_grouping.grid_sides(config.latents, spec)
        self.waves = nn.ModuleList(Fourier(_harmonics(config, spec, side)) for side in self.sides)
        count = 2 * sum(len(waves.frequencies) for waves in self.waves)  # pyright: ignore[reportArgumentType]
        self.position, self.functions = nn.Linear(count, POSITION_WIDTH), nn.Linear(POSITION_WIDTH, 2 * width)
        self.norm, self.cells = nn.Linear(source, 2 * source), ModulatedLinear(source, width)
        self.value = nn.Linear(size, width, bias=False)
        self.inner = nn.Linear(width, EXPANSION * width)
        self.final = nn.Linear(EXPANSION * width, size)
        self.direct = nn.Linear(width, size, bias=False)
        self.modulation = nn.Linear(source, 3 * width + size)

    def exact_layers(self) -> list[nn.Module]:
        """Layers that compute in fp32 under autocast as well: all that the queries pass."""
        return [self.position, self.functions, self.value, self.inner, self.final, self.direct]

    def zeros(self) -> list[nn.Linear]:
        """Layers that start at 0: outputs are exactly 0 at first."""
        return [self.norm, self.modulation, self.final, self.direct]

    def decoder_kv(self, latents: Latents) -> LocalState:
        """What queries read of the latents, once per evaluation."""
        condition = functional.silu(latents.vector)
        shift, scale = self.norm(condition)[:, None].chunk(2, -1)
        cells = to_fp32(self.cells(latents.levels[-1], shift, scale))
        modulation = to_fp32(self.modulation(condition))
        value, shift, scale, skip = modulation.split([self.width] * 3 + [self.spec.value_size], -1)
        inner = (1 + scale)[..., None] * self.inner.weight.t()
        with torch.autocast(cells.device.type, enabled=False):
            bias = torch.baddbmm(self.inner.bias, shift[:, None], inner)
            direct = self.direct(shift)[:, None]
        return LocalState(cells, self.value.weight.t() * (1 + value)[:, None], inner, bias, direct, skip[:, None])

    def embed(self, queries: Queries) -> LocalEmbedding:
        """The functions of the queries' positions in their cells, and the latents around them: once for all evaluations."""
        assert queries.coordinates is not None, "points without fixed coordinates have no such part"
        return self._embedding_at(queries.coordinates)

    def forward(
        self,
        queries: Queries,
        values: Float[Tensor, "B M C"],
        decoder_kv: LocalState,
        embedded: LocalEmbedding | None = None,
    ) -> Float[Tensor, "B M C"]:
        """The velocity of each query, in fp32 at least; `embedded` is a precomputed result of `embed`."""
        coordinates = self.spec.coordinates_of(queries, values)
        assert coordinates is not None, "the latents of pairs without coordinates have no grid"
        with torch.autocast(values.device.type, enabled=False):
            values = to_fp32(values)
            at = self._embedding_at(coordinates) if embedded is None else embedded
            x = torch.addcmul(at.summand, mix(decoder_kv.cells, at.index, at.weight), at.factor)
            x = torch.baddbmm(x, values, decoder_kv.value)
            hidden = torch.baddbmm(decoder_kv.bias, x, decoder_kv.inner)
            return self.final(functional.silu(hidden)) + (self.direct(x) + decoder_kv.direct) + values * decoder_kv.skip

    def _embedding_at(self, coordinates: Float[Tensor, "*B M D"]) -> LocalEmbedding:
        factor, summand = self._functions_at(coordinates).chunk(2, -1)
        return LocalEmbedding(1 + factor, summand.contiguous(), *corners(self.sides, to_fp32(coordinates.detach())))

    def _functions_at(self, coordinates: Float[Tensor, "*B M D"]) -> Float[Tensor, "*B M E"]:
        """A factor and a summand, each of `width` numbers, at every coordinate.

        Beyond the centers of the outermost pixels they are those of the centers: being periodic, they would turn to those of the
        opposite side of a cell there, where no training position is.
        """
        with torch.autocast(coordinates.device.type, enabled=False):
            at = to_fp32(coordinates.detach()).unbind(-1)
            if isinstance(self.spec.layout, Grid):
                at = [x.clamp(1 / side - 1, 1 - 1 / side) for x, side in zip(at, self.spec.layout.shape, strict=True)]
            waves = [wave(x[..., None]) for x, wave in zip(at, self.waves, strict=True)]
            return self.functions(functional.silu(self.position(torch.cat(waves, -1))))


def _harmonics(config: Config, spec: SetSpec, side: int) -> Float[Tensor, " K"]:
    """Frequencies in rad with a whole number of periods in a cell: up to `max_frequency`, at least one.

    Its default is a quarter of the training grid's side, so that functions stay smooth between the pixels; two without a grid.
    """
    top = config.max_frequency
    if top is None:
        top = min(spec.layout.shape) / 4 if isinstance(spec.layout, Grid) else 2.0 * side
    count = max(1, min(config.num_frequencies or math.inf, int(top / side)))  # pyright: ignore[reportArgumentType]
    return math.pi * side * torch.arange(1, count + 1)
