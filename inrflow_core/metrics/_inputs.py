"""What metrics judge by: features, distances, clouds, pairs of pictures or proteins, of some samples and of the reference.

A metric says what it needs (`FeatureNeed`, `DistanceNeed`, `CloudNeed`, `PairNeed`, `MatchNeed`, `StructureNeed`);
`evaluate` gathers that once for all metrics and hands it over. Every kind can leave out a part of itself, from which
confidence intervals follow.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, Float32, Float64, Int64, UInt8

from inrflow_core.numerics.gaussian_stats import GaussianStats
from inrflow_core.proteins.structure import Structure


@dataclass(frozen=True)
class FeatureSpec:
    """What a network of `features/` makes of pictures (or clouds)."""

    network: str
    """The file in `features/`."""
    output: str
    """One of its `OUTPUTS`."""
    form: str
    """One of its `FORMS`: how a picture is resized and quantised for it."""
    moments_suffice: bool = False
    """Whether mean and covariance of the reference are enough."""


@dataclass(frozen=True)
class DistanceSpec:
    """Distances between clouds."""

    distance: str
    """The file in `distances/`."""
    normalisation: str
    """How clouds are moved and scaled before: `inrflow`, `lion-global` or `pointflow` (`point_clouds.normalise`)."""
    is_within: bool = False
    """Also among the samples and among the reference, not only across."""
    is_paired: bool = False
    """Also which reference is each sample's own (`sample_matching.match_to_reference`)."""


@dataclass(frozen=True)
class CloudSpec:
    """The clouds themselves."""

    normalisation: str
    """As in `DistanceNeed`."""


@dataclass(frozen=True)
class ImagePairSpec:
    """Pictures whose reference is the one of the same place or name."""


@dataclass(frozen=True)
class StructureSpec:
    """Structures of proteins and what they should be."""

    pairing: str = "auto"
    """How residues are paired, one of `residue_alignment.ALIGNMENT_MODES`."""


@dataclass(frozen=True)
class MatchedFeatureSpec:
    """Features of clouds and those of the pictures that each was drawn from."""

    clouds: FeatureSpec
    pictures: FeatureSpec


InputSpec = FeatureSpec | DistanceSpec | CloudSpec | ImagePairSpec | MatchedFeatureSpec | StructureSpec


def features_of(need: InputSpec) -> tuple[FeatureSpec, ...]:
    """The features that a need consists of."""
    if isinstance(need, FeatureSpec):
        return (need,)
    return (need.clouds, need.pictures) if isinstance(need, MatchedFeatureSpec) else ()


@dataclass(frozen=True)
class Features:
    """Features of the samples, and of the reference or their moments alone."""

    samples: Float32[np.ndarray, "N F"]
    reference: Float32[np.ndarray, "R F"] | GaussianStats

    def without(self, part: int, parts: int) -> Features:
        """The same less one part of `part_of` of both sides; moments stay as they are."""
        reference = self.reference
        if not isinstance(reference, GaussianStats):
            reference = reference[_kept(len(reference), part, parts)]
        return Features(self.samples[_kept(len(self.samples), part, parts)], reference)


@dataclass(frozen=True)
class Distances:
    """Distances across samples and reference, and among each where a metric needs them; the diagonals are 0."""

    across: Float64[np.ndarray, "N R"]
    among_samples: Float64[np.ndarray, "N N"] | None = None
    among_reference: Float64[np.ndarray, "R R"] | None = None
    own: Int64[np.ndarray, " N"] | None = None
    """The reference that each sample should be, where the need asks for it."""

    def without(self, part: int, parts: int) -> Distances:
        """The same less one part of `part_of` of both sides; where each sample has its own reference, of the samples."""
        if self.own is not None:
            kept = _kept(len(self.across), part, parts)
            return Distances(self.across[kept], own=self.own[kept])
        rows, columns = (_kept(count, part, parts) for count in self.across.shape)
        return Distances(
            self.across[np.ix_(rows, columns)],
            None if self.among_samples is None else self.among_samples[np.ix_(rows, rows)],
            None if self.among_reference is None else self.among_reference[np.ix_(columns, columns)],
        )


@dataclass(frozen=True)
class Clouds:
    """Clouds of equal size."""

    samples: Float[np.ndarray, "N P 3"]
    reference: Float[np.ndarray, "R P 3"]

    def without(self, part: int, parts: int) -> Clouds:
        """The same less one part of `part_of` of both sides."""
        return Clouds(*(clouds[_kept(len(clouds), part, parts)] for clouds in (self.samples, self.reference)))


@dataclass(frozen=True)
class Pairs:
    """Pictures and what they should be, one by one."""

    samples: UInt8[np.ndarray, "N H W C"]
    reference: UInt8[np.ndarray, "N H W C"]

    def without(self, part: int, parts: int) -> Pairs:
        """The same less the pairs of one part of `part_of`."""
        return Pairs(*(images[_kept(len(images), part, parts)] for images in (self.samples, self.reference)))


@dataclass(frozen=True)
class Protein:
    """One reference and the samples of it."""

    name: str
    reference: Structure
    samples: Sequence[Structure]
    pairs: Sequence[Int64[np.ndarray, "K 2"]]
    """Of each sample: places of the residues that stand for each other, in it and in the reference."""


@dataclass(frozen=True)
class Structures:
    """Proteins, and the metrics' values of each, that are taken once."""

    proteins: Sequence[Protein]
    note: str = ""
    """What was left out, and how residues were paired."""
    kept: dict[str, Sequence[Float64[np.ndarray, " _"]]] = field(default_factory=dict)

    def each(
        self, name: str, measure: Callable[[Protein], Float64[np.ndarray, " _"]]
    ) -> Sequence[Float64[np.ndarray, " _"]]:
        """`measure` of every protein, kept by a name."""
        if name not in self.kept:
            self.kept[name] = [measure(protein) for protein in self.proteins]
        return self.kept[name]

    def without(self, part: int, parts: int) -> Structures:
        """The same less the proteins of one part of `part_of`."""
        left = _kept(len(self.proteins), part, parts)

        def some(each: Sequence) -> list:
            return [each[place] for place in left]

        return Structures(some(self.proteins), self.note, {name: some(values) for name, values in self.kept.items()})


@dataclass(frozen=True)
class Matches:
    """Features of samples, of the clouds that they should be, and of the pictures that both belong to, one by one."""

    samples: Float32[np.ndarray, "N F"]
    reference: Float32[np.ndarray, "N F"]
    pictures: Float32[np.ndarray, "N F"]

    def without(self, part: int, parts: int) -> Matches:
        """The same less one part of `part_of`."""
        kept = _kept(len(self.samples), part, parts)
        return Matches(*(rows[kept] for rows in (self.samples, self.reference, self.pictures)))


MetricInputs = Features | Distances | Clouds | Pairs | Matches | Structures


def jackknife_groups(count: int, parts: int) -> Int64[np.ndarray, " N"]:
    """The part, from 0 on, of each of `count` items: equally many to within one, and the same at every call.

    Drawn and not counted off: where classes come in turn, every tenth sample may be one class, and its loss no mere
    chance.
    """
    return np.random.default_rng((count, parts)).permutation(count) % parts


def _kept(count: int, part: int, parts: int) -> Int64[np.ndarray, " K"]:
    """Places of all items that are not of this part."""
    return np.flatnonzero(jackknife_groups(count, parts) != part)
