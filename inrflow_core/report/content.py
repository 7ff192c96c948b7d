"""What a report tells: scores of entries, samples beside the reference, neighbours, histograms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, UInt8


@dataclass(frozen=True)
class Score:
    """What a metric says of an entry."""

    name: str
    """The metric's name in the papers: "FID"."""
    protocol: str
    """How it was taken; only scores of one name, protocol and count are compared."""
    value: float
    """In `unit`; not finite where it could not be taken."""
    unit: str
    is_higher_better: bool
    interval: tuple[float, float] | None = None
    """From where to where the value may well lie; `Page.interval` says by what."""
    count: int = 0
    """Samples that it was taken from."""
    note: str | None = None
    """What a reader must know of this one: a footnote."""


@dataclass(frozen=True)
class Progress:
    """How far training had come."""

    run: str
    """Entries of one run are one line of a plot."""
    step: int
    samples_seen: int
    flops: float


@dataclass(frozen=True)
class Entry:
    """One evaluated thing: a checkpoint of a run, or a folder of samples."""

    name: str
    facts: Mapping[str, str]
    """Preset, step, NFE, parameters, seeds, digests and so on, in the order to be shown."""
    scores: Sequence[Score]
    progress: Progress | None = None


@dataclass(frozen=True)
class Gallery:
    """Samples beside the reference: pictures (8 bits) or clouds."""

    title: str
    samples: UInt8[np.ndarray, "N _ _ _"] | Float[np.ndarray, "N _ _"]
    reference: UInt8[np.ndarray, "R _ _ _"] | Float[np.ndarray, "R _ _"] | None = None
    sample_names: Sequence[str] = ()
    reference_names: Sequence[str] = ()


@dataclass(frozen=True)
class ImageConditionedGallery:
    """Clouds that were drawn from pictures, beside these and the objects that the pictures show."""

    title: str
    pictures: UInt8[np.ndarray, "N _ _ 3"]
    samples: Float[np.ndarray, "N _ _"]
    reference: Float[np.ndarray, "N _ _"]
    names: Sequence[str]
    """Of the objects."""
    count: int
    """Of all samples."""


@dataclass(frozen=True)
class NearestNeighborsPanel:
    """The nearest training items of samples, and the distances from which memorisation is told."""

    samples: UInt8[np.ndarray, "N _ _ _"] | Float[np.ndarray, "N _ _"]
    nearest: UInt8[np.ndarray, "N K _ _ _"] | Float[np.ndarray, "N K _ _"]
    """Of each of `samples` its nearest training items, the nearest first."""
    distances: Float[np.ndarray, "N K"]
    measure: str
    """What the distances are, with their unit: "rms difference in grey levels"."""
    sample_distances: Float[np.ndarray, " S"]
    """From every sample, shown or not, to its nearest training item."""
    held_out_distances: Float[np.ndarray, " H"] | None = None
    """The same of real items that the model never saw."""
    name: str = ""
    """Whose samples these are."""
    searched: str = ""
    """How many training items were looked at: "60,000", "200,000 of 1,281,167"."""


@dataclass(frozen=True)
class Histogram:
    """How numbers are distributed, of the samples and of the reference."""

    title: str
    unit: str
    values: Mapping[str, Float[np.ndarray, " _"]]
    """By name, in the order to be shown: "samples", "reference"."""


@dataclass(frozen=True)
class ProteinRow:
    """One protein: what its samples score."""

    name: str
    residues: int
    samples: int
    values: Sequence[float]
    """Of each column."""
    sample: Float[np.ndarray, "N 3"] | None = None
    """C-alphas of a sample, laid on the reference; NaN in gaps."""
    reference: Float[np.ndarray, "R 3"] | None = None
    """Those of the reference."""


@dataclass(frozen=True)
class ProteinTable:
    """Some proteins of one set of samples, the worst first."""

    title: str
    columns: Sequence[str]
    rows: Sequence[ProteinRow]
    count: int
    """Of all proteins."""


@dataclass(frozen=True)
class Page:
    """Everything that a report shows."""

    title: str
    entries: Sequence[Entry]
    reference: Mapping[str, str] = field(default_factory=dict)
    """What the samples were compared with: data set, split, count, digest."""
    interval: str = ""
    """What intervals are: "95 %, from 20 repeated subsets"."""
    galleries: Sequence[Gallery] = ()
    neighbours: NearestNeighborsPanel | None = None
    histograms: Sequence[Histogram] = ()
    folds: Sequence[ProteinTable] = ()
    photos: Sequence[ImageConditionedGallery] = ()
