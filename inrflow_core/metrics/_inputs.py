"""What metrics compare: the contract of input specs and inputs.

A metric describes its inputs with an `InputSpec`; `evaluation.evaluator` calls its `gather` and passes the
`MetricInputs` to the metric. A new kind of input is one file with one class of each; no other file changes. Here are
the contract and the most common kind, features of a network; the other kinds are in the files `_*_inputs.py`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Literal, Protocol, TypeVar, cast, runtime_checkable

import numpy as np
from jaxtyping import Float32, Float64, Int64, UInt8

from inrflow_core.errors import UsageError
from inrflow_core.numerics.gaussian_stats import GaussianStats
from inrflow_core.shards.batch import Batch

STATS_FORMAT = "inrflow-statistics-1"
"""The tag of a file that holds mean and covariance of a reference's features."""
Cost = tuple[str, float]
"""A piece of work in words, and its seconds."""
MatchedBy = Literal["", "name", "condition", "view", "reconstruction", "mesh"]
"""How each sample finds its own reference item: not at all, by name or order, by the condition that it was sampled from, by
the scene and the view that it shows, as the item that a model encoded, or, of a mesh, that there is none."""
OF_ENCODED: frozenset[MatchedBy] = frozenset(("view", "reconstruction"))
"""Of items of the reference that a model encodes by one call: no sample is drawn for them."""


@runtime_checkable
class Items(Protocol):
    """Images, point clouds or proteins that are read by number: `sample_files.collection.SampleCollection`."""

    @property
    def source(self) -> Path: ...

    @property
    def domain(self) -> str: ...

    @property
    def count(self) -> int: ...

    @property
    def digest(self) -> str:
        """sha256 that identifies the items."""
        ...

    @property
    def split(self) -> str | None: ...

    @property
    def display_name(self) -> str:
        """The source and its split, for messages."""
        ...

    @property
    def clusters(self) -> Int64[np.ndarray, " N"] | None:
        """A number for each item that dependent items share, such as views of one scene; None if all are independent."""
        ...

    @property
    def classes(self) -> Sequence[str]:
        """Names of the classes by number; empty where items have no classes, or these no names."""
        ...

    def item_names(self) -> list[str]:
        """Names of all items."""
        ...

    def labels(self) -> Int64[np.ndarray, " N"]:
        """The class of each item by number, -1 for none."""
        ...

    def read(self, indices: Sequence[int]) -> Batch:
        """The items at `indices`, in that order; raises IntegrityError if one is damaged."""
        ...


ItemsT = TypeVar("ItemsT", bound=Items)
T = TypeVar("T")


MeasureOfPairs = Callable[[UInt8[np.ndarray, "N H W C"], UInt8[np.ndarray, "N H W C"]], Float64[np.ndarray, " N"]]
"""A number for each pair of images."""


class FeatureRows(ABC):
    """Features of some items, cached on the disk (`evaluation.feature_cache.FeatureCache`)."""

    @property
    @abstractmethod
    def has_all_rows(self) -> bool:
        """Whether `select_rows` returns the features of every item, not of an evenly spaced part."""

    @abstractmethod
    def select_rows(self, output: str) -> Float32[np.ndarray, "N F"]:
        """Features of all items; of very many items, of an evenly spaced part."""

    @property
    @abstractmethod
    def clusters(self) -> Int64[np.ndarray, " N"] | None:
        """The clusters of the items that `select_rows` returns (`Items.clusters`)."""

    @abstractmethod
    def moments(self, output: str) -> GaussianStats:
        """Mean and covariance over all items."""


class GatherContext(ABC, Generic[ItemsT]):
    """Computes features, distances and matches of items for input specs, each once."""

    alike: Collection[Any]
    """The specs, with the present one, of all metrics under evaluation that have its `key()`."""

    @property
    @abstractmethod
    def max_feature_rows(self) -> int:
        """The largest number of items of which every feature row is available."""

    @abstractmethod
    def once(self, key: Hashable, make: Callable[[], T]) -> T:
        """`make()`, cached by the key as long as the same samples are evaluated."""

    @abstractmethod
    def verify(self, items: ItemsT) -> None:
        """Compare shards with their checksums, once; raises IntegrityError."""

    @abstractmethod
    def weights_digest(self, network: str) -> str | None:
        """sha256 of a feature network's weights, None if it has none; raises MissingError if they are absent."""

    @abstractmethod
    def extractor(self, network: str) -> Any:
        """The loaded feature network; raises MissingError where its weights are absent."""

    @abstractmethod
    def features(self, items: ItemsT, spec: FeatureSpec, outputs: tuple[str, ...]) -> FeatureRows:
        """Features of items, of several outputs in one pass."""

    @abstractmethod
    def clouds(
        self, samples: ItemsT, reference: ItemsT, normalization: str
    ) -> tuple[Float64[np.ndarray, "N P 3"], Float64[np.ndarray, "R P 3"]]:
        """Point clouds of both sides with equally many points, normalized (`point_clouds.normalize`)."""

    @abstractmethod
    def distances(self, samples: ItemsT, reference: ItemsT, spec: Any) -> Any:
        """The `Distances` that a `DistanceSpec` describes, between the clouds of both sides."""

    @abstractmethod
    def match(self, samples: ItemsT, reference: ItemsT) -> Any:
        """The reference item of each sample (`evaluation.sample_matching.SampleMatch`)."""

    @abstractmethod
    def matched_clouds(self, samples: ItemsT, reference: ItemsT) -> tuple[ItemsT, Int64[np.ndarray, " N"]]:
        """The reference clouds that have a sample, each once, and each sample's index among them."""

    @abstractmethod
    def matched_images(self, samples: ItemsT, reference: ItemsT) -> tuple[ItemsT, Int64[np.ndarray, " N"]]:
        """The images that samples were conditioned on, each once, and each sample's index among them."""

    @abstractmethod
    def compare_views(self, samples: ItemsT, reference: ItemsT, measure: MeasureOfPairs) -> Any:
        """A measure of each rendered view and its reference view, in blocks (`_view_inputs.ViewScores`)."""

    @abstractmethod
    def proteins(self, samples: ItemsT, reference: ItemsT, alignment: str) -> Any:
        """The `Structures` of both sides, matched by name, residues aligned."""


class CostTimer(ABC, Generic[ItemsT]):
    """Times the work on a few items, for the cost estimates of input specs."""

    alike: Collection[Any]
    """As in `GatherContext`."""

    @abstractmethod
    def features(self, spec: FeatureSpec, num_samples: int, *, is_slow: bool = False) -> Cost:
        """Features of the samples, and of the reference unless cached; with `is_slow` as few items as possible are timed."""

    @abstractmethod
    def distances(self, spec: Any, num_samples: int, num_points: int | None) -> Cost:
        """Distances between clouds, of a `DistanceSpec`."""

    @abstractmethod
    def views(self, measure: MeasureOfPairs, num_samples: int) -> Cost:
        """A measure of all views of some scenes and of their reference views."""


InputsT = TypeVar("InputsT", bound="MetricInputs")


class MetricInputs(ABC):
    """What a metric's `compute` receives: immutable, of samples and of a reference."""

    @abstractmethod
    def counts(self) -> tuple[int, int]:
        """Numbers of samples and reference items; 0 for an unused reference or one of unknown number."""

    def num_independent(self) -> int:
        """Items of the smaller side among those that `select_groups` reduces; by default of samples and reference."""
        return min(self.counts())

    @abstractmethod
    def select_groups(self, groups: Collection[int], num_groups: int) -> MetricInputs:
        """These inputs with the items of some of `num_groups` groups alone (`assign_groups`)."""

    def leave_out(self: InputsT, group: int, num_groups: int) -> InputsT:
        """These inputs without the items of one group."""
        others = [other for other in range(num_groups) if other != group]
        return cast("InputsT", self.select_groups(others, num_groups))


class InputSpec(ABC):
    """Describes what a metric compares, and gathers it; immutable and hashable (a frozen dataclass)."""

    needs_reference: bool = True
    """Whether the reference is used."""
    is_cacheable: bool = False
    """Whether `cache` can compute the reference's part without samples."""

    @property
    def features(self) -> tuple[FeatureSpec, ...]:
        """The features among the inputs; their networks need weights."""
        return ()

    @property
    def matched_by(self) -> MatchedBy:
        """How each sample finds its own reference item."""
        return ""

    @property
    def samples_per_item(self) -> int | None:
        """The samples of each item of the reference that are compared with each other; None if they are not."""
        return None

    @property
    def needs_class(self) -> bool:
        """Whether the class that each sample was requested to have is compared: of its label, or of the item of its condition."""
        return False

    @abstractmethod
    def key(self) -> Hashable:
        """Equal for specs that are gathered together."""

    @abstractmethod
    def gather(
        self, samples: ItemsT, reference: ItemsT | ReferenceStats, context: GatherContext[ItemsT]
    ) -> MetricInputs:
        """The inputs.

        Raises:
            UsageError: the items lack what is compared.
            MissingError: the weights of a network are absent.
            IntegrityError: an item or the weights are damaged.
        """

    def check(self, reference: Items | ReferenceStats, metric: str, context: GatherContext[Any]) -> None:
        """Raise UsageError unless `reference` has what is compared; `metric` is its name for the message."""
        if self.needs_reference and isinstance(reference, ReferenceStats):
            raise UsageError(
                f"`{reference.source}` holds statistics, and `{metric}` compares single items",
                hint="give the images themselves",
            )

    def cache(self, reference: ItemsT | ReferenceStats, context: GatherContext[ItemsT]) -> None:
        """Compute and cache the reference's part, if `is_cacheable`."""
        assert not self.is_cacheable, "a cacheable spec overrides this"

    def estimate(self, num_samples: int, num_points: int | None, timer: CostTimer[Any]) -> list[Cost]:
        """The pieces of work of `gather`, with their seconds; each sample has `num_points`, None: as many as the reference."""
        return [timer.features(spec, num_samples) for spec in self.features]


def by_name(names: Sequence[str], values: Float64[np.ndarray, " N"]) -> dict[str, float]:
    """Values by the names of their items; by their numbers from 0 on where two items have the same name."""
    keys = names if len(set(names)) == len(values) else [str(number) for number in range(len(values))]
    return dict(zip(keys, values.tolist(), strict=True))


def items_of(reference: ItemsT | ReferenceStats) -> ItemsT:
    """The items of a reference; raises UsageError for statistics."""
    if isinstance(reference, ReferenceStats):
        raise UsageError(
            f"`{reference.source}` holds statistics, and this metric compares single items",
            hint="give the images themselves",
        )
    return reference


@dataclass(frozen=True)
class FeatureSpec(InputSpec):
    """Features of images or point clouds."""

    network: str
    """The file in `feature_networks/`."""
    output: str
    """One of its `OUTPUTS`."""
    preprocessing: str
    """One of its `PREPROCESSING`: how an image is resized and quantized for it."""
    accepts_stats: bool = False
    """Whether mean and covariance of the reference are enough."""
    needs_reference: bool = True
    """Whether the reference's features are compared."""
    is_cacheable: bool = field(default=True, init=False)

    @property
    def protocol(self) -> str:
        """Network and preprocessing: `inception:adm`."""
        return f"{self.network}:{self.preprocessing}"

    @property
    def features(self) -> tuple[FeatureSpec, ...]:
        return (self,)

    def key(self) -> Hashable:
        return "features", self.network, self.preprocessing

    def check(self, reference: Items | ReferenceStats, metric: str, context: GatherContext[Any]) -> None:
        if self.needs_reference and isinstance(reference, ReferenceStats):
            reference.stats_for(self, context.weights_digest(self.network))

    def gather(self, samples: ItemsT, reference: ItemsT | ReferenceStats, context: GatherContext[ItemsT]) -> Features:
        outputs = outputs_of(context.alike)
        own = context.once(("samples", self.key(), outputs), lambda: context.features(samples, self, outputs))
        rows, clusters = own.select_rows(self.output), own.clusters
        if not self.needs_reference:
            return Features(rows, rows[:0], clusters)
        if isinstance(reference, ReferenceStats):
            return Features(rows, reference.stats_for(self, context.weights_digest(self.network)), clusters)
        compared = outputs_of(spec for spec in context.alike if spec.needs_reference)
        cached = context.once(("reference", self.key(), compared), lambda: context.features(reference, self, compared))
        if self.accepts_stats and not cached.has_all_rows:
            return Features(rows, cached.moments(self.output), clusters)
        return Features(rows, cached.select_rows(self.output), clusters, cached.clusters)

    def cache(self, reference: ItemsT | ReferenceStats, context: GatherContext[ItemsT]) -> None:
        cached = context.features(items_of(reference), self, outputs_of(context.alike))
        if self.accepts_stats:
            cached.moments(self.output)


def outputs_of(specs: Iterable[Any]) -> tuple[str, ...]:
    """The outputs of a network that specs of one key need, sorted."""
    return tuple(sorted({spec.output for spec in specs}))


@dataclass(frozen=True)
class Features(MetricInputs):
    """Features of the samples, and the reference's features or their mean and covariance."""

    samples: Float32[np.ndarray, "N F"]
    reference: Float32[np.ndarray, "R F"] | GaussianStats
    sample_clusters: Int64[np.ndarray, " N"] | None = None
    """As `Items.clusters`: groups are made of whole clusters."""
    reference_clusters: Int64[np.ndarray, " R"] | None = None

    def counts(self) -> tuple[int, int]:
        return len(self.samples), count_of(self.reference)

    def num_independent(self) -> int:
        samples = _num_clusters(len(self.samples), self.sample_clusters)
        if isinstance(self.reference, GaussianStats) or not len(self.reference):
            return samples
        return min(samples, _num_clusters(len(self.reference), self.reference_clusters))

    def select_groups(self, groups: Collection[int], num_groups: int) -> Features:
        """Some groups of both sides; statistics do not change."""
        rows = rows_in_groups(len(self.samples), groups, num_groups, self.sample_clusters)
        selected = self.samples[rows], _at(self.sample_clusters, rows)
        if isinstance(self.reference, GaussianStats):
            return Features(selected[0], self.reference, selected[1])
        columns = rows_in_groups(len(self.reference), groups, num_groups, self.reference_clusters)
        return Features(selected[0], self.reference[columns], selected[1], _at(self.reference_clusters, columns))


def _num_clusters(count: int, clusters: Int64[np.ndarray, " N"] | None) -> int:
    return count if clusters is None else len(np.unique(clusters))


def _at(clusters: Int64[np.ndarray, " N"] | None, rows: Int64[np.ndarray, " K"]) -> Int64[np.ndarray, " K"] | None:
    return None if clusters is None else clusters[rows]


def count_of(side: Float32[np.ndarray, "N F"] | GaussianStats) -> int:
    """Number of items; 0 for statistics that do not record it."""
    return side.count if isinstance(side, GaussianStats) else len(side)


@dataclass(frozen=True)
class ReferenceStats:
    """Mean and covariance of a reference's features, without the items."""

    source: Path
    network: str
    preprocessing: str
    moments: Mapping[str, GaussianStats]
    """By output."""
    digest: str
    weights: str | None = None
    """sha256 of the network's weights, if recorded."""
    shape: tuple[int, ...] | None = None
    """Shape of one item (of images height, width and channels), if recorded."""

    def stats_for(self, spec: FeatureSpec, weights: str | None) -> GaussianStats:
        """Mean and covariance of the features of `spec`, whose network has weights of that digest.

        Raises:
            UsageError: the network, preprocessing, output or weights differ, or `spec` needs single items.
        """
        protocol = f"{self.network}:{self.preprocessing}"
        if spec.protocol != protocol or spec.output not in self.moments:
            raise UsageError(
                f"`{self.source}` holds {' and '.join(self.moments)} statistics of the protocol `{protocol}`, "
                f"and `{spec.protocol}` needs `{spec.output}`",
                hint="choose a metric of the file's protocol, or give the images themselves",
            )
        if not spec.accepts_stats:
            raise UsageError(
                f"`{self.source}` holds mean and covariance alone, and this metric compares single items",
                hint="give the images themselves",
            )
        if self.weights and self.weights != weights:
            raise UsageError(
                f"`{self.source}` was made with other weights of `{spec.network}`: their digest is "
                f"{self.weights[:8]}..., that of the present ones {(weights or 'none')[:8]}...",
                hint="give those weights, or the images themselves",
            )
        return self.moments[spec.output]


def assign_groups(
    count: int, num_groups: int, clusters: Int64[np.ndarray, " N"] | None = None
) -> Int64[np.ndarray, " N"]:
    """The group, from 0 on, of each of `count` items: groups of equal size to within one, the same at every call.

    With clusters, items of one cluster are in one group. Assigned at random and not cyclically: in data sorted by class every
    tenth sample may be of one class.
    """
    if clusters is not None:
        found, index = np.unique(clusters, return_inverse=True)
        return assign_groups(len(found), num_groups)[index.reshape(-1)]
    return np.random.default_rng((count, num_groups)).permutation(count) % num_groups


def rows_in_groups(
    count: int, groups: Collection[int], num_groups: int, clusters: Int64[np.ndarray, " N"] | None = None
) -> Int64[np.ndarray, " K"]:
    """Indices of the items that are in some of the groups of `assign_groups`."""
    return np.flatnonzero(np.isin(assign_groups(count, num_groups, clusters), list(groups)))


def all_of(items: Sequence[Any], indices: Int64[np.ndarray, " K"]) -> list[Any]:
    """The items at some indices, as a list."""
    return [items[index] for index in indices]
