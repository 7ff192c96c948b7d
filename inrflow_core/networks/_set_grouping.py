"""Which latent each pair belongs to: pseudo-coordinates, groups, and the tiles into which unequal groups are cut.

Source: INRFlow (arXiv:2412.03791), section 3.4 (a pair belongs to the nearest pseudo-coordinate), table 9 (grid,
random, k-means) and appendix A (hash codes in 3D).
"""

from __future__ import annotations

import itertools
import math
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor

from inrflow_core.errors import UsageError
from inrflow_core.sets import Grid, SetSpec

HASH_PRIMES = (73_856_093, 19_349_663, 83_492_791)
"""Multipliers of a cell's indices (Teschner et al. 2003, spatial hashing)."""
PAIRS_PER_CENTER = 16
"""For pairs without fixed coordinates, k-means clusters this many uniform ones per latent."""
LLOYD_STEPS = 10
MASKED_SCORE = -1e30
"""The score of an empty slot: finite, so that a tile of empty slots does not divide by zero."""


class Tiles(NamedTuple):
    """Groups cut into tiles of one size, so that tensors have one shape for any sizes of the groups.

    A tile holds pairs of one latent, and is at most as long as the mean group: there are fewer empty slots than
    pairs, for any sizes of the groups.
    """

    pairs: Int64[Tensor, "*B K T"]
    is_real: Bool[Tensor, "*B K T"]
    latent: Int64[Tensor, "*B K"]


def cell_centers(sides: tuple[int, ...]) -> Float[np.ndarray, "L D"]:
    """Centers of the cells of a regular grid on [-1, 1], row by row, in float64."""
    axes = [(2 * np.arange(side) + 1) / side - 1 for side in sides]
    return np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, len(sides))


def grid_sides(latents: int, shape: SetSpec) -> tuple[int, ...]:
    """Sides of the grid of `latents` cells whose cells are closest to squares.

    Raises:
        UsageError: the best grid's cells would be more than twice as long as wide, or smaller than a pixel.
    """
    extent = shape.layout.shape if isinstance(shape.layout, Grid) else (1,) * shape.coordinate_size

    def stretch(sides: tuple[int, ...]) -> float:
        cells = [n / side for n, side in zip(extent, sides, strict=True)]
        return max(cells) / min(cells)

    best = min(_factorizations(latents, len(extent)), key=stretch)
    too_fine = isinstance(shape.layout, Grid) and any(side > n for n, side in zip(extent, best, strict=True))
    if stretch(best) > 2 or too_fine:
        size = " x ".join(map(str, best))
        raise UsageError(
            f"[network] `latents` is {latents}, as a grid {size}: its cells would be "
            + ("finer than the training grid" if too_fine else "long and thin"),
            hint="choose a square or cube number of latents, at most as many as there are pixels",
        )
    return best


def pseudo_coordinates(kind: str, latents: int, shape: SetSpec) -> Float64[Tensor, "L D"]:
    """Where the latents are, on [-1, 1]: a grid's cells, uniformly random, or the centers of k-means.

    Random positions have a fixed seed, and k-means sums in a fixed order: they are the same in every process.

    Raises:
        UsageError: no grid of that many latents fits (see `grid_sides`), or k-means would have more centers than pairs.
    """
    if kind == "grid":
        return torch.from_numpy(cell_centers(grid_sides(latents, shape)))
    random = np.random.Generator(np.random.PCG64(0))
    if kind == "random":
        return torch.from_numpy(random.uniform(-1, 1, (latents, shape.coordinate_size)))
    pairs = random.uniform(-1, 1, (PAIRS_PER_CENTER * latents, shape.coordinate_size))
    if isinstance(shape.layout, Grid):
        pairs = cell_centers(shape.layout.shape)
    if latents > len(pairs):
        raise UsageError(
            f"[network] `latents` is {latents}: k-means finds at most as many centers as the {len(pairs)} pairs",
            hint="take fewer latents",
        )
    return torch.from_numpy(_kmeans(pairs, latents, random))


def grid_groups(
    kind: str, positions: Float64[Tensor, "L D"] | None, shape: SetSpec, *, latents: int, cells: int
) -> tuple[Int64[Tensor, " N"], Float[Tensor, "N D"]]:
    """The latent of each pixel of the training grid, and where in its cell the pixel is.

    A cell spans [0, 1], about its pseudo-coordinate at 0.5; hash codes have no positions, and the pixel's absolute
    coordinate is returned. A pixel on the border of two cells of a grid belongs to the upper.
    """
    assert isinstance(shape.layout, Grid)
    extent = shape.layout.shape
    pairs = torch.from_numpy(cell_centers(extent))
    if positions is None:
        return hash_codes(pairs, latents, cells), pairs.float()
    if kind == "grid":
        sides = grid_sides(latents, shape)
        groups = torch.zeros((), dtype=torch.int64)
        for n, side in zip(extent, sides, strict=True):
            groups = groups[..., None] * side + (2 * torch.arange(n) + 1) * side // (2 * n)
        groups, per_unit = groups.flatten(), torch.tensor(sides, dtype=torch.float64) / 2
    else:
        groups, per_unit = nearest_center(pairs, positions), latents ** (1 / len(extent)) / 2
    return groups, (0.5 + (pairs - positions[groups]) * per_unit).float()


def nearest_center(pairs: Float[Tensor, "*B N D"], positions: Float[Tensor, "L D"]) -> Int64[Tensor, "*B N"]:
    """The index of the position nearest to each pair; the first of equal ones. Each pair is computed by itself."""
    rows = max(1, (1 << 24) // positions.shape[0])
    parts = [
        torch.cdist(part, positions, compute_mode="donot_use_mm_for_euclid_dist").argmin(-1)
        for part in pairs.flatten(0, -2).split(rows)
    ]
    return torch.cat(parts).view(pairs.shape[:-1])


def hash_codes(pairs: Float[Tensor, "*B N D"], latents: int, cells: int) -> Int64[Tensor, "*B N"]:
    """The latent of each pair's cell. Neighbors share a latent, and so may distant cells.

    `cells` is the number of cells on [-1, 1] along each axis; cells continue outside.
    """
    index = torch.floor((pairs + 1) * (cells / 2)).long()
    code = torch.zeros_like(index[..., 0])
    for axis, prime in zip(range(pairs.shape[-1]), HASH_PRIMES, strict=False):
        code = code ^ (index[..., axis] * prime)
    return code.remainder(latents)


def tile_groups(groups: Int64[Tensor, "B N"], latents: int) -> Tiles:
    """The pairs of each group in tiles. The number of tiles depends on shapes alone: no device synchronization."""
    batch, num_pairs = groups.shape
    size, num_tiles = tile_layout(num_pairs, latents)
    members, order = groups.sort(dim=1, stable=True)
    counts = torch.zeros(batch, latents, dtype=torch.int64, device=groups.device)
    counts.scatter_add_(1, groups, torch.ones_like(groups))
    ends = ((counts + size - 1) // size).cumsum(1)  # in tiles
    first_tile = torch.cat([torch.zeros_like(ends[:, :1]), ends[:, :-1]], 1)
    first_pair = counts.cumsum(1) - counts
    rank = torch.arange(num_pairs, device=groups.device) - first_pair.gather(1, members)
    slot = first_tile.gather(1, members) * size + rank
    pairs = torch.zeros(batch, num_tiles * size, dtype=torch.int64, device=groups.device).scatter_(1, slot, order)
    is_real = torch.zeros_like(pairs, dtype=torch.bool).scatter_(1, slot, True)
    tiles = torch.arange(num_tiles, device=groups.device).expand(batch, -1).contiguous()
    latent = torch.searchsorted(ends, tiles, right=True).clamp(max=latents - 1)
    return Tiles(pairs.unflatten(1, (-1, size)), is_real.unflatten(1, (-1, size)), latent)


def tile_layout(num_pairs: int, latents: int) -> tuple[int, int]:
    """Length and number of tiles for `num_pairs` pairs, whatever the sizes of the groups."""
    size = max(1, num_pairs // latents)
    return size, (num_pairs + latents * (size - 1)) // size


def fixed_tiles(groups: Int64[Tensor, " N"], latents: int) -> Tiles:
    """The tiles of groups that all sets share, without empty ones; one full tile per latent for equal groups."""
    pairs, is_real, latent = (x[0] for x in tile_groups(groups[None], latents))
    used = is_real.any(1)
    return Tiles(pairs[used], is_real[used], latent[used])


def _factorizations(number: int, parts: int) -> list[tuple[int, ...]]:
    """All ways to write `number` as an ordered product of `parts` whole numbers."""
    divisors = [d for d in range(1, math.isqrt(number) + 1) if number % d == 0]
    divisors += [number // d for d in divisors]
    heads = itertools.product(sorted(set(divisors)), repeat=parts - 1)
    return [(*head, number // math.prod(head)) for head in heads if number % math.prod(head) == 0]


def _kmeans(pairs: Float[np.ndarray, "N D"], count: int, random: np.random.Generator) -> Float[np.ndarray, "L D"]:
    """Lloyd's algorithm from k-means++ centers (Arthur and Vassilvitskii 2007), for a fixed number of steps."""
    from scipy.spatial import cKDTree

    axes = np.ascontiguousarray(pairs.T)
    seeds = [pairs[random.integers(len(pairs))]]
    distance = np.full(len(pairs), np.inf)
    for _ in range(count - 1):
        distance = np.minimum(distance, sum((axis - x) ** 2 for axis, x in zip(axes, seeds[-1], strict=True)))
        total = distance.cumsum()
        seeds.append(pairs[np.searchsorted(total, random.uniform() * total[-1], side="right")])
    centers = np.stack(seeds)
    for _ in range(LLOYD_STEPS):
        group = cKDTree(centers).query(pairs)[1]
        sizes = np.bincount(group, minlength=count)
        sums = np.stack([np.bincount(group, axis, minlength=count) for axis in pairs.T], 1)
        centers = np.where(sizes[:, None] > 0, sums / np.maximum(sizes, 1)[:, None], centers)
    return centers
