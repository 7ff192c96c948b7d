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
from jaxtyping import Bool, Float32, Float64, Int64

from inrflow_core.metrics._feature_checks import both_sides
from inrflow_core.metrics._inputs import Features, FeatureSpec, assign_groups

PROTOCOLS = ("inception:adm", "vgg16:stylegan", "random")
OUTPUTS = {"inception": "pool", "vgg16": "fc2", "random": "all"}
K = 3
"""The neighbor that sets the radius, in all the papers."""
MIN_ITEMS = K + 1
Clusters = Int64[np.ndarray, " N"] | None
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
        return float(self.subset_values(inputs, protocol, np.ones((1, 1), dtype=bool))[0])

    def subset_values(
        self, inputs: Features, protocol: str, subsets: Bool[np.ndarray, "V G"]
    ) -> Float64[np.ndarray, " V"]:
        """The share of each subset of groups, all at less than the cost of one value for each."""
        samples, reference = both_sides(inputs, self.title, MIN_ITEMS)
        clusters = inputs.sample_clusters, inputs.reference_clusters
        if self.is_of_samples:
            return fraction_inside_manifold(samples, reference, k=K, subsets=subsets, clusters=clusters)
        return fraction_inside_manifold(reference, samples, k=K, subsets=subsets, clusters=(clusters[1], clusters[0]))


def fraction_inside_manifold(
    queries: Float32[np.ndarray, "N F"],
    support: Float32[np.ndarray, "R F"],
    *,
    k: int,
    subsets: Bool[np.ndarray, "V G"],
    clusters: tuple[Clusters, Clusters] = (None, None),
) -> Float64[np.ndarray, " V"]:
    """The share of queries inside any ball of the support, in each subset of the groups of both sides, made of whole clusters.

    Distances are computed once for all subsets, and compared with a radius for each subset that has both groups.
    """
    center = support.mean(0, dtype=np.float64).astype(np.float32)
    query_groups, groups = (
        assign_groups(len(side), subsets.shape[1], of) for side, of in zip((queries, support), clusters, strict=True)
    )
    radii = _radii(support, groups, center, k, subsets)
    hits = np.zeros((len(queries), len(subsets)), dtype=bool)
    for query_group, rows in _tiles(query_groups, subsets.shape[1]):
        x = queries[rows] - center
        for group, columns in _tiles(groups, subsets.shape[1]):
            shared = np.flatnonzero(subsets[:, query_group] & subsets[:, group])
            squares = _squares(x, support[columns] - center) if len(shared) else np.empty(0)
            for subset in shared:
                hits[rows, subset] |= (squares <= radii[columns, subset]).any(1)
    counted = subsets[:, query_groups].T
    return (hits & counted).sum(0) / counted.sum(0)


def _radii(
    support: Float32[np.ndarray, "R F"],
    groups: Int64[np.ndarray, " R"],
    center: Float32[np.ndarray, " F"],
    k: int,
    subsets: Bool[np.ndarray, "V G"],
) -> Float32[np.ndarray, "R V"]:
    """Squared distances to the k-th neighbor in each subset."""
    radii = np.empty((len(support), len(subsets)), dtype=np.float32)
    for rows in _runs(np.arange(len(support))):
        x = support[rows] - center
        nearest = np.full((len(rows), subsets.shape[1], k), np.inf, dtype=np.float32)
        for group, columns in _tiles(groups, subsets.shape[1]):
            squares = _squares(x, support[columns] - center)
            squares[rows[:, None] == columns] = np.inf
            nearest[:, group] = _smallest(np.concatenate([nearest[:, group], squares], axis=1), k)
        for index, subset in enumerate(subsets):
            radii[rows, index] = _smallest(nearest[:, subset].reshape(len(rows), -1), k).max(1)
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
