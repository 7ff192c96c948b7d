"""Encoders: from the context's pairs to latents. They use neither time nor condition, so that guidance encodes once.

`SpatialEncoder` is INRFlow's (arXiv:2412.03791, section 3.4): a latent attends to its own pairs alone. `PatchEncoder`
maps each patch of a grid by one layer. The Perceiver's cross-attention to the whole context is modulated by time and
therefore a part of the trunk (`Block` with a source); its encoder is `Tokens` alone.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from inrflow_core.errors import UsageError
from inrflow_core.layers.activations import NORM_EPSILON, to_fp32
from inrflow_core.layers.attention import GeluLinear
from inrflow_core.layers.embeddings import Tokens
from inrflow_core.networks import _set_grouping
from inrflow_core.networks._set_grouping import MASKED_SCORE, Tiles
from inrflow_core.runtime import cache_blocks
from inrflow_core.sets import Grid, Queries, SetSpec

CHUNK_BYTES = {"cpu": 4 << 20}
"""Bytes of tokens pooled at once in training: on a CPU they stay in its cache."""
LARGE_CHUNK_BYTES = 1 << 29
MOST_COMPILED_CHUNKS = 8
"""Each chunk is unrolled in a compiled graph: 64 of them would take minutes to compile."""


class SpatialEncoder(nn.Module):
    """Each latent has one learned query, which attends to the pairs of its own group alone.

    The projections of keys and values are folded: the score of a token x is (W_k^T q) . x and a head's value is
    W_v (the weighted sum of x), so that no pair is ever projected. The keys have no bias, since it would add the
    same to all scores of a query; the values' bias is added once. A latent without pairs pools 0.

    Coordinates of grids and of fixed pairs are relative to their pseudo-coordinate, in units of a cell; those of hashed
    cells, and of points without fixed coordinates, are absolute.
    """

    positions: Tensor | None
    middle: Tensor
    tile_pairs: Tensor
    tile_is_real: Tensor
    tile_latent: Tensor
    offsets: Tensor

    def __init__(self, shape: SetSpec, tokens: Tokens, *, width: int, heads: int, latents: int, kind: str) -> None:
        super().__init__()
        self.shape, self.heads, self.latents, self.kind = shape, heads, latents, kind
        self.tokens = tokens
        self.cells = max(2, round(latents ** (1 / shape.coordinate_size)))
        self.latent = nn.Parameter(torch.zeros(latents, width))
        self.query = nn.Linear(width, width)
        joint = torch.empty(2 * width, width)
        nn.init.xavier_uniform_(joint)
        self.key, self.value = nn.Parameter(joint[:width].clone()), nn.Parameter(joint[width:].clone())
        self.value_bias = nn.Parameter(torch.zeros(width))
        self.inner, self.outer = nn.Linear(width, width), GeluLinear(width, width)
        positions = None if kind == "hash" else _set_grouping.pseudo_coordinates(kind, latents, shape)
        self.register_buffer("positions", None if positions is None else positions.float(), persistent=False)
        middle = torch.zeros(1, width)
        if tokens.moving_size is None:
            middle = tokens.fourier(torch.full((1, shape.coordinate_size), 0.0 if positions is None else 0.5))
        self.register_buffer("middle", middle, persistent=False)
        with torch.device("cpu"):  # also when the network is built on the device `meta`
            self._group_the_grid(positions)

    def forward(
        self, context: Queries, values: Float[Tensor, "B N C"], mask: Bool[Tensor, "B N"] | None
    ) -> Float[Tensor, "B L W"]:
        """Latents of the context; `mask` is False at padding."""
        if mask is not None:
            values = values.masked_fill(~mask[..., None], 0)
        pooled = (
            self._pool_grid(values, mask)
            if isinstance(self.shape.layout, Grid)
            else self._pool_scattered(context, values, mask)
        )
        batch, latents, heads, width = pooled.shape  # [B L H W]
        value = self.value.unflatten(0, (heads, -1)).transpose(1, 2)
        by_head = pooled.permute(2, 0, 1, 3).reshape(heads, batch * latents, width)
        mixed = torch.bmm(by_head, value).transpose(0, 1).reshape(batch, latents, width)
        normed = functional.layer_norm(to_fp32(mixed + self.value_bias), (width,), eps=NORM_EPSILON)
        return self.outer(self.inner(normed))

    def folded_queries(self) -> Float[Tensor, "L H W"]:
        """W_k^T q of each latent and head, divided by the root of the head's size."""
        queries = self.query(self.latent + self.middle).unflatten(-1, (self.heads, -1))  # [L H d]
        key = self.key.unflatten(0, (self.heads, -1))
        return torch.bmm(queries.transpose(0, 1), key).transpose(0, 1) * queries.shape[-1] ** -0.5

    def groups(self, coordinates: Float[Tensor, "*B N D"]) -> Int64[Tensor, "*B N"]:
        """The index of the latent that each scattered pair belongs to."""
        if self.positions is None:
            return _set_grouping.hash_codes(coordinates, self.latents, self.cells)
        return _set_grouping.nearest_center(to_fp32(coordinates), self.positions.to(coordinates.dtype))

    def _group_the_grid(self, positions: Float64[Tensor, "L D"] | None) -> None:
        """Compute the groups and offsets of a grid's pairs, which are constant. Equal patches share their offsets."""
        shape = self.shape
        if not isinstance(shape.layout, Grid):
            return
        groups, offsets = _set_grouping.grid_groups(self.kind, positions, shape, latents=self.latents, cells=self.cells)
        cut = _set_grouping.fixed_tiles(groups, self.latents)
        self.is_dense = bool(cut.is_real.all()) and cut.pairs.shape[0] == self.latents
        offsets = offsets[cut.pairs]
        if self.is_dense and self.kind == "grid":
            offsets = offsets[:1]
        self.register_buffer("tile_pairs", cut.pairs, persistent=False)
        self.register_buffer("tile_is_real", cut.is_real, persistent=False)
        self.register_buffer("tile_latent", cut.latent, persistent=False)
        self.register_buffer("offsets", offsets, persistent=False)

    def _pool_grid(self, values: Float[Tensor, "B N C"], mask: Bool[Tensor, "B N"] | None) -> Float[Tensor, "B L H W"]:
        """Pool groups that all sets share. Tiles come before the batch, so that sets share a tile's query."""
        assert values.shape[1] == self.shape.num_queries, "the context of a grid is the training grid"
        queries = self.folded_queries()
        in_tiles = values.transpose(0, 1)[self.tile_pairs].transpose(1, 2)  # [K B T C]
        is_real = None if self.is_dense else self.tile_is_real[:, None]
        if mask is not None:
            real = mask.t()[self.tile_pairs].transpose(1, 2)
            is_real = real if is_real is None else real & is_real
        if not self.is_dense:
            queries = queries[self.tile_latent]
        pooled, log_total = self._pool_in_chunks(in_tiles, queries, self.offsets, is_real)
        if not self.is_dense:
            pooled = _merge(pooled, log_total, self.tile_latent, self.latents)
        return pooled.transpose(0, 1)

    def _pool_scattered(
        self, context: Queries, values: Float[Tensor, "B N C"], mask: Bool[Tensor, "B N"] | None
    ) -> Float[Tensor, "B L H W"]:
        """Pool the groups of each set separately."""
        batch = values.shape[0]
        coordinates = self.shape.coordinates_of(context, values)
        assert coordinates is not None, "pairs without coordinates are points"
        coordinates = coordinates.detach().expand(batch, -1, -1)
        cut: Tiles = _set_grouping.tile_groups(self.groups(coordinates), self.latents)
        sets = torch.arange(batch, device=values.device)[:, None, None]
        is_real = cut.is_real if mask is None else cut.is_real & mask[sets, cut.pairs]
        owner = (cut.latent + sets[..., 0] * self.latents).flatten()
        offsets = None if context.coordinates is None else self._offsets(coordinates)[sets, cut.pairs].flatten(0, 1)
        pooled, log_total = self._pool_in_chunks(
            values[sets, cut.pairs].flatten(0, 1)[:, None],
            self.folded_queries()[cut.latent.flatten()],
            offsets,
            is_real.flatten(0, 1)[:, None],
        )
        return _merge(pooled, log_total, owner, batch * self.latents)[:, 0].unflatten(0, (batch, self.latents))

    def _offsets(self, coordinates: Float[Tensor, "B N D"]) -> Float[Tensor, "B N D"]:
        """Coordinates relative to the cell of each pair; absolute ones for hashed cells."""
        positions = self.positions
        if positions is None:
            return coordinates
        pitch = 2 / self.latents ** (1 / self.shape.coordinate_size)
        return 0.5 + (coordinates - positions[self.groups(coordinates)]) / pitch

    def _pool_in_chunks(
        self,
        values: Float[Tensor, "K B T C"],
        queries: Float[Tensor, "K H W"],
        offsets: Float[Tensor, "K T D"] | Float[Tensor, "1 T D"] | None,
        is_real: Bool[Tensor, "K B T"] | Bool[Tensor, "K 1 T"] | None,
    ) -> tuple[Float[Tensor, "K B H W"], Float[Tensor, "K B H"] | None]:
        """`_pool`, some tiles at a time; tokens are recomputed in the backward pass instead of being saved."""
        num_tiles, batch, length, _ = values.shape
        tile_bytes = 4 * batch * length * queries.shape[-1]
        budget = CHUNK_BYTES.get(cache_blocks.device_type(values.device), LARGE_CHUNK_BYTES)
        size = max(1, cache_blocks.block_bytes(budget, num_tiles * tile_bytes, most=8) // tile_bytes)
        if torch.compiler.is_compiling():
            size = max(size, -(-num_tiles // MOST_COMPILED_CHUNKS))
        if torch.compiler.is_exporting():
            size = num_tiles  # the number of parts must not depend on the traced batch
        features = None
        if offsets is not None and offsets.shape[0] == 1:
            features, offsets = self.tokens.fourier(offsets), None
        parts: list[tuple[Tensor, Tensor | None]] = []
        for start in range(0, num_tiles, size):
            part = slice(start, start + size)
            inputs = (
                values[part],
                queries[part],
                features,
                None if offsets is None else offsets[part],
                None if is_real is None else is_real[part],
            )
            if torch.is_grad_enabled():
                parts.append(checkpoint(self._pool, *inputs, use_reentrant=False, preserve_rng_state=False))
            else:
                parts.append(self._pool(*inputs))
        pooled = torch.cat([part[0] for part in parts])
        return pooled, None if is_real is None else torch.cat([part[1] for part in parts if part[1] is not None])

    def _pool(
        self,
        values: Float[Tensor, "K B T C"],
        queries: Float[Tensor, "K H W"],
        features: Float[Tensor, "1 T W"] | None,
        offsets: Float[Tensor, "K T D"] | None,
        is_real: Bool[Tensor, "K B T"] | Bool[Tensor, "K 1 T"] | None,
    ) -> tuple[Float[Tensor, "K B H W"], Float[Tensor, "K B H"] | None]:
        """Each tile's softmax-weighted mean token, and the log of the sum of the weights before normalization."""
        num_tiles, batch, length, _ = values.shape
        tokens = _autocast(self._embed(values, features, offsets))  # [K B T W]
        flat = tokens.flatten(0, 1)
        scores = to_fp32(torch.bmm(tokens.flatten(1, 2), queries.to(tokens.dtype).transpose(1, 2)))
        scores = scores.unflatten(1, (batch, length))  # [K B T H]
        if is_real is not None:
            scores = scores.masked_fill(~is_real[..., None], MASKED_SCORE)
        weights = scores.softmax(2)
        log_total = None
        if is_real is not None:
            weights, log_total = weights * is_real[..., None], scores.logsumexp(2)
        pooled = torch.bmm(weights.flatten(0, 1).to(tokens.dtype).transpose(1, 2), flat)
        return pooled.unflatten(0, (num_tiles, batch)), log_total

    def _embed(
        self, values: Float[Tensor, "K B T C"], features: Tensor | None, offsets: Float[Tensor, "K T D"] | None
    ) -> Float[Tensor, "K B T W"]:
        if features is None and offsets is None:
            return self.tokens(None, values.flatten(1, 2))[0].view(*values.shape[:-1], -1)
        embedded: Tensor = self.tokens.fourier(offsets) if features is None else features
        return self.tokens.value.plain(values) + embedded[:, None]  # all of this is recomputed anyway


class PatchEncoder(nn.Module):
    """Each patch of a grid mapped to its latent by one layer and a norm (INRFlow-linear)."""

    positions: Tensor
    order: Tensor

    def __init__(self, shape: SetSpec, *, width: int, latents: int) -> None:
        super().__init__()
        if not isinstance(shape.layout, Grid):
            raise UsageError(
                "[network] `encoder` is `linear`, which needs the patches of a grid, and these sets have no grid",
                hint="use `perceiver` or `spatial`",
            )
        sides = _set_grouping.grid_sides(latents, shape)
        if any(n % side for n, side in zip(shape.layout.shape, sides, strict=True)):
            raise UsageError(
                f"[network] `encoder` is `linear`: {latents} latents do not cut the grid {shape.layout.shape} into "
                "equal patches",
                hint="choose latents whose sides divide the grid's, or `spatial`",
            )
        positions = _set_grouping.pseudo_coordinates("grid", latents, shape)
        with torch.device("cpu"):
            groups, _ = _set_grouping.grid_groups("grid", positions, shape, latents=latents, cells=1)
            cut = _set_grouping.fixed_tiles(groups, latents)
        self.register_buffer("order", cut.pairs, persistent=False)
        self.register_buffer("positions", positions.float(), persistent=False)
        self.linear = nn.Linear(cut.pairs.shape[1] * shape.value_size, width)
        self.norm = nn.LayerNorm(width, eps=1e-6)

    def forward(
        self, context: Queries, values: Float[Tensor, "B N C"], mask: Bool[Tensor, "B N"] | None
    ) -> Float[Tensor, "B L W"]:
        """Latents of the context, which is a whole grid."""
        assert mask is None, "the pairs of a grid are all real"
        return self.norm(self.linear(values[:, self.order].flatten(2)))


def _autocast(x: Tensor) -> Tensor:
    """x in the precision of autocast if it is on: cast once, not for each product."""
    device = x.device.type
    return x.to(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else x


def _merge(
    pooled: Float[Tensor, "K B H W"],
    log_total: Float[Tensor, "K B H"] | None,
    latent: Int64[Tensor, " K"],
    latents: int,
) -> Float[Tensor, "L B H W"]:
    """Combine the tiles of each latent into one softmax over all its pairs: exact for any division into tiles."""
    assert log_total is not None
    index = latent[:, None, None].expand_as(log_total)
    lowest = log_total.new_full((latents, *log_total.shape[1:]), 2 * MASKED_SCORE)
    highest = lowest.scatter_reduce(0, index, log_total.detach(), "amax")
    weights = (log_total - highest[latent]).exp()
    total = torch.zeros_like(lowest).index_add(0, latent, weights)
    weights = weights / total[latent]
    merged = pooled.new_zeros((latents, *pooled.shape[1:]))
    return merged.index_add(0, latent, pooled * weights[..., None].to(pooled.dtype))
