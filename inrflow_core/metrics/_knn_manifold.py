"""The manifold of k-nearest neighbors, on which precision and recall are defined.

Source: Kynkaanniemi et al. 2019, arXiv:1904.06991, equations 1 and 2. The neighborhood of an image is the ball around
its features whose radius is the distance to its k-th nearest neighbor on its own side, itself not counted (a copy is).
The ball is closed: points at exactly the k-th distance are inside, on both sides, as in the authors' code.

Distances are squared, in float32 of features less their mean, with an error of about 1e-6 of the squared spread. They
are computed in tiles of 2048 by 2048 and not stored.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Float64, Int64

from inrflow_core.metrics._feature_checks import both_sides
from inrflow_core.metrics._inputs import Features, FeatureSpec, jackknife_groups

PROTOCOLS = ("inception:adm", "vgg16:stylegan", "random")
OUTPUTS = {"inception": "pool", "vgg16": "fc2", "random": "all"}
K = 3
"""The neighbor that sets the radius, in all the papers."""
MIN_ITEMS = K + 1
TILE = 2048


def unit(protocol: str) -> str:
    """None: a share, from 0 to 1."""
    return ""


def inputs(protocol: str) -> FeatureSpec:
    """Pooled Inception features, VGG16's second fully connected layer, or the random features."""
    network, _, preprocessing = protocol.partition(":")
    return FeatureSpec(network, OUTPUTS[network], preprocessing or "v1")


@dataclass(frozen=True)
class ManifoldMetric:
    """The share of one side inside the manifold of the other."""

    title: str
    is_of_samples: bool
    """True: samples in the reference's manifold; False: the reference in that of the samples."""

    def compute(self, inputs: Features, protocol: str) -> float:
        """The share; raises UsageError as `_feature_checks.both_sides`, for fewer than four of either side too."""
        return float(self._shares(inputs, 1)[0])

    def jackknife_values(self, inputs: Features, protocol: str, parts: int) -> Float64[np.ndarray, " P"]:
        """The share without each group, at little more than the cost of one value."""
        return self._shares(inputs, parts)[1:]

    def _shares(self, inputs: Features, parts: int) -> Float64[np.ndarray, " V"]:
        samples, reference = both_sides(inputs, self.title, MIN_ITEMS)
        queries, support = (samples, reference) if self.is_of_samples else (reference, samples)
        return fraction_inside_manifold(queries, support, k=K, parts=parts)


def fraction_inside_manifold(
    queries: Float32[np.ndarray, "N F"], support: Float32[np.ndarray, "R F"], *, k: int, parts: int = 1
) -> Float64[np.ndarray, " V"]:
    """The share of queries inside any ball of the support: of all, then without each group of both sides.

    With one group the second value is NaN. The groups cost little more than the whole: distances are computed once.
    """
    center = support.mean(0, dtype=np.float64).astype(np.float32)
    groups = jackknife_groups(len(support), parts)
    radii = _radii(support, groups, center, k, parts)
    query_groups = jackknife_groups(len(queries), parts)
    hits = np.zeros((len(queries), parts + 1), dtype=bool)
    for rows in _runs(np.arange(len(queries))):
        x = queries[rows] - center
        for part, columns in _tiles(groups, parts):
            squares = _squares(x, support[columns] - center)
            for left in range(parts + 1):
                if left != part + 1:
                    hits[rows, left] |= (squares <= radii[columns, left]).any(1)
    counted = np.column_stack([np.ones(len(queries), dtype=bool), query_groups[:, None] != np.arange(parts)])
    with np.errstate(invalid="ignore"):
        return (hits & counted).sum(0) / counted.sum(0)


def _radii(
    support: Float32[np.ndarray, "R F"],
    groups: Int64[np.ndarray, " R"],
    center: Float32[np.ndarray, " F"],
    k: int,
    parts: int,
) -> Float32[np.ndarray, "R V"]:
    """Squared distances to the k-th neighbor: among all, then without each group."""
    radii = np.empty((len(support), parts + 1), dtype=np.float32)
    for rows in _runs(np.arange(len(support))):
        x = support[rows] - center
        nearest = np.full((len(rows), parts, k), np.inf, dtype=np.float32)
        for part, columns in _tiles(groups, parts):
            squares = _squares(x, support[columns] - center)
            squares[rows[:, None] == columns] = np.inf
            nearest[:, part] = _smallest(np.concatenate([nearest[:, part], squares], axis=1), k)
        radii[rows, 0] = _smallest(nearest.reshape(len(rows), -1), k).max(1)
        for left in range(parts):
            others = np.delete(nearest, left, axis=1).reshape(len(rows), -1)
            radii[rows, left + 1] = _smallest(others, k).max(1) if parts > 1 else np.nan
    return radii


def _squares(x: Float32[np.ndarray, "N F"], y: Float32[np.ndarray, "R F"]) -> Float32[np.ndarray, "N R"]:
    """Squared distances, 0 at the least."""
    squares = x @ y.T
    squares *= -2
    squares += np.einsum("nf,nf->n", x, x)[:, None]
    squares += np.einsum("rf,rf->r", y, y)
    return np.maximum(squares, 0, out=squares)


def _smallest(numbers: Float32[np.ndarray, "N M"], k: int) -> Float32[np.ndarray, "N k"]:
    """The k smallest of each row, in no order."""
    return np.partition(numbers, k - 1, axis=1)[:, :k]


def _tiles(groups: Int64[np.ndarray, " R"], parts: int) -> Iterator[tuple[int, Int64[np.ndarray, " T"]]]:
    """Each group's indices, in runs of at most one tile."""
    for part in range(parts):
        for indices in _runs(np.flatnonzero(groups == part)):
            yield part, indices


def _runs(indices: Int64[np.ndarray, " N"]) -> Iterator[Int64[np.ndarray, " T"]]:
    """The indices, a tile's length at a time."""
    for start in range(0, len(indices), TILE):
        yield indices[start : start + TILE]
