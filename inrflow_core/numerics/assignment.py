"""Assignments of the points of one set to those of another with a small sum of squared distances.

`exact` finds the least sum, by SciPy's shortest augmenting paths (Crouse 2016): 4 to 8 ms of CPU time for 256 points, 0.7 to 1.8 s
for 2,048. `blocked` sorts both sets into blocks of neighboring points, assigns exactly within each block and repeats that with other
blocks of the pairs: 25 to 45 ms for 2,048 points, and a sum at most some percent above the least.
"""

from __future__ import annotations

import functools

import numpy as np
import torch
from jaxtyping import Float64, Int64

from inrflow_core.numerics import noise_field

SINKHORN_STEPS, TEMPERATURE = 20, 0.05
"""Of the potentials that `exact` starts from; the temperature is in units of the costs' root mean square. They take a quarter to a half
off its time at 256 points and more at 2,048."""
TINY = 1e-30
"""Keeps quotients finite in float32."""
BLOCK = 32
"""Points of a block, at most. Blocks of 64 take twice the time and end 0.5 % lower."""
REFINEMENTS = 4
"""Times that pairs are sorted into other blocks; each costs as much as the first assignment. The last one gains 0.5 %."""


def exact(first: Float64[np.ndarray, "N C"], second: Float64[np.ndarray, "N C"]) -> Int64[np.ndarray, " N"]:
    """The index in `second` for each point of `first`: the permutation with the least sum of squared distances."""
    cost = _negative_products(first[None], second[None])[0]
    return _solve(cost if len(cost) <= BLOCK else _reduce(cost))


def blocked(first: Float64[np.ndarray, "N C"], second: Float64[np.ndarray, "N C"]) -> Int64[np.ndarray, " N"]:
    """The index in `second` for each point of `first`: a permutation whose sum of squared distances is near the least.

    With at most `BLOCK` points it is the least. Each refinement keeps the sum or lowers it.
    """
    count, channels = first.shape
    levels, starts = _nested_blocks(count)
    of_first, of_second = (_sort_into_blocks(points, np.eye(channels), levels) for points in (first, second))
    of_second = of_second[_solve_blocks(first[of_first], second[of_second], starts)]
    for directions in _directions(channels):
        order = _sort_into_blocks(first[of_first] + second[of_second], directions, levels)
        of_first, of_second = of_first[order], of_second[order]
        of_second = of_second[_solve_blocks(first[of_first], second[of_second], starts)]
    index = np.empty(count, dtype=np.int64)
    index[of_first] = of_second
    return index


@functools.lru_cache(maxsize=8)
def _nested_blocks(count: int) -> tuple[list[Int64[np.ndarray, " N"]], Int64[np.ndarray, " K"]]:
    """The number of each position's block at every level of halving, and the first positions of the last level's blocks, with
    `count` at the end. Sizes of the blocks of a level differ by at most 1."""
    levels, blocks = [], 1
    while -(-count // blocks) > BLOCK:
        levels.append(np.searchsorted(np.arange(1, blocks) * count // blocks, np.arange(count), side="right"))
        blocks *= 2
    return levels, np.arange(blocks + 1) * count // blocks


def _sort_into_blocks(
    points: Float64[np.ndarray, "N C"],
    directions: Float64[np.ndarray, "C C"],
    levels: list[Int64[np.ndarray, " N"]],
) -> Int64[np.ndarray, " N"]:
    """An order of the points in which those of a block are neighbors: a k-d tree whose levels split along the directions in turn."""
    order = np.arange(len(points))
    for depth, block in enumerate(levels):
        direction = directions[depth % len(directions)]
        projected = sum(points[:, axis] * part for axis, part in enumerate(direction))
        order = order[np.lexsort((np.asarray(projected)[order], block))]
    return order


@functools.lru_cache(maxsize=8)
def _directions(channels: int) -> list[Float64[np.ndarray, "C C"]]:
    """Directions of every refinement: random, and the same in every call."""
    seeds, ids = torch.arange(REFINEMENTS), torch.arange(channels)
    return list(noise_field.normal(seeds, ids, purpose="directions", channels=channels).double().numpy())


def _solve_blocks(
    first: Float64[np.ndarray, "N C"], second: Float64[np.ndarray, "N C"], starts: Int64[np.ndarray, " K"]
) -> Int64[np.ndarray, " N"]:
    """The exact assignment within each block of consecutive points, as indices of the whole."""
    sizes = np.diff(starts)
    rows = np.minimum(starts[:-1, None] + np.arange(sizes.max()), len(first) - 1)
    costs = _negative_products(first[rows], second[rows])
    index = np.empty(len(first), dtype=np.int64)
    for start, size, cost in zip(starts, sizes, costs, strict=False):
        index[start : start + size] = start + _solve(cost[:size, :size])
    return index


def _negative_products(
    first: Float64[np.ndarray, "K N C"], second: Float64[np.ndarray, "K N C"]
) -> Float64[np.ndarray, "K N N"]:
    """Minus the scalar products of all pairs: the squared distances but for a factor and what permutations leave as it is."""
    cost = np.zeros((len(first), first.shape[1], second.shape[1]))
    for axis in range(first.shape[2]):
        cost -= first[:, :, None, axis] * second[:, None, :, axis]
    return cost


def _reduce(cost: Float64[np.ndarray, "N N"]) -> Float64[np.ndarray, "N N"]:
    """The costs minus a constant of each row and each column, at least 0: the same permutations are the best, and augmenting
    paths are short, because Sinkhorn's potentials (Cuturi 2013) are near those of the optimum."""
    cost = cost - cost.min(1, keepdims=True)
    temperature = TEMPERATURE * float(np.sqrt(np.square(cost).mean())) + TINY
    kernel = np.exp(cost / -temperature).astype(np.float32)
    rows = columns = np.ones(len(cost), dtype=np.float32)
    for _ in range(SINKHORN_STEPS):
        columns = 1 / (rows @ kernel + TINY)
        rows = 1 / (kernel @ columns + TINY)
    cost -= temperature * np.log(columns.astype(np.float64))
    cost -= cost.min(1, keepdims=True)
    return cost - cost.min(0)


def _solve(cost: Float64[np.ndarray, "N N"]) -> Int64[np.ndarray, " N"]:
    from scipy.optimize import linear_sum_assignment

    return linear_sum_assignment(cost)[1]
