"""The decoder: each query attends to the latents of one level after the other, and to nothing else."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from inrflow_core.networks._layers import Block, Modulation, Projection, fourier, normalise, octaves
from inrflow_core.sets import Queries, SetShape


@dataclass(frozen=True)
class Latents:
    """What the trunk leaves of one evaluation: the latents of each decoder level, earliest first, and the condition."""

    levels: tuple[Float[Tensor, "B L W"], ...]
    vector: Float[Tensor, "B W"]


@dataclass(frozen=True)
class Memory:
    """What all queries of one evaluation share: keys, values and modulations of each level."""

    levels: tuple[tuple[tuple[Tensor, Tensor], Modulation], ...]
    final: tuple[Tensor, Tensor]


class Points(nn.Module):
    """Moving points as tokens: the noisy value is embedded both as a coordinate and as a value.

    The same two projections serve context and queries; what joins them is separate.
    """

    def __init__(self, shape: SetShape, width: int, num_frequencies: int) -> None:
        super().__init__()
        self.num_frequencies = num_frequencies
        self.space = shape.coordinate_size
        self.coordinate = Projection(2 * num_frequencies * self.space, width)
        self.value = Projection(shape.value_size, width)

    def forward(self, values: Float[Tensor, "B N C"]) -> tuple[Float[Tensor, "B N W"], Float[Tensor, "B N W"]]:
        """The embedded coordinate and the embedded value of each point."""
        return self.coordinate(octaves(values[..., : self.space], self.num_frequencies)), self.value(values)


class Decoder(nn.Module):
    """Queries to velocities; needs the latents alone, so that a saved field can be asked without encoder and trunk."""

    def __init__(
        self, shape: SetShape, *, width: int, source_width: int, heads: int, ratio: float, levels: int,
        top_frequency: float, num_frequencies: int,
    ) -> None:  # fmt: skip
        super().__init__()
        self.width, self.top_frequency = width, top_frequency
        if shape.is_moving:
            self.points = Points(shape, width, num_frequencies)
            self.join = Projection(2 * width, width)
        else:
            self.points = None
            self.value = Projection(shape.value_size, width)
        blocks = [Block(width, heads, ratio, source_width, source_width) for _ in range(levels)]
        self.blocks = nn.ModuleList(blocks)
        self.modulation = nn.Linear(source_width, 4 * width)
        self.final = nn.Linear(2 * width, shape.value_size)

    def memory(self, latents: Latents) -> Memory:
        """Keys, values and modulations, once per evaluation for all its queries."""
        levels = tuple(
            (block.attention.read(level), block.modulate(latents.vector))
            for block, level in zip(self.blocks, latents.levels, strict=True)
        )
        shift, scale = self.modulation(functional.silu(latents.vector))[:, None].chunk(2, -1)
        return Memory(levels, (shift, scale))

    def forward(self, queries: Queries, values: Float[Tensor, "B M C"], memory: Memory) -> Float[Tensor, "B M C"]:
        """The velocity of each query; the final layer sees the decoded query beside its value's embedding."""
        if self.points is None:
            assert queries.coordinates is not None
            embedded = self.value(values)
            x = embedded + fourier(queries.coordinates, self.width, self.top_frequency)
        else:
            coordinate, embedded = self.points(values)
            x = self.join(torch.cat([coordinate, embedded], -1))
        for block, (read, modulation) in zip(self.blocks, memory.levels, strict=True):
            x = block(x, modulation, read)
        return self.final(normalise(torch.cat([x, embedded], -1), *memory.final))
