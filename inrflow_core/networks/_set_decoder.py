"""The decoder: each query attends to the latents of one level after the other, never to other queries.

Source: INRFlow (arXiv:2412.03791), section 3.4. A saved field holds its weights and the latents, and
needs neither encoder nor trunk to be evaluated.
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
    """The output of the trunk: the latents of each decoder level, earliest first, and the condition."""

    levels: tuple[Float[Tensor, "B L W"], ...]
    vector: Float[Tensor, "B W"]
    features: Float[Tensor, "B L F"] | None = None
    """Features of each group of pairs, if each latent is a group."""
    is_group: Bool[Tensor, "B L"] | None = None
    """Which latents are not padding."""


@dataclass(frozen=True)
class DecoderKV:
    """What all queries of one evaluation share: each level's keys, values and modulation, and the final modulation."""

    levels: tuple[tuple[KeyValue, Modulation], ...]
    final: tuple[Tensor, Tensor]
    groups: Float[Tensor, "B L W"] | None = None
    """Added to the tokens of each group's queries."""
    is_group: Bool[Tensor, "B L"] | None = None


class Decoder(nn.Module):
    """Compute the velocity of each query from the latents."""

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

    def exact_layers(self) -> list[nn.Module]:
        """Layers that compute in fp32 under autocast as well."""
        return [self.final]

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
        """The part of the queries' tokens that depends on fixed coordinates alone: once for all evaluations."""
        assert queries.coordinates is not None, "points without fixed coordinates have no such part"
        return self.tokens.embed(queries.coordinates)

    def forward(
        self,
        queries: Queries,
        values: Float[Tensor, "B M C"],
        decoder_kv: DecoderKV,
        embedded: Float[Tensor, "*B M W"] | None = None,
    ) -> Float[Tensor, "B M C"]:
        """The velocity of each query, in fp32 at least; the final layer takes the decoded query and its embedded value.

        `embedded` is a precomputed result of `embed`.
        """
        if isinstance(self.tokens, AtomEmbedding):
            assert decoder_kv.groups is not None
            x, value = self.tokens(queries, values, decoder_kv.groups, embedded)
        else:
            x, value = self.tokens(queries.coordinates, values, embedded)
        for block, (keys_values, modulation) in zip(self.levels(), decoder_kv.levels, strict=True):
            x = block(x, modulation, keys_values, decoder_kv.is_group)
        shift, scale = decoder_kv.final
        with torch.autocast(x.device.type, enabled=False):
            return self.final(to_fp32(torch.cat([x, value.to(x.dtype)], -1)), to_fp32(shift), to_fp32(scale))
