"""The context in which input specs gather features, distances and matches of items, each computed once.

`metrics._inputs.InputSpec.gather` receives a `Gatherer`. It caches features and distances on the disk, and the rest in
memory as long as the same samples are evaluated.
"""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Callable, Collection, Hashable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Float64, Int64

from inrflow_core.domains._contract import domain_class
from inrflow_core.errors import UsageError
from inrflow_core.evaluation import (
    distance_matrix,
    feature_cache,
    pairwise_distances,
    protein_matching,
    sample_matching,
    view_comparison,
)
from inrflow_core.evaluation.feature_cache import FeatureCache
from inrflow_core.evaluation.sample_matching import SampleMatch
from inrflow_core.feature_networks import _contract, _weights_file
from inrflow_core.geometry import point_clouds
from inrflow_core.metrics._cloud_inputs import Distances, DistanceSpec
from inrflow_core.metrics._inputs import FeatureSpec, GatherContext, InputSpec, MeasureOfPairs
from inrflow_core.metrics._protein_inputs import Structures
from inrflow_core.metrics._view_inputs import ViewScores
from inrflow_core.runtime.progress import Announce, Log, TrackProgress, no_announcement, no_progress
from inrflow_core.sample_files.collection import IS_CENTERED, SampleCollection
from inrflow_core.shards import manifest
from inrflow_core.storage import plain_file

STATISTICS = "statistics"
"""The folder beside shards that caches the features of their images."""
BLOCK = 64
"""Clouds read at once."""
T = TypeVar("T")


@dataclass(frozen=True)
class EvaluationSettings:
    """Settings of an evaluation: caches, weights, device, progress."""

    folder: Path
    """Caches features and distances."""
    weights: Mapping[str, Path] = field(default_factory=dict)
    """Weights files of feature networks by name."""
    weights_folder: Path | None = None
    """The folder of the other weights files; None: `INRFLOW_WEIGHTS`, else `weights`."""
    condition_images: SampleCollection | None = None
    """Images of the reference's clouds, matched by name or index; None for those in the reference."""
    points: int | None = None
    """Points of each cloud that are compared; None: the smaller number of samples and reference."""
    device: str = "cpu"
    workers: int = 1
    progress: TrackProgress = no_progress
    """Shows the progress of a piece of work, under a title and with a unit."""
    log: Log | None = None
    """Called with the estimated time of distances before they are computed."""
    announce: Announce = no_announcement


class Gatherer(GatherContext[SampleCollection]):
    """The context of all input specs of an evaluator."""

    def __init__(self, settings: EvaluationSettings) -> None:
        self.settings = settings
        self.alike: Collection[InputSpec] = ()
        self._cached: dict[Hashable, Any] = {}
        self._extractors: dict[str, Any] = {}
        self._digests: dict[Path, str] = {}
        self._verified: list[SampleCollection] = []
        self._reference_clouds: dict[tuple[str, str, int], np.ndarray] = {}

    @property
    def max_feature_rows(self) -> int:
        return feature_cache.MAX_STORED_ROWS

    def sharing(self, alike: Collection[InputSpec]) -> Gatherer:
        """This context, with the same caches, for specs of one key that are gathered together."""
        shared = copy.copy(self)
        shared.alike = alike
        return shared

    def forget_samples(self) -> None:
        """Drop the cached inputs of samples."""
        self._cached.clear()

    def cached(self, kind: type[T]) -> T | None:
        """The first of the cached inputs of a class, or None."""
        return next((inputs for inputs in self._cached.values() if isinstance(inputs, kind)), None)

    def gathered(self, key: Hashable) -> Any:
        """The cached inputs of a key, or None."""
        return self._cached.get(key)

    def once(self, key: Hashable, make: Callable[[], T]) -> T:
        if key not in self._cached:
            self._cached[key] = make()
        return self._cached[key]

    def verify(self, items: SampleCollection) -> None:
        if not any(items is known for known in self._verified):
            with self.settings.announce(f"comparing {items.display_name} with the recorded digests"):
                items.verify()
            self._verified.append(items)

    # Features.

    def weights_digest(self, network: str) -> str | None:
        path = self._weights(network)
        if path is None:
            return None
        if path not in self._digests:
            self._digests[path] = plain_file.file_digest(path)
        return self._digests[path]

    def extractor(self, network: str) -> Any:
        if network not in self._extractors:
            part = _contract.find_extractor(network)
            with self.settings.announce(f"loading the network `{network}`"):
                self._extractors[network] = part.load(self._weights(network), self.settings.device)
        return self._extractors[network]

    def features(self, items: SampleCollection, spec: FeatureSpec, outputs: tuple[str, ...]) -> FeatureCache:
        provenance = {
            "network": spec.network,
            "weights": self.weights_digest(spec.network) or "",
            "items": items.digest,
            "split": items.split or "",
            "shape": json.dumps(items.shape),
        }
        cache = replace(self.feature_cache(items, spec, outputs), provenance=provenance)
        if not cache.is_done():
            self.verify(items)
            title = f"{spec.network} features of {items.source.name}{f', {items.split}' if items.split else ''}"
            with self.settings.progress(title, domain_class(items.domain).NOUN) as progress:
                cache.run(self.extractor(spec.network), progress)
        return cache

    def feature_cache(self, items: SampleCollection, spec: FeatureSpec, outputs: tuple[str, ...]) -> FeatureCache:
        """The cache of items' features: beside shards, for every later evaluation, if their folder is writable."""
        weights = (self.weights_digest(spec.network) or "")[:12]
        name = "-".join(
            word for word in (spec.network, spec.preprocessing, weights, items.split, items.digest[:16]) if word
        )
        beside = FeatureCache(items, outputs, spec.preprocessing, items.source / STATISTICS / name)
        if (items.source / manifest.NAME).is_file() and (os.access(items.source, os.W_OK) or beside.is_done()):
            return beside
        return replace(beside, folder=self.settings.folder / "features" / name)

    def _weights(self, network: str) -> Path | None:
        if not _contract.find_extractor(network).needs_weights:
            return None
        return _weights_file.find(network, self.settings.weights, self.settings.weights_folder)

    # Point clouds.

    def clouds(
        self, samples: SampleCollection, reference: SampleCollection, normalization: str
    ) -> tuple[Float64[np.ndarray, "N P 3"], Float64[np.ndarray, "R P 3"]]:
        points = self.settings.points or min(samples.shape[0], reference.shape[0])
        self.verify(samples)
        self.verify(reference)
        key = (reference.digest, normalization, points)
        if key not in self._reference_clouds:
            self._reference_clouds[key] = normalized_clouds(reference, points, normalization, "references")
        return normalized_clouds(samples, points, normalization, "samples"), self._reference_clouds[key]

    def distances(self, samples: SampleCollection, reference: SampleCollection, spec: DistanceSpec) -> Distances:
        sides = self.clouds(samples, reference, spec.normalization)
        job = distance_matrix.PairwiseJob(
            self.settings.folder / "distances", self.settings.workers, self.settings.device
        )
        with self.settings.progress(f"distances by {spec.distance}", "pairs") as progress:
            return pairwise_distances.compute_distances(*sides, spec, job, progress=progress, log=self.settings.log)

    # Matches.

    def match(self, samples: SampleCollection, reference: SampleCollection) -> SampleMatch:
        self.verify(samples)
        self.verify(reference)
        return self.once(("match",), lambda: sample_matching.match_to_reference(samples, reference))

    def matched_clouds(
        self, samples: SampleCollection, reference: SampleCollection
    ) -> tuple[SampleCollection, Int64[np.ndarray, " N"]]:
        items, index = sample_matching.reference_clouds(self.match(samples, reference), reference)
        return _verified_with(reference, items), index

    def matched_images(
        self, samples: SampleCollection, reference: SampleCollection
    ) -> tuple[SampleCollection, Int64[np.ndarray, " N"]]:
        match = self.match(samples, reference)
        items, index = sample_matching.condition_images(match, reference, self.settings.condition_images)
        return _verified_with(reference, items), index

    def compare_views(
        self, samples: SampleCollection, reference: SampleCollection, measure: MeasureOfPairs
    ) -> ViewScores:
        self.verify(samples)
        self.verify(reference)
        with self.settings.progress("comparing views", "views") as progress:
            return view_comparison.compare_views(samples, reference, measure, progress)

    def proteins(self, samples: SampleCollection, reference: SampleCollection, alignment: str) -> Structures:
        return protein_matching.load_matched(samples, reference, alignment)


def _verified_with(reference: SampleCollection, items: SampleCollection) -> SampleCollection:
    """Items of a reference that is verified need no further check."""
    return items.as_verified() if items.source == reference.source else items


def normalized_clouds(
    items: SampleCollection, points: int, normalization: str, what: str
) -> Float64[np.ndarray, "N P 3"]:
    """All clouds of a collection, subsampled to `points` points, normalized for a protocol (`point_clouds.normalize`).

    Raises:
        UsageError: a cloud has fewer points, or the normalization needs unknown units.
        IntegrityError: a cloud is damaged.
    """
    clouds: list[np.ndarray] = []
    names: list[str] = []
    conditions: dict[str, list[np.ndarray]] = {}
    for start in range(0, items.count, BLOCK):
        indices = range(start, min(start + BLOCK, items.count))
        batch = items.read(indices)
        clouds += point_clouds.subsample(list(batch.values), points, indices, what=what)
        names += batch.names
        for name, rows in batch.condition.items():
            conditions.setdefault(name, []).append(rows)
    if normalization not in (point_clouds.BOX, point_clouds.SPHERE) and any(
        rows.any() for rows in conditions.get(IS_CENTERED, [])
    ):
        raise UsageError(
            f"the protocol `{normalization}` compares clouds where they are, and some {what} are so far from the origin that "
            "single precision would merge their points",
            hint=f"move them nearer to the origin, or use the protocol `{point_clouds.BOX}`",
        )
    units = point_clouds.SOURCE
    if items.normalization:
        units = point_clouds.units(
            items.normalization, {name: np.concatenate(rows) for name, rows in conditions.items()}
        )
    may_be_empty = domain_class(items.domain).CLOUD_DOMAIN is not None
    stacked = point_clouds.stack_checked(clouds, what=what, names=names, may_be_empty=may_be_empty)
    return point_clouds.normalize(stacked, normalization, units, what=what)
