"""Noise as a function: normals and uniforms keyed by (seed, purpose, step, position), the same in any order and batch.

The generator is Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3") in int64 arithmetic;
Box-Muller turns its words into normals in float64, which are then rounded. The logarithm and the turn in it are made of
sums, products, quotients and square roots alone, which IEEE 754 rounds alike everywhere, so that every device gives the
same bits; the library's own functions are twice as fast and differ between devices in the last bit. Batch, chunk,
process and order of queries cannot matter, because no state is kept between calls.

On grids the noise is a field: independent normals on the lattice of signed whole positions, and between them the
weighted sum of the neighbors divided by the norm of its weights, so that every single query sees N(0, 1) while
neighbors agree, and the lattice's own values are met exactly.
"""

from __future__ import annotations

import itertools
import math

import torch
from jaxtyping import Float, Float32, Float64, Int64
from torch import Tensor

from inrflow_core.numerics.keyed_random import MASK_32, channel_keys, keyed_normals, mix_bits
from inrflow_core.runtime import cache_blocks

SLICE_SIZE = {"cpu": 1 << 16}
LARGE_SLICE = 1 << 22
"""Places hashed at once, over all sets: bounds the working memory of large queries. A GPU needs large ones: each slice is
hundreds of kernels, and 64 images of 256 x 256 in slices of 2^16 would be 10,000 of them."""
BOX = 8
"""A box of the lattice is hashed as a whole if it has at most this number of lattice points per position."""
DEFAULT_INTERPOLATION = "linear"
"""The default: of the field's kernels the one with the lower Frechet distance (194 against 213 for `cubic`, and 315 for
`independent`: a small MNIST model of 14 x 14, evaluated at 28 x 28), at 4 lattice values a query instead of 16."""
KERNELS = {"linear": 2, "cubic": 4}
"""Interpolation kernels and how many lattice points each spans along an axis."""


def normal(
    seeds: Int64[Tensor, " B"],
    positions: Int64[Tensor, " N"] | Int64[Tensor, "N D"] | Float64[Tensor, "N D"],
    *,
    purpose: str,
    channels: int,
    step: int = 0,
    kernel: str = DEFAULT_INTERPOLATION,
    override: Float[Tensor, "B *grid C"] | None = None,
) -> Float32[Tensor, "B N C"]:
    """Normals N(0, 1) at `positions`: keyed by the id where these are whole numbers, else the noise field.

    Integer positions (N D) are lattice points: no device synchronization is needed to find out.

    No value is beyond 6.8 deviations, the limit of 32-bit uniform numbers.

    Args:
        purpose: the use of the noise; another word gives other noise.
        step: the solver step, for noise that differs between steps.
        kernel: interpolation between lattice points: `linear`, `cubic`, or `independent` (each position
            keyed by itself; what the papers do).
        override: values that replace the noise of the first ids, or of the lattice box that begins at the origin.
    """
    keys = channel_keys(seeds, purpose, step, channels)
    out = torch.empty(len(seeds), len(positions), channels, device=positions.device)
    size = max(1, SLICE_SIZE.get(cache_blocks.device_type(positions.device), LARGE_SLICE) // max(1, len(seeds)))
    size = cache_blocks.block_bytes(8 * size, 8 * len(positions), most=2) // 8
    for start in range(0, len(positions), size):
        part = positions[start : start + size]
        out[:, start : start + size] = _normal_part(keys, part, channels, kernel, override)
    return out


def normal_inside(
    seeds: Int64[Tensor, " B"],
    positions: Float64[Tensor, "N D"],
    grid: tuple[int, ...],
    *,
    purpose: str,
    channels: int,
    kernel: str = DEFAULT_INTERPOLATION,
) -> Float32[Tensor, "B N C"]:
    """`normal` at positions inside a grid, from 0 to its sides minus 1: the same numbers, without a device synchronization.

    The numbers of `positions` are never read, so that a plan can trace it.
    """
    keys = channel_keys(seeds, purpose, 0, channels)
    low = positions.floor()
    if kernel == "independent":
        values, on_lattice = _hashed_by_bits(keys, positions, channels), (positions == low).all(1)
        return torch.where(on_lattice[:, None], _at_lattice(keys, low.long(), channels, None), values)
    bounds = [0] * len(grid), [side - 1 for side in grid]
    return _between(keys, low.long(), positions - low, channels, kernel, None, bounds)


def _normal_part(
    keys: list[Tensor], positions: Tensor, channels: int, kernel: str, override: Tensor | None
) -> Float32[Tensor, "B N C"]:
    if not positions.is_floating_point():
        return (_at_ids if positions.ndim == 1 else _at_lattice)(keys, positions, channels, override)
    low = positions.floor()
    fraction = positions - low
    if not fraction.any():
        return _at_lattice(keys, low.long(), channels, override)
    if kernel == "independent":
        return _independent(keys, positions, low, channels, override)
    bounds = low.long().amin(0).tolist(), low.long().amax(0).tolist()
    return _between(keys, low.long(), fraction, channels, kernel, override, bounds)


def _between(
    keys: list[Tensor],
    low: Int64[Tensor, "N D"],
    fraction: Float64[Tensor, "N D"],
    channels: int,
    kernel: str,
    override: Tensor | None,
    bounds: tuple[list[int], list[int]],
) -> Float32[Tensor, "B N C"]:
    """The weighted neighbors; the lattice box around all positions is hashed once where it is not much larger."""
    weights = _weights(fraction, kernel)
    reach = KERNELS[kernel] // 2 - 1
    first = [least - reach for least in bounds[0]]
    sides = [most + reach + 2 - start for most, start in zip(bounds[1], first, strict=True)]
    box = None
    if math.prod(sides) <= BOX * len(low):
        axes = [torch.arange(side, device=low.device) for side in sides]
        corners = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).flatten(0, -2)
        corners = corners + torch.tensor(first, pin_memory=low.is_cuda).to(low.device, non_blocking=True)
        box = _at_lattice(keys, corners, channels, override)
    total = torch.zeros(len(keys[0]), len(low), channels, dtype=torch.float64, device=low.device)
    for offsets in itertools.product(range(KERNELS[kernel]), repeat=low.shape[1]):
        share = torch.ones(len(low), dtype=torch.float64, device=low.device)
        for axis, offset in enumerate(offsets):
            share = share * weights[:, axis, offset]
        shift = torch.tensor(offsets, pin_memory=low.is_cuda).to(low.device, non_blocking=True)
        position = low + shift - reach
        if box is None:
            values = _at_lattice(keys, position, channels, override)
        else:
            index = torch.zeros(len(low), dtype=torch.int64, device=low.device)
            for axis, side in enumerate(sides):
                index = index * side + (position[:, axis] - first[axis])
            values = box[:, index]
        total += share[:, None] * values
    return total.float()


def _weights(fraction: Float64[Tensor, "N D"], kernel: str) -> Float64[Tensor, "N D K"]:
    """Weights of the lattice points along each axis, of norm 1, one-hot on the lattice itself."""
    f = fraction
    if kernel == "linear":
        weights = torch.stack([1 - f, f], -1)
    elif kernel == "cubic":  # Catmull-Rom
        weights = 0.5 * torch.stack(
            [
                -f + 2 * f**2 - f**3,
                2 - 5 * f**2 + 3 * f**3,
                f + 4 * f**2 - 3 * f**3,
                -(f**2) + f**3,
            ],
            -1,
        )
    else:
        raise ValueError(f"the noise kernel is `{kernel}`: linear, cubic or independent")
    return weights / weights.norm(dim=-1, keepdim=True)


def _independent(
    keys: list[Tensor], positions: Float64[Tensor, "N D"], low: Tensor, channels: int, override: Tensor | None
) -> Float32[Tensor, "B N C"]:
    """Each position keyed by its own bits; on the lattice the lattice's noise."""
    alone = _hashed_by_bits(keys, positions, channels)
    on_lattice = (positions == low).all(1)
    if on_lattice.any():
        alone[:, on_lattice] = _at_lattice(keys, low[on_lattice].long(), channels, override)
    return alone


def _hashed_by_bits(keys: list[Tensor], positions: Float64[Tensor, "N D"], channels: int) -> Float32[Tensor, "B N C"]:
    mixed = torch.zeros(len(positions), dtype=torch.int64, device=positions.device)
    for bits in (positions + 0.0).view(torch.int64).unbind(1):
        mixed = mix_bits(mixed ^ bits)
    words = [mixed & MASK_32, (mixed >> 32) & MASK_32]
    apart = [mix_bits(key ^ 0x5DEECE66D) for key in keys]
    return keyed_normals(apart, words, channels)


def _at_lattice(
    keys: list[Tensor], positions: Int64[Tensor, "N D"], channels: int, override: Tensor | None
) -> Float32[Tensor, "B N C"]:
    values = keyed_normals(keys, [positions[:, axis] & MASK_32 for axis in range(positions.shape[1])], channels)
    if override is not None:
        sides = torch.tensor(override.shape[1:-1], device=positions.device)
        inside = ((positions >= 0) & (positions < sides)).all(1)
        index = torch.zeros(int(inside.sum()), dtype=torch.int64, device=positions.device)
        for axis, side in enumerate(override.shape[1:-1]):
            index = index * side + positions[inside, axis]
        values[:, inside] = override.flatten(1, -2)[:, index].float()
    return values


def _at_ids(
    keys: list[Tensor], ids: Int64[Tensor, " N"], channels: int, override: Tensor | None
) -> Float32[Tensor, "B N C"]:
    values = keyed_normals(keys, [ids & MASK_32, (ids >> 32) & MASK_32], channels)
    if override is not None:
        inside = ids < override.shape[1]
        values[:, inside] = override[:, ids[inside]].float()
    return values
