"""Who lies within whose neighbourhood: what precision and recall are made of.

Source: Kynkaanniemi et al. 2019, arXiv:1904.06991, equations 1 and 2. The neighbourhood of an image is the ball around
its features that reaches to its k-th nearest neighbour among its own side, itself not counted (a copy of it is). The
ball is closed: what lies at the k-th distance exactly is inside, on both sides alike, as in the authors' code.

Distances are squared, in float32 of features less their mean, which errs by about 1e-6 of the squared spread. They
are made in tiles of 2048 by 2048, and none is kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Float64, Int64

from inrflow_core.metrics._feature_checks import both_sides
from inrflow_core.metrics._inputs import FeatureSpec, MetricInputs, jackknife_groups

PROTOCOLS = ("inception:adm", "vgg16:stylegan", "random")
OUTPUTS = {"inception": "pool", "vgg16": "fc2", "random": "all"}
K = 3
"""Which neighbour the balls reach to, in all the papers."""
MIN_ITEMS = K + 1
TILE = 2048


def unit(protocol: str) -> str:
    """None: a share, from 0 to 1."""
    return ""


def inputs(protocol: str) -> FeatureSpec:
    """Pooled Inception features, VGG16's second fully connected layer, or the random features."""
    network, _, form = protocol.partition(":")
    return FeatureSpec(network, OUTPUTS[network], form or "v1")


@dataclass(frozen=True)
class ManifoldMetric:
    """The share of one side that lies in the manifold of the other."""

    title: str
    is_of_samples: bool
    """True: samples in the reference's manifold; False: the reference in that of the samples."""

    def compute(self, inputs: MetricInputs, protocol: str) -> float:
        """The share; raises UsageError as `_feature_checks.both_sides`, for fewer than four of either side too."""
        return float(self._shares(inputs, 1)[0])

    def jackknife_values(self, inputs: MetricInputs, protocol: str, parts: int) -> Float64[np.ndarray, " P"]:
        """The share without each group, at little more than the price of one."""
        return self._shares(inputs, parts)[1:]

    def _shares(self, inputs: MetricInputs, parts: int) -> Float64[np.ndarray, " V"]:
        samples, reference = both_sides(inputs, self.title, MIN_ITEMS)
        queries, support = (samples, reference) if self.is_of_samples else (reference, samples)
        return fraction_inside_manifold(queries, support, k=K, parts=parts)


def fraction_inside_manifold(
    queries: Float32[np.ndarray, "N F"], support: Float32[np.ndarray, "R F"], *, k: int, parts: int = 1
) -> Float64[np.ndarray, " V"]:
    """The share of the queries that lie in some ball of the support: of all, then without each part of both sides.

    With one part the last is NaN. The parts cost little more than the whole: distances are taken once.
    """
    centre = support.mean(0, dtype=np.float64).astype(np.float32)
    owners = jackknife_groups(len(support), parts)
    reach = _radii(support, owners, centre, k, parts)
    query_owners = jackknife_groups(len(queries), parts)
    hits = np.zeros((len(queries), parts + 1), dtype=bool)
    for rows in _runs(np.arange(len(queries))):
        x = queries[rows] - centre
        for part, columns in _tiles(owners, parts):
            squares = _squares(x, support[columns] - centre)
            for left in range(parts + 1):
                if left != part + 1:
                    hits[rows, left] |= (squares <= reach[columns, left]).any(1)
    kept = np.column_stack([np.ones(len(queries), dtype=bool), query_owners[:, None] != np.arange(parts)])
    with np.errstate(invalid="ignore"):
        return (hits & kept).sum(0) / kept.sum(0)


def _radii(
    support: Float32[np.ndarray, "R F"],
    owners: Int64[np.ndarray, " R"],
    centre: Float32[np.ndarray, " F"],
    k: int,
    parts: int,
) -> Float32[np.ndarray, "R V"]:
    """Squared distances to the k-th neighbour: among all, then without each part."""
    reach = np.empty((len(support), parts + 1), dtype=np.float32)
    for rows in _runs(np.arange(len(support))):
        x = support[rows] - centre
        nearest = np.full((len(rows), parts, k), np.inf, dtype=np.float32)
        for part, columns in _tiles(owners, parts):
            squares = _squares(x, support[columns] - centre)
            squares[rows[:, None] == columns] = np.inf
            nearest[:, part] = _smallest(np.concatenate([nearest[:, part], squares], axis=1), k)
        reach[rows, 0] = _smallest(nearest.reshape(len(rows), -1), k).max(1)
        for left in range(parts):
            others = np.delete(nearest, left, axis=1).reshape(len(rows), -1)
            reach[rows, left + 1] = _smallest(others, k).max(1) if parts > 1 else np.nan
    return reach


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


def _tiles(owners: Int64[np.ndarray, " R"], parts: int) -> Iterator[tuple[int, Int64[np.ndarray, " T"]]]:
    """Places of at most a tile's items, each time of one part."""
    for part in range(parts):
        for places in _runs(np.flatnonzero(owners == part)):
            yield part, places


def _runs(places: Int64[np.ndarray, " N"]) -> Iterator[Int64[np.ndarray, " T"]]:
    """The places, a tile's length at a time."""
    for start in range(0, len(places), TILE):
        yield places[start : start + TILE]
