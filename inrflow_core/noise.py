"""Noise as a function: normals and uniforms keyed by (seed, purpose, step, place), the same however they are asked.

The generator is Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3") in int64 arithmetic;
Box-Muller turns its words into normals in float64, which are then rounded. The logarithm and the turn in it are made of
sums, products, quotients and square roots alone, which IEEE 754 rounds alike everywhere, so that every device gives the
same bits; the library's own functions are twice as fast and differ between devices in the last bit. Batch, chunk,
process and order of asking cannot matter, because nothing is remembered between two calls.

On grids the noise is a field: independent normals on the lattice of signed whole positions, and between them the
weighted sum of the neighbours divided by the norm of its weights, so that every single query sees N(0, 1) while
neighbours agree, and the lattice's own values are met exactly.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Float32, Float64, Int64
from torch import Tensor

SLICES = {"cpu": 1 << 16}
LARGE_SLICE = 1 << 22
"""Places hashed at once, over all sets: bounds the working memory of large queries. A GPU needs large ones: each slice is
hundreds of kernels, and 64 images of 256 x 256 in slices of 2^16 would be 10,000 of them."""
BOX = 8
"""A box of the lattice is hashed whole, once, where it has at most so many positions for each place."""
LOW = 0xFFFFFFFF
ROUNDS = 8
"""Of the Feistel networks that permute."""
KERNEL = "linear"
"""The default: of the field's kernels the one with the lower Frechet distance (194 against 213 for `cubic`, and 315 for
`independent`: a small MNIST model of 14 x 14, asked at 28 x 28), at 4 lattice values a query instead of 16."""
KERNELS = {"linear": 2, "cubic": 4}
"""Interpolation kernels and how many lattice points each spans along an axis."""


def derive(seed: int, *words: int) -> int:
    """A new seed in [0, 2^63) mixed from a seed and whole numbers, such as a step and a place in the batch."""
    state = torch.tensor([seed], dtype=torch.int64)
    for word in words:
        state = _mix(state ^ _mix(torch.tensor([word], dtype=torch.int64)))
    return int(_mix(state) & 0x7FFFFFFFFFFFFFFF)


def derive_seeds(seed: int, step: int, places: Int64[Tensor, " B"]) -> Int64[Tensor, " B"]:
    """`derive(seed, step, place)` for each place."""
    state = _mix(torch.tensor([seed], dtype=torch.int64, device=places.device) ^ _mix(torch.full_like(places, step)))
    return _mix(_mix(state ^ _mix(places))) & 0x7FFFFFFFFFFFFFFF


def normal(
    seeds: Int64[Tensor, " B"],
    places: Int64[Tensor, " N"] | Int64[Tensor, "N D"] | Float64[Tensor, "N D"],
    *,
    purpose: str,
    channels: int,
    step: int = 0,
    kernel: str = KERNEL,
    known: Float[Tensor, "B *grid C"] | None = None,
) -> Float32[Tensor, "B N C"]:
    """Normals N(0, 1) at `places`: keyed by the id where these are whole numbers, else the noise field.

    Positions of whole numbers (N D) are the lattice's own: nobody has to wait for the device to learn that they are.

    None is beyond 6.8 deviations: a uniform number of 32 bits has no smaller logarithm.

    Args:
        purpose: what the noise is for; another word is other noise.
        step: the solver step, for noise that is drawn anew in each.
        kernel: how the field goes on between lattice positions: `linear`, `cubic`, or `independent` (each position
            keyed by itself; what the papers do).
        known: values that replace the noise of the first ids, or of the lattice box that begins at the origin.
    """
    keys = _keys(seeds, purpose, step, channels)
    out = torch.empty(len(seeds), len(places), channels, device=places.device)
    size = max(1, SLICES.get(places.device.type, LARGE_SLICE) // max(1, len(seeds)))
    for start in range(0, len(places), size):
        part = places[start : start + size]
        out[:, start : start + size] = _normal_part(keys, part, channels, kernel, known)
    return out


def uniform(seeds: Int64[Tensor, " B"], *, purpose: str, count: int = 1) -> Float64[Tensor, "B count"]:
    """Numbers in (0, 1), ends excluded, with 52 random bits, `count` per seed."""
    key = _keys(seeds, purpose, 0, 1)[0]
    index = torch.arange(-(-count // 2), device=seeds.device)
    words = philox((index, torch.zeros_like(index), torch.zeros_like(index), torch.zeros_like(index)), key)
    # One bit fewer than float64 has, so that the half still fits and neither 0 nor 1 can come out.
    pairs = [(((a >> 6) << 26 | b >> 6).double() + 0.5) / 2.0**52 for a, b in (words[:2], words[2:])]
    return torch.stack(pairs, -1).flatten(1)[:, :count]


def subset(seeds: Int64[Tensor, " B"], total: int, count: int, *, purpose: str) -> Int64[Tensor, "B count"]:
    """`count` distinct numbers below `total` for each seed, in random order; all of them where `count` is `total`.

    The first of a permutation that is computed, so that the cost is that of `count` numbers: 4096 of 65,536 pixels for
    64 sets take 14 ms, sorting random keys took 640 ms and 270 MB.
    """
    assert count <= total, f"{count} distinct numbers below {total}"
    positions = torch.arange(count, device=seeds.device).expand(len(seeds), count)
    return _permuted(_keys(seeds, purpose, 0, 1)[0], positions, total)


def shuffled(seed: int, epoch: int, positions: np.ndarray, total: int) -> np.ndarray:
    """Which example (int64) stands at each position of an epoch: a permutation of `total`, computed and not stored."""
    key = torch.tensor([derive(seed, epoch)])
    return _permuted(key, torch.from_numpy(np.array(positions, dtype=np.int64))[None], total)[0].numpy()


def philox(counter: Sequence[Int64[Tensor, " n"]], key: Int64[Tensor, " B"]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Four 32-bit words (as int64) of shape (B, n) for each key and each counter of n, Philox4x32-10."""
    k0, k1 = (key & LOW)[:, None], ((key >> 32) & LOW)[:, None]
    c0, c1, c2, c3 = (c[None] for c in counter)
    for _ in range(10):
        first, second = c0 * 0xD2511F53, c2 * 0xCD9E8D57
        c0, c1, c2, c3 = (
            ((second >> 32) & LOW) ^ c1 ^ k0,
            second & LOW,
            ((first >> 32) & LOW) ^ c3 ^ k1,
            first & LOW,
        )
        k0, k1 = (k0 + 0x9E3779B9) & LOW, (k1 + 0xBB67AE85) & LOW
    return c0, c1, c2, c3


def _normal_part(
    keys: list[Tensor], places: Tensor, channels: int, kernel: str, known: Tensor | None
) -> Float32[Tensor, "B N C"]:
    if not places.is_floating_point():
        return (_at_ids if places.ndim == 1 else _at_lattice)(keys, places, channels, known)
    low = places.floor()
    fraction = places - low
    if not fraction.any():
        return _at_lattice(keys, low.long(), channels, known)
    if kernel == "independent":
        return _independent(keys, places, low, channels, known)
    return _between(keys, low.long(), fraction, channels, kernel, known)


def _between(
    keys: list[Tensor], low: Int64[Tensor, "N D"], fraction: Tensor, channels: int, kernel: str, known: Tensor | None
) -> Float32[Tensor, "B N C"]:
    """The weighted neighbours; the lattice box around all places is hashed once where it is not much larger."""
    weights = _weights(fraction, kernel)
    reach = KERNELS[kernel] // 2 - 1
    first, last = low.amin(0) - reach, low.amax(0) + reach + 1
    sides = (last - first + 1).tolist()
    box = None
    if math.prod(sides) <= BOX * len(low):
        axes = [torch.arange(side, device=low.device) for side in sides]
        corners = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).flatten(0, -2) + first
        box = _at_lattice(keys, corners, channels, known)
    total = torch.zeros(len(keys[0]), len(low), channels, dtype=torch.float64, device=low.device)
    for offsets in itertools.product(range(KERNELS[kernel]), repeat=low.shape[1]):
        share = torch.ones(len(low), dtype=torch.float64, device=low.device)
        for axis, offset in enumerate(offsets):
            share = share * weights[:, axis, offset]
        position = low + torch.tensor(offsets, device=low.device) - reach
        if box is None:
            values = _at_lattice(keys, position, channels, known)
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
    keys: list[Tensor], places: Float64[Tensor, "N D"], low: Tensor, channels: int, known: Tensor | None
) -> Float32[Tensor, "B N C"]:
    """Each position keyed by its own bits; on the lattice the lattice's noise."""
    mixed = torch.zeros(len(places), dtype=torch.int64, device=places.device)
    for bits in (places + 0.0).view(torch.int64).unbind(1):
        mixed = _mix(mixed ^ bits)
    words = [mixed & LOW, (mixed >> 32) & LOW]
    apart = [_mix(key ^ 0x5DEECE66D) for key in keys]
    alone = _normals(apart, words, channels)
    on_lattice = (places == low).all(1)
    if on_lattice.any():
        alone[:, on_lattice] = _at_lattice(keys, low[on_lattice].long(), channels, known)
    return alone


def _at_lattice(
    keys: list[Tensor], positions: Int64[Tensor, "N D"], channels: int, known: Tensor | None
) -> Float32[Tensor, "B N C"]:
    values = _normals(keys, [positions[:, axis] & LOW for axis in range(positions.shape[1])], channels)
    if known is not None:
        sides = torch.tensor(known.shape[1:-1], device=positions.device)
        inside = ((positions >= 0) & (positions < sides)).all(1)
        index = torch.zeros(int(inside.sum()), dtype=torch.int64, device=positions.device)
        for axis, side in enumerate(known.shape[1:-1]):
            index = index * side + positions[inside, axis]
        values[:, inside] = known.flatten(1, -2)[:, index].float()
    return values


def _at_ids(
    keys: list[Tensor], ids: Int64[Tensor, " N"], channels: int, known: Tensor | None
) -> Float32[Tensor, "B N C"]:
    values = _normals(keys, [ids & LOW, (ids >> 32) & LOW], channels)
    if known is not None:
        inside = ids < known.shape[1]
        values[:, inside] = known[:, ids[inside]].float()
    return values


def _normals(keys: list[Tensor], words: list[Tensor], channels: int) -> Float32[Tensor, "B N C"]:
    """`channels` normals for each key and each counter of up to four words."""
    zero = torch.zeros_like(words[0])
    counter = (*words, *(zero for _ in range(4 - len(words))))
    made: list[Tensor] = []
    for key in keys:
        bits = philox(counter, key)
        for a, b in (bits[:2], bits[2:]):
            if len(made) >= channels:
                break
            radius = torch.sqrt(-2 * _logarithm((a.double() + 0.5) / 2.0**32))
            made += [(radius * part).float() for part in _turn(b)]
    return torch.stack(made[:channels], -1)


def _keys(seeds: Int64[Tensor, " B"], purpose: str, step: int, channels: int) -> list[Int64[Tensor, " B"]]:
    """A key for each group of four channels, mixed from the seed, the purpose and the step."""
    word = int.from_bytes(hashlib.sha256(purpose.encode()).digest()[:7], "little")
    groups = range(-(-channels // 4))
    return [_mix(_mix(_mix(seeds) ^ word) ^ _mix(torch.full_like(seeds, (step << 8) + group))) for group in groups]


def _mix(x: Tensor) -> Tensor:
    """The finaliser of SplitMix64 (Steele et al. 2014): a bijection of 64 bits, every input bit to every output bit."""
    x = x + -0x61C8864680B583EB
    x = (x ^ _shift(x, 30)) * -0x40A7B892E31B1A47
    x = (x ^ _shift(x, 27)) * -0x6B2FB644ECCEEE15
    return x ^ _shift(x, 31)


def _shift(x: Tensor, bits: int) -> Tensor:
    """A right shift that brings in zeros."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _permuted(keys: Int64[Tensor, " B"], positions: Int64[Tensor, "B n"], total: int) -> Int64[Tensor, "B n"]:
    """Each key's permutation of the numbers below `total`, at `positions`.

    A Feistel network on the pairs of digits of the smallest square from `total` on, walked until it lands below
    `total`: for 2048 that is one number in 31, for a square training grid none.
    """
    side = math.isqrt(total - 1) + 1
    rounds = [_mix(keys ^ _mix(torch.full_like(keys, turn)))[:, None] & LOW for turn in range(ROUNDS)]
    out = _feistel(positions, side, rounds)
    for _ in range(_walks(side * side - total, side * side)):
        outside = out >= total
        if out.device.type == "cpu" and not bool(outside.any()):
            break
        out = torch.where(outside, _feistel(out, side, rounds), out)
    return out


def _walks(outside: int, whole: int) -> int:
    """How often a number is moved on until it has surely left those outside: as often as there are such numbers, or
    until the chance that it has not is below 2^-64. So no device has to be asked whether all have."""
    return min(outside, math.ceil(64 * math.log(2) / math.log(whole / outside))) if outside else 0


def _feistel(x: Int64[Tensor, "B n"], side: int, rounds: list[Tensor]) -> Int64[Tensor, "B n"]:
    left, right = x // side, x % side
    for key in rounds:
        mixed = (right * 0x9E3779B9 + key) & LOW
        for factor, shift in ((0x7FEB352D, 16), (0x846CA68B, 15)):
            mixed = ((mixed ^ (mixed >> shift)) * factor) & LOW
        left, right = right, (left + (mixed ^ (mixed >> 16))) % side
    return left * side + right


def _logarithm(x: Float64[Tensor, "B n"]) -> Float64[Tensor, "B n"]:
    """Natural logarithm in (0, 1), to 1e-15 of it: exponent, and the series of 2 artanh((m - 1) / (m + 1)) around 1."""
    mantissa, exponent = torch.frexp(x)
    is_small = mantissa < math.sqrt(0.5)
    mantissa = torch.where(is_small, mantissa * 2, mantissa)
    ratio = (mantissa - 1) / (mantissa + 1)
    square = ratio * ratio
    series = torch.full_like(square, 1 / 21)
    for odd in range(19, 0, -2):
        series = series * square + 1 / odd
    return 2 * ratio * series + (exponent - is_small.int()).double() * math.log(2)


def _turn(word: Int64[Tensor, "B n"]) -> tuple[Float64[Tensor, "B n"], Float64[Tensor, "B n"]]:
    """Cosine and sine of (word + 1/2) / 2^32 turns, to 1e-15: power series within an eighth of a turn of a quarter."""
    quarter = ((word >> 29) + 1) >> 1
    angle = ((word - (quarter << 30)).double() + 0.5) * (2 * math.pi / 2.0**32)
    square = angle * angle
    cosine, sine = (torch.full_like(square, (-1) ** (p // 2) / math.factorial(p)) for p in (16, 15))
    for p in range(14, 0, -2):
        cosine = cosine * square + (-1) ** (p // 2) / math.factorial(p)
        sine = sine * square + (-1) ** ((p - 1) // 2) / math.factorial(p - 1)
    cosine, sine = cosine * square + 1, sine * angle
    is_odd, is_half = quarter % 2 == 1, (quarter >> 1) % 2 == 1
    cosine, sine = torch.where(is_odd, -sine, cosine), torch.where(is_odd, cosine, sine)
    return torch.where(is_half, -cosine, cosine), torch.where(is_half, -sine, sine)
