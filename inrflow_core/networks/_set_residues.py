"""Pairs in groups, such as the atoms of amino acids: their tokens, and one latent for each group.

Source: INRFlow (arXiv:2412.03791), section 4.3 and appendix A.3: the coordinate of an atom is its features and the
embedding of its residue, its value is its position; cross-attention or a linear layer gathers all atoms of a residue in
one latent.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from torch.nn import functional

from inrflow_core.layers.activations import NORM_EPSILON, to_fp32
from inrflow_core.layers.attention import GeluLinear
from inrflow_core.layers.embeddings import Fourier, Projection, geometric
from inrflow_core.networks._set_grouping import MASKED_SCORE
from inrflow_core.sets import ConditionEmbedding, Groups, Queries, SetSpec

LONGEST_WAVE = 10_000
"""Longest wavelength of the sinusoids of a group's number, over 2 pi (Vaswani et al. 2017)."""
OCTAVES = 7
"""Frequencies of positions, from 1 rad on: the shortest wavelength is a tenth of the data's standard deviation."""


def position_waves(count: int, width: int, device: torch.device) -> Float[Tensor, "L W"]:
    """Sines and cosines of the indices 0 ... count - 1 of groups in their chain."""
    half = width // 2
    frequencies = LONGEST_WAVE ** (-torch.arange(half, dtype=torch.float64, device=device) / half)
    phase = torch.arange(count, dtype=torch.float64, device=device)[:, None] * frequencies
    return functional.pad(torch.cat([phase.sin(), phase.cos()], -1), (0, width - 2 * half)).float()


def gather_groups(shared: Float[Tensor, "B L W"], groups: Int64[Tensor, "B N"]) -> Float[Tensor, "B N W"]:
    """The row of each pair's group; padding gets the first row."""
    index = groups.clamp(min=0)[..., None].expand(-1, -1, shared.shape[-1])
    return shared.gather(1, index)


class AtomEmbedding(nn.Module):
    """Embed a pair as the sum of embeddings of its features, of its value (raw and as waves) and of its group."""

    def __init__(self, shape: SetSpec, width: int, features: int) -> None:
        super().__init__()
        self.waves = Fourier(geometric(1.0, 2.0 ** (OCTAVES - 1), OCTAVES))
        self.value = Projection(shape.value_size * (1 + 2 * OCTAVES), width)
        self.coordinate = Projection(shape.coordinate_size, width)
        self.group = nn.Linear(features, width)

    def groups(self, features: Float[Tensor, "B L F"]) -> Float[Tensor, "B L W"]:
        """The embedding of each group: its features and its index."""
        shared = self.group(features)
        return shared + position_waves(features.shape[1], shared.shape[-1], shared.device).to(shared.dtype)

    def forward(
        self,
        queries: Queries,
        values: Float[Tensor, "B N C"],
        shared: Float[Tensor, "B L W"],
        embedded: Float[Tensor, "*B N W"] | None = None,
    ) -> tuple[Float[Tensor, "B N W"], Float[Tensor, "B N W"]]:
        """The tokens, and the embedded values alone; `embedded` is a precomputed result of `embed`."""
        assert queries.coordinates is not None and queries.group_ids is not None, "pairs in groups have features"
        value = self.value(torch.cat([to_fp32(values), self.waves(values)], -1))
        own = self.embed(queries.coordinates) if embedded is None else embedded
        return value + own + gather_groups(shared, queries.group_ids).to(value.dtype), value

    def embed(self, coordinates: Float[Tensor, "*B N D"]) -> Float[Tensor, "*B N W"]:
        """The part of the tokens that depends on the features alone."""
        return self.coordinate(coordinates)


class ResidueEncoder(nn.Module):
    """One latent for each group: by attention of one learned query to the group's pairs, or by one linear layer.

    The attention's key and value projections are folded, as in the spatial encoder: the score of a token x is
    (W_k^T q) . x, and a head's value W_v (the weighted sum of x).
    """

    def __init__(
        self, shape: SetSpec, *, width: int, heads: int, features: int, kind: Literal["attention", "linear"]
    ) -> None:
        super().__init__()
        assert isinstance(shape.layout, Groups)
        self.size, self.heads, self.kind = shape.layout.max_size, heads, kind
        self.tokens = AtomEmbedding(shape, width, features)
        if kind == "linear":
            self.linear = nn.Linear(self.size * (shape.value_size + shape.coordinate_size), width)
            self.norm = nn.LayerNorm(width, eps=NORM_EPSILON)
            del self.tokens.value, self.tokens.coordinate
            return
        self.query = nn.Parameter(torch.randn(width) / math.sqrt(width))
        self.key, self.value = (nn.Linear(width, width, bias=False) for _ in range(2))
        self.inner, self.outer = nn.Linear(width, width), GeluLinear(width, width)

    def forward(
        self,
        context: Queries,
        values: Float[Tensor, "B N C"],
        mask: Bool[Tensor, "B N"] | None,
        embedding: ConditionEmbedding,
    ) -> Float[Tensor, "B L W"]:
        """Latents of the groups; `mask` is False where a pair is padding or unknown."""
        assert context.group_ids is not None and embedding.features is not None, (
            "pairs in groups need the features of the groups"
        )
        known = context.group_ids >= 0 if mask is None else mask
        values = values.masked_fill(~known[..., None], 0)
        slots, is_real = group_slots(context.group_ids, known, embedding.features.shape[1], self.size)
        shared = self.tokens.groups(embedding.features)
        pooled = (self._map if self.kind == "linear" else self._pool)(context, values, shared, slots, is_real)
        return pooled + shared.to(pooled.dtype)

    def _map(
        self, context: Queries, values: Tensor, shared: Tensor, slots: Int64[Tensor, "B L S"], is_real: Tensor
    ) -> Float[Tensor, "B L W"]:
        assert context.coordinates is not None
        pairs = torch.cat([values, context.coordinates.expand(values.shape[0], -1, -1)], -1)
        return self.norm(self.linear((_in_slots(pairs, slots) * is_real[..., None]).flatten(2)))

    def _pool(
        self, context: Queries, values: Tensor, shared: Tensor, slots: Int64[Tensor, "B L S"], is_real: Tensor
    ) -> Float[Tensor, "B L W"]:
        tokens, _ = self.tokens(context, values, shared)
        heads = self.heads
        query = self.query.unflatten(0, (heads, -1))  # [H d]
        folded = torch.einsum("hd,hdw->wh", query, self.key.weight.unflatten(0, (heads, -1)))
        scores = to_fp32(tokens @ folded.to(tokens.dtype)) * query.shape[1] ** -0.5
        scores = _in_slots(scores, slots).masked_fill(~is_real[..., None], MASKED_SCORE)  # [B L S H]
        weights = scores.softmax(2) * is_real[..., None]
        mean = weights.flatten(0, 1).transpose(1, 2).to(tokens.dtype) @ _in_slots(tokens, slots).flatten(0, 1)
        by_head = mean.unflatten(0, slots.shape[:2])  # [B L H W]
        mixed = torch.einsum("blhw,hdw->blhd", by_head, self.value.weight.unflatten(0, (heads, -1)).to(by_head.dtype))
        normed = functional.layer_norm(to_fp32(mixed.flatten(2)), (tokens.shape[-1],), eps=NORM_EPSILON)
        return self.outer(self.inner(normed))


def group_slots(
    groups: Int64[Tensor, "B N"], known: Bool[Tensor, "B N"], count: int, size: int
) -> tuple[Int64[Tensor, "B L S"], Bool[Tensor, "B L S"]]:
    """The pairs of each of `count` groups, in `size` slots; which slots hold a known pair.

    The pairs of a group must be consecutive, and padding (group -1) last.
    """
    counts = torch.zeros(groups.shape[0], count, dtype=torch.int64, device=groups.device)
    counts.scatter_add_(1, groups.clamp(min=0), (groups >= 0).long())
    first = counts.cumsum(1) - counts
    offsets = torch.arange(size, device=groups.device)
    slots = (first[..., None] + offsets).clamp(max=groups.shape[1] - 1)
    is_real = offsets < counts[..., None]
    return slots, is_real & known.gather(1, slots.flatten(1)).view_as(slots)


def _in_slots(pairs: Float[Tensor, "B N F"], slots: Int64[Tensor, "B L S"]) -> Float[Tensor, "B L S F"]:
    index = slots.flatten(1)[..., None].expand(-1, -1, pairs.shape[-1])
    return pairs.gather(1, index).unflatten(1, slots.shape[1:])
