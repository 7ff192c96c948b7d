"""The decoder: each query attends to the latents of one level after the other, and to nothing else.

Source: INRFlow (arXiv:2412.03791), section 3.4. It stands by itself: a saved field holds its weights and the latents,
and needs neither encoder nor trunk to be asked.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from inrflow_core.layers.activations import to_fp32
from inrflow_core.layers.attention import Block, KeyValue, ModulatedLinear, Modulation
from inrflow_core.layers.embeddings import Tokens
from inrflow_core.networks._set_config import Config
from inrflow_core.networks._set_residues import AtomEmbedding
from inrflow_core.sets import Queries


@dataclass(frozen=True)
class Latents:
    """What the trunk leaves of one evaluation: the latents of each decoder level, earliest first, and the condition."""

    levels: tuple[Float[Tensor, "B L W"], ...]
    vector: Float[Tensor, "B W"]
    features: Float[Tensor, "B L F"] | None = None
    """What is known of each group of pairs; latents then stand for groups."""
    is_group: Bool[Tensor, "B L"] | None = None
    """Which latents are real."""


@dataclass(frozen=True)
class DecoderKV:
    """What all queries of one evaluation share: each level's keys, values and modulation, and the final modulation."""

    levels: tuple[tuple[KeyValue, Modulation], ...]
    final: tuple[Tensor, Tensor]
    groups: Float[Tensor, "B L W"] | None = None
    """What the tokens of a group's queries have in common."""
    is_group: Bool[Tensor, "B L"] | None = None


class Decoder(nn.Module):
    """Queries to velocities, by way of the latents alone."""

    def __init__(self, config: Config, tokens: Tokens | AtomEmbedding, value_size: int) -> None:
        super().__init__()
        width, source = config.query_width, config.width
        self.tokens = tokens
        self.own = nn.Linear(source, width, bias=False) if config.residue_skip else None
        self.blocks = nn.ModuleList(
            Block(
                width, config.query_heads, config.mlp_ratio, condition_width=source, source_width=source, outnumber=True
            )
            for _ in range(config.decoder_levels)
        )
        self.modulation = nn.Linear(source, 4 * width)
        self.final = ModulatedLinear(2 * width, value_size)

    def levels(self) -> list[Block]:
        """The block of each level, the earliest first."""
        return cast("list[Block]", list(self.blocks))

    def decoder_kv(self, latents: Latents) -> DecoderKV:
        """Keys, values and modulations, once per evaluation for all its queries."""
        condition = functional.silu(latents.vector)
        levels = tuple(
            (block.project_kv(level), block.modulate(condition))
            for block, level in zip(self.levels(), latents.levels, strict=True)
        )
        shift, scale = self.modulation(condition)[:, None].chunk(2, -1)
        groups = None
        if isinstance(self.tokens, AtomEmbedding):
            assert latents.features is not None
            groups = self.tokens.groups(latents.features)
            if self.own is not None:
                groups = groups + self.own(latents.levels[-1])
        return DecoderKV(levels, (shift, scale), groups, latents.is_group)

    def embed(self, queries: Queries) -> Float[Tensor, "*B M W"]:
        """What of the queries' tokens depends on fixed coordinates alone: made once, it serves every evaluation."""
        assert queries.coordinates is not None, "queries that move have nothing of the kind"
        return self.tokens.embed(queries.coordinates)

    def forward(
        self,
        queries: Queries,
        values: Float[Tensor, "B M C"],
        decoder_kv: DecoderKV,
        embedded: Float[Tensor, "*B M W"] | None = None,
    ) -> Float[Tensor, "B M C"]:
        """The velocity of each query, in fp32 at least; the final layer sees the decoded query beside its embedded value.

        `embedded` is what `embed` made of the queries, if it was made.
        """
        if isinstance(self.tokens, AtomEmbedding):
            assert decoder_kv.groups is not None
            x, value = self.tokens(queries, values, decoder_kv.groups, embedded)
        else:
            x, value = self.tokens(queries.coordinates, values, embedded)
        for block, (reading, modulation) in zip(self.levels(), decoder_kv.levels, strict=True):
            x = block(x, modulation, reading, decoder_kv.is_group)
        shift, scale = decoder_kv.final
        with torch.autocast(x.device.type, enabled=False):
            return self.final(to_fp32(torch.cat([x, value.to(x.dtype)], -1)), to_fp32(shift), to_fp32(scale))
