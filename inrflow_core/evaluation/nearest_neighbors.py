"""The nearest training items of samples, which show whether a model memorized its training set (docs/metrics.md).

The training set is read in batches of indices and values, so that a million images need the memory of one batch.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64, UInt8

from inrflow_core.distances import cd
from inrflow_core.errors import UsageError

ROWS = 4096
"""Samples that are compared with a batch at once; with batches of 1,024 their distances take 16 MiB."""
COLUMNS = 1024
"""Values of an image whose products are summed in single precision; these sums are added in double precision."""
ROUNDING = 1e-4
"""Bound of the rounding error of a squared distance, relative to both squared norms: below COLUMNS / 2^24."""
POINTS = 512
"""Points of a cloud that are compared; a pair of such clouds takes about 0.5 ms."""

Batches = Iterable[tuple[np.ndarray, np.ndarray]]
"""Batches of indices in the training set and their values."""


@dataclass(frozen=True)
class NearestNeighbors:
    """The nearest training items of every sample, the nearest first; ties in the order of the training set."""

    indices: Int64[np.ndarray, "N K"]
    """Indices in the training set."""
    distances: Float64[np.ndarray, "N K"]
    """In the unit of the function that computed them."""


def nearest_images(
    samples: UInt8[np.ndarray, "N H W C"], training: Batches, count: int, *, device: str | torch.device = "cpu"
) -> NearestNeighbors:
    """The `count` nearest training images (all of fewer ones) by rms difference in gray levels, 0 to 255.

    Matrix products in single precision select candidates, whose distances are then computed exactly.

    Raises:
        UsageError: training images have another size or mode than the samples.
    """
    best = _Best(len(samples), count)
    flat = samples.reshape(len(samples), -1)
    for indices, values in training:
        if values.shape[1:] != samples.shape[1:]:
            raise UsageError(
                f"samples are {_size(samples)}, training images {_size(values)}",
                hint="only images of one size and mode are compared: sample at the size of the training set",
            )
        others = values.reshape(len(values), -1)
        batch = torch.tensor(others, device=device)
        for start in range(0, len(flat), ROWS):
            rows = slice(start, start + ROWS)
            low, slack = _products(torch.tensor(flat[rows], device=device), batch)
            limit = torch.from_numpy(best.upper_bound(rows)).to(low)
            kth = torch.topk(low + slack, min(count, len(values)), largest=False).values[:, -1]
            is_near = low - slack <= torch.minimum(limit, kth)[:, None]
            row, column = (indices.cpu().numpy() for indices in torch.nonzero(is_near, as_tuple=True))
            best.add(start + row, indices[column], _squared(flat, start + row, others, column))
    nearest, squared = best.result()
    return NearestNeighbors(nearest, np.sqrt(squared / flat.shape[1]))


def nearest_clouds(
    samples: Float[np.ndarray, "N P C"], training: Batches, count: int, *, points: int = POINTS, seed: int = 0
) -> NearestNeighbors:
    """The `count` nearest training clouds by Chamfer distance: squared, the means of both directions added.

    Clouds of more than `points` points are randomly subsampled to that number; clouds of one size share the indices.
    """
    best = _Best(len(samples), count)
    trees = [cd.prepare(cloud) for cloud in _subsampled(samples, points, seed)]
    for indices, values in training:
        for index, tree in zip(
            indices, [cd.prepare(cloud) for cloud in _subsampled(values, points, seed)], strict=True
        ):
            for row, sample in enumerate(trees):
                limit = float(best.upper_bound(slice(row, row + 1))[0])
                one_way = cd.one_sided(sample, tree)
                if one_way <= limit:
                    best.add(np.array([row]), np.array([index]), np.array([one_way + cd.one_sided(tree, sample)]))
    return NearestNeighbors(*best.result())


class _Best:
    """The nearest training items of every sample so far."""

    def __init__(self, rows: int, count: int) -> None:
        assert count > 0
        self._indices = np.full((rows, count), np.iinfo(np.int64).max)
        self._distances = np.full((rows, count), np.inf)

    def upper_bound(self, rows: slice) -> Float64[np.ndarray, " R"]:
        """The distance beyond which an item is not among the nearest of a sample."""
        return self._distances[rows, -1]

    def add(self, rows: np.ndarray, indices: np.ndarray, distances: np.ndarray) -> None:
        """Consider items, each for the sample of one row; rows ascend."""
        count = self._indices.shape[1]
        for row, (start, stop) in zip(*_runs(rows), strict=True):
            joined = np.concatenate([self._distances[row], distances[start:stop]])
            candidates = np.concatenate([self._indices[row], indices[start:stop]])
            order = np.lexsort((candidates, joined))[:count]
            self._distances[row], self._indices[row] = joined[order], candidates[order]

    def result(self) -> tuple[Int64[np.ndarray, "N K"], Float64[np.ndarray, "N K"]]:
        """Indices and distances; fewer columns if there were fewer items."""
        is_finite = np.isfinite(self._distances).all(0)
        return self._indices[:, is_finite], self._distances[:, is_finite]


def _runs(rows: np.ndarray) -> tuple[list[int], list[tuple[int, int]]]:
    """The distinct numbers of an ascending row, and the range of each."""
    numbers, starts = np.unique(rows, return_index=True)
    return numbers.tolist(), list(zip(starts.tolist(), np.append(starts, len(rows))[1:].tolist(), strict=True))


def _products(samples: torch.Tensor, batch: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Squared distances of all pairs from products in single precision, and bounds of their errors."""
    shape = len(samples), len(batch)
    lengths, products = (torch.zeros(shape, dtype=torch.float64, device=samples.device) for _ in range(2))
    for some, others in zip(samples.split(COLUMNS, 1), batch.split(COLUMNS, 1), strict=True):
        # Convert some columns to floats at a time: whole rows would take gigabytes. Centered on mid-gray, which halves
        # the rounding error where long rows nearly cancel.
        a, b = some.float() - 127.5, others.float() - 127.5
        lengths += (a * a).sum(1, dtype=torch.float64)[:, None] + (b * b).sum(1, dtype=torch.float64)[None]
        products += a @ b.T
    return lengths - 2 * products, lengths * ROUNDING


def _squared(a: np.ndarray, rows: np.ndarray, b: np.ndarray, columns: np.ndarray) -> Float64[np.ndarray, " P"]:
    """Exact squared distances of selected pairs, one by one: the pairs are few, and one at a time is in memory."""
    result = np.empty(len(rows))
    for pair, (row, column) in enumerate(zip(rows.tolist(), columns.tolist(), strict=True)):
        difference = a[row].astype(np.int32) - b[column]
        # The squares of one difference fit 16 bits and their sum may not fit 32.
        result[pair] = np.sum(difference * difference, dtype=np.int64)
    return result


def _subsampled(clouds: np.ndarray, points: int, seed: int) -> np.ndarray:
    """The positions of at most `points` points of each cloud."""
    size = clouds.shape[1]
    if size <= points:
        return clouds[..., :3]
    return clouds[:, np.sort(np.random.default_rng(seed).permutation(size)[:points]), :3]


def _size(images: np.ndarray) -> str:
    return " x ".join(str(number) for number in images.shape[1:])
