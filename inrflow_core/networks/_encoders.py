"""Encoders: from the context's pairs to latents that know where they are.

`Spatial` is INRFlow's (section 3.4): each latent has a pseudo-coordinate and one learned query, and attends only to
the pairs nearest to it. `Linear` groups a grid into patches and maps each by one layer (appendix C). The Perceiver's
reading of the context lies in the trunk, since every latent attends to every pair there, more than once.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from torch.nn import functional

from inrflow_core.networks._layers import Projection, fourier
from inrflow_core.sets import SetShape

HASH_PRIMES = (73_856_093, 19_349_663, 83_492_791)
"""Multipliers of a cell's three indices (Teschner et al. 2003, spatial hashing)."""


def grid_positions(sides: tuple[int, ...]) -> Float[Tensor, "L D"]:
    """Centres of a regular grid on [-1, 1], row by row."""
    axes = [(2 * torch.arange(side, dtype=torch.float64) + 1) / side - 1 for side in sides]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).flatten(0, -2).float()


def latent_grid(latents: int, shape: SetShape) -> tuple[int, ...]:
    """Sides of the latents' grid: equal along all axes.

    Raises:
        ValueError: there is no such grid of that many latents.
    """
    axes = len(shape.grid or ())
    side = round(latents ** (1 / axes)) if axes else 0
    if side**axes != latents or not axes:
        raise ValueError(
            f"`latents` is {latents}: a grid of pseudo-coordinates needs a whole number to the power {axes or 2}"
        )
    return (side,) * axes


def pseudo_coordinates(kind: str, latents: int, shape: SetShape) -> Float[Tensor, "L D"]:
    """Where the latents are (INRFlow, appendix D): on a grid, uniformly random, or the centres of k-means.

    The random ones come from a fixed seed, so that every run and every process has the same.
    """
    if kind == "grid":
        return grid_positions(latent_grid(latents, shape))
    axes = shape.coordinate_size
    generator = torch.Generator().manual_seed(0)
    if kind == "random":
        return 2 * torch.rand(latents, axes, generator=generator) - 1
    from scipy.cluster.vq import kmeans2

    pairs = grid_positions(shape.grid) if shape.grid else 2 * torch.rand(16 * latents, axes, generator=generator) - 1
    centres, _ = kmeans2(pairs.numpy(), latents, minit="++", seed=0)
    return torch.from_numpy(centres).float()


class Spatial(nn.Module):
    """One learned query per latent attends to the pairs of its own group.

    The keys' and values' projections are folded: the score of a pair x is (W_k^T q) . x, and the value is
    W_v (sum of weighted x), so that no pair is ever projected. The keys' bias would add the same to all scores of a
    query and is left out; the values' bias is added once.
    """

    def __init__(self, width: int, heads: int, latents: int, pseudo: str, shape: SetShape) -> None:
        super().__init__()
        self.heads, self.latents = heads, latents
        self.is_hashed = pseudo == "hash"
        self.values = None if shape.is_moving else Projection(shape.value_size, width)
        self.latent = nn.Parameter(torch.zeros(latents, width))
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width)
        self.inner, self.outer = nn.Linear(width, width), nn.Linear(width, width)
        self.register_buffer("centre", fourier(torch.zeros(1, shape.coordinate_size), width, top=4.0), persistent=False)
        self.cells = max(2, math.ceil(latents ** (1 / 3)))
        self.patch: tuple[int, ...] | None = None
        if not self.is_hashed:
            self._place(width, pseudo, shape)

    def _place(self, width: int, pseudo: str, shape: SetShape) -> None:
        """Pseudo-coordinates, and for fixed pairs their groups and their offsets from them."""
        positions = pseudo_coordinates(pseudo, self.latents, shape)
        self.register_buffer("positions", positions, persistent=False)
        if shape.grid is None:
            return
        pairs = grid_positions(shape.grid)
        sides = latent_grid(self.latents, shape) if pseudo == "grid" else None
        if sides is not None and all(n % side == 0 for n, side in zip(shape.grid, sides, strict=True)):
            self.patch = tuple(n // side for n, side in zip(shape.grid, sides, strict=True))
            self.sides = sides
            offsets = grid_positions(self.patch)
        else:
            groups = nearest(pairs, positions)
            offsets = (pairs - positions[groups]) * self.latents ** (1 / pairs.shape[1])
            self.register_buffer("groups", groups, persistent=False)
        self.register_buffer("offsets", fourier(offsets, width, top=4.0), persistent=False)

    def forward(
        self,
        values: Float[Tensor, "B N C"],
        tokens: Float[Tensor, "B N W"] | None,
        coordinates: Float[Tensor, "B N D"] | None,
        mask: Bool[Tensor, "B N"] | None,
    ) -> Float[Tensor, "B L W"]:
        """Latents of the context. `tokens` are given for moving points, whose own position is in them."""
        if self.patch is not None and mask is None:
            pooled = self._pool_patches(values)
        else:
            if tokens is None:
                assert self.values is not None
                tokens = self.values(values) + self.offsets
                groups = self.groups_of_pairs(values.shape[0], values.shape[1])
            else:
                groups = self.assign(coordinates)
            pooled = self._pool_groups(tokens, groups, mask)
        mixed = torch.einsum("blhw,hdw->blhd", pooled, self.value.weight.unflatten(0, (self.heads, -1)))
        latents = mixed.flatten(2) + self.value.bias
        hidden = functional.layer_norm(latents, latents.shape[-1:], eps=1e-6)
        return self.outer(functional.gelu(self.inner(hidden), approximate="tanh"))

    def folded_query(self) -> Float[Tensor, "L H W"]:
        """W_k^T q of each latent and head, divided by the root of the head's size."""
        size = self.latent.shape[1] // self.heads
        q = self.query(self.latent + self.centre).unflatten(-1, (self.heads, size))
        return torch.einsum("lhd,hdw->lhw", q, self.key.weight.unflatten(0, (self.heads, size))) / size**0.5

    def assign(self, coordinates: Float[Tensor, "B N D"]) -> Int64[Tensor, "B N"]:
        """The latent of each moving point: that of its cell, or the nearest pseudo-coordinate's."""
        if not self.is_hashed:
            return nearest(coordinates, self.positions)
        cell = ((coordinates.clamp(-4, 4) + 1) / 2 * self.cells).floor().long()
        total = torch.zeros(cell.shape[:-1], dtype=torch.int64, device=cell.device)
        for axis in range(cell.shape[-1]):
            total = total ^ (cell[..., axis] * HASH_PRIMES[axis])
        return total % self.latents

    def groups_of_pairs(self, batch: int, pairs: int) -> Int64[Tensor, "B N"]:
        """The latent of each pair of a grid."""
        if self.patch is not None:
            index = torch.arange(pairs, device=self.latent.device).view(
                tuple(p * s for p, s in zip(self.patch, self.sides, strict=True))
            )
            group = torch.zeros_like(index)
            for axis, (p, side) in enumerate(zip(self.patch, self.sides, strict=True)):
                place = torch.arange(p * side, device=index.device) // p
                group = group * side + place.view([-1 if a == axis else 1 for a in range(index.ndim)])
            return group.flatten().expand(batch, -1)
        return self.groups.expand(batch, -1)

    def _pool_patches(self, values: Float[Tensor, "B N C"]) -> Float[Tensor, "B L H W"]:
        """Every group is a patch of one size: a reshape and two small matrix products."""
        assert self.patch is not None and self.values is not None
        tokens = self.values(patches(values, self.patch, self.sides)) + self.offsets
        weights = (tokens @ self.folded_query().to(tokens.dtype).transpose(1, 2)).softmax(2)  # [B L P H]
        return weights.transpose(2, 3) @ tokens

    def _pool_groups(
        self, tokens: Float[Tensor, "B N W"], groups: Int64[Tensor, "B N"], mask: Bool[Tensor, "B N"] | None
    ) -> Float[Tensor, "B L H W"]:
        """Groups of unequal size, sorted and taken together in buckets of nearly equal size: under 2x padding."""
        batch, _, width = tokens.shape
        total = batch * self.latents
        owner = (groups + torch.arange(batch, device=groups.device)[:, None] * self.latents).flatten()
        if mask is not None:
            owner = torch.where(mask.flatten(), owner, total)
        order = owner.argsort(stable=True)
        sizes = torch.bincount(owner, minlength=total + 1)[:total]
        starts = sizes.cumsum(0) - sizes
        flat, query = tokens.flatten(0, 1), self.folded_query().to(tokens.dtype)
        pooled = torch.zeros(total, self.heads, width, dtype=tokens.dtype, device=tokens.device)
        bucket = torch.where(sizes > 0, torch.ceil(torch.log2(sizes.clamp(min=1).double())).long(), -1)
        for power in bucket.unique().tolist():
            if power < 0:
                continue
            members = (bucket == power).nonzero()[:, 0]
            place = torch.arange(2**power, device=tokens.device)
            valid = place < sizes[members, None]
            index = order[(starts[members, None] + place).clamp(max=len(order) - 1)]
            x = flat[index]
            scores = x @ query[members % self.latents].transpose(1, 2)
            weights = scores.masked_fill(~valid[..., None], -torch.inf).softmax(1)
            pooled = pooled.index_copy(0, members, (weights.transpose(1, 2) @ x).to(pooled.dtype))
        return pooled.unflatten(0, (batch, self.latents))


class Linear(nn.Module):
    """Each patch of a grid mapped to its latent by one layer: INRFlow-linear (appendix C)."""

    def __init__(self, width: int, latents: int, shape: SetShape) -> None:
        super().__init__()
        self.sides = latent_grid(latents, shape)
        if shape.grid is None or any(n % side for n, side in zip(shape.grid, self.sides, strict=True)):
            raise ValueError(
                f"`encoder` is `linear`: {latents} latents do not divide the grid {shape.grid} into equal patches"
            )
        self.patch = tuple(n // side for n, side in zip(shape.grid, self.sides, strict=True))
        self.linear = nn.Linear(math.prod(self.patch) * shape.value_size, width)
        self.norm = nn.LayerNorm(width)
        self.register_buffer("positions", grid_positions(self.sides), persistent=False)

    def forward(self, values: Float[Tensor, "B N C"]) -> Float[Tensor, "B L W"]:
        """Latents of the context."""
        return self.norm(self.linear(patches(values, self.patch, self.sides).flatten(2)))


def patches(values: Float[Tensor, "B N C"], patch: tuple[int, ...], sides: tuple[int, ...]) -> Float[Tensor, "B L P C"]:
    """The pairs of each patch of a grid, both in row order."""
    axes = len(patch)
    split = values.unflatten(1, [n for pair in zip(sides, patch, strict=True) for n in pair])
    outer, inner = [1 + 2 * axis for axis in range(axes)], [2 + 2 * axis for axis in range(axes)]
    return split.permute(0, *outer, *inner, 2 * axes + 1).flatten(1 + axes, 2 * axes).flatten(1, axes)


def nearest(pairs: Float[Tensor, "*B N D"], positions: Float[Tensor, "L D"]) -> Int64[Tensor, "*B N"]:
    """The index of the nearest position, some pairs at a time."""
    flat = pairs.flatten(0, -2)
    size = max(1, (1 << 24) // len(positions))
    found = [torch.cdist(flat[i : i + size], positions).argmin(1) for i in range(0, len(flat), size)]
    return torch.cat(found).view(pairs.shape[:-1])
