"""Random numbers as a pure function of their key: uniform, normal, subsets and permutations.

Philox 4x32-10 (Salmon et al. 2011) counts; keys are derived from (seed, purpose, step)."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float32, Float64, Int64
from torch import Tensor

MASK_32 = 0xFFFFFFFF
ROUNDS = 8
"""Of the Feistel networks that permute."""


def derive_seed(seed: int, *words: int) -> int:
    """A new seed in [0, 2^63) mixed from a seed and whole numbers, such as a step and an index in the batch."""
    state = torch.tensor([seed], dtype=torch.int64)
    for word in words:
        state = mix_bits(state ^ mix_bits(torch.tensor([word], dtype=torch.int64)))
    return int(mix_bits(state) & 0x7FFFFFFFFFFFFFFF)


def derive_seeds(seed: int, step: int, indices: Int64[Tensor, " B"]) -> Int64[Tensor, " B"]:
    """`derive_seed(seed, step, index)` for each of `indices`."""
    state = mix_bits(
        torch.tensor([seed], dtype=torch.int64, device=indices.device) ^ mix_bits(torch.full_like(indices, step))
    )
    return mix_bits(mix_bits(state ^ mix_bits(indices))) & 0x7FFFFFFFFFFFFFFF


def uniform(seeds: Int64[Tensor, " B"], *, purpose: str, count: int = 1) -> Float64[Tensor, "B count"]:
    """Numbers in (0, 1), ends excluded, with 52 random bits, `count` per seed."""
    key = channel_keys(seeds, purpose, 0, 1)[0]
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
    return _permuted(channel_keys(seeds, purpose, 0, 1)[0], positions, total)


def permuted_indices(seed: int, epoch: int, positions: np.ndarray, total: int) -> np.ndarray:
    """The example (int64) at each position of an epoch: a permutation of `total`, computed and not stored."""
    key = torch.tensor([derive_seed(seed, epoch)])
    return _permuted(key, torch.from_numpy(np.array(positions, dtype=np.int64))[None], total)[0].numpy()


def philox(counter: Sequence[Int64[Tensor, " n"]], key: Int64[Tensor, " B"]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Four 32-bit words (as int64) of shape (B, n) for each key and each counter of n, Philox4x32-10."""
    k0, k1 = (key & MASK_32)[:, None], ((key >> 32) & MASK_32)[:, None]
    c0, c1, c2, c3 = (c[None] for c in counter)
    for _ in range(10):
        first, second = c0 * 0xD2511F53, c2 * 0xCD9E8D57
        c0, c1, c2, c3 = (
            ((second >> 32) & MASK_32) ^ c1 ^ k0,
            second & MASK_32,
            ((first >> 32) & MASK_32) ^ c3 ^ k1,
            first & MASK_32,
        )
        k0, k1 = (k0 + 0x9E3779B9) & MASK_32, (k1 + 0xBB67AE85) & MASK_32
    return c0, c1, c2, c3


def keyed_normals(keys: list[Tensor], words: list[Tensor], channels: int) -> Float32[Tensor, "B N C"]:
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


def channel_keys(seeds: Int64[Tensor, " B"], purpose: str, step: int, channels: int) -> list[Int64[Tensor, " B"]]:
    """A key for each group of four channels, mixed from the seed, the purpose and the step."""
    word = int.from_bytes(hashlib.sha256(purpose.encode()).digest()[:7], "little")
    groups = range(-(-channels // 4))
    return [
        mix_bits(mix_bits(mix_bits(seeds) ^ word) ^ mix_bits(torch.full_like(seeds, (step << 8) + group)))
        for group in groups
    ]


def mix_bits(x: Tensor) -> Tensor:
    """The finalizer of SplitMix64 (Steele et al. 2014): a bijection of 64 bits, every input bit to every output bit."""
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
    rounds = [mix_bits(keys ^ mix_bits(torch.full_like(keys, turn)))[:, None] & MASK_32 for turn in range(ROUNDS)]
    out = _feistel(positions, side, rounds)
    for _ in range(_walks(side * side - total, side * side)):
        outside = out >= total
        if out.device.type == "cpu" and type(out) is Tensor and not bool(outside.any()):  # a fake tensor has no values
            break
        out = torch.where(outside, _feistel(out, side, rounds), out)
    return out


def _walks(outside: int, whole: int) -> int:
    """How often a number is moved on until it has surely left those outside: as often as there are such numbers, or
    until the chance that it has not is below 2^-64. So the device need not be synchronized."""
    return min(outside, math.ceil(64 * math.log(2) / math.log(whole / outside))) if outside else 0


def _feistel(x: Int64[Tensor, "B n"], side: int, rounds: list[Tensor]) -> Int64[Tensor, "B n"]:
    left, right = x // side, x % side
    for key in rounds:
        mixed = (right * 0x9E3779B9 + key) & MASK_32
        for factor, shift in ((0x7FEB352D, 16), (0x846CA68B, 15)):
            mixed = ((mixed ^ (mixed >> shift)) * factor) & MASK_32
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
