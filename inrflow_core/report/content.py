"""The content of a report: scores of entries, samples beside the reference, neighbors, histograms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, UInt8

RATE = "samples/s"
"""The heading of the samples per second."""


@dataclass(frozen=True)
class Score:
    """The value of a metric for an entry."""

    name: str
    """The metric's name in the papers: "FID"."""
    protocol: str
    """How it was computed; only scores of one name, protocol and count are compared."""
    value: float
    """In `unit`; not finite if it could not be computed."""
    unit: str
    is_higher_better: bool
    interval: tuple[float, float] | None = None
    """The ends of the interval that `Page.interval` describes."""
    count: int = 0
    """Number of samples."""
    note: str | None = None
    """A remark on the value: a footnote."""


@dataclass(frozen=True)
class Progress:
    """The state of training at a checkpoint."""

    run: str
    """Entries of one run are one line of a plot."""
    step: int
    samples_seen: int
    flops: float


@dataclass(frozen=True)
class Entry:
    """One set of samples: of a checkpoint of a run, or of a file or folder."""

    name: str
    facts: Mapping[str, str]
    """Preset, step, NFE, parameters, seeds, digests and so on, in the order to be shown."""
    scores: Sequence[Score]
    progress: Progress | None = None
    speed: Mapping[str, str] = field(default_factory=dict)
    """What sampling took, by the heading of a column: network evaluations per sample, samples per second."""


@dataclass(frozen=True)
class Gallery:
    """Samples beside the reference: images (8 bits) or clouds."""

    title: str
    samples: UInt8[np.ndarray, "N _ _ _"] | Float[np.ndarray, "N _ _"]
    reference: UInt8[np.ndarray, "R _ _ _"] | Float[np.ndarray, "R _ _"] | None = None
    sample_names: Sequence[str] = ()
    reference_names: Sequence[str] = ()


@dataclass(frozen=True)
class ImageConditionedGallery:
    """Clouds sampled from images, beside the images and the objects that these show."""

    title: str
    images: UInt8[np.ndarray, "N _ _ 3"]
    samples: Float[np.ndarray, "N _ _"]
    reference: Float[np.ndarray, "N _ _"]
    names: Sequence[str]
    """Of the objects."""
    count: int
    """Of all samples."""


@dataclass(frozen=True)
class NearestNeighborsPanel:
    """The nearest training items of samples, and the distances that show memorization."""

    samples: UInt8[np.ndarray, "N _ _ _"] | Float[np.ndarray, "N _ _"]
    nearest: UInt8[np.ndarray, "N K _ _ _"] | Float[np.ndarray, "N K _ _"]
    """The nearest training items of each sample, the nearest first."""
    distances: Float[np.ndarray, "N K"]
    measure: str
    """The distance with its unit: "rms difference in gray levels"."""
    sample_distances: Float[np.ndarray, " S"]
    """From every sample, shown or not, to its nearest training item."""
    held_out_distances: Float[np.ndarray, " H"] | None = None
    """Those of held-out items."""
    name: str = ""
    """Name of the set of samples."""
    searched: str = ""
    """Number of training items that were searched: "60,000", "200,000 of 1,281,167"."""


@dataclass(frozen=True)
class Histogram:
    """Distributions of a number, of the samples and of the reference."""

    title: str
    unit: str
    values: Mapping[str, Float[np.ndarray, " _"]]
    """By name, in the order of the page: "samples", "reference"."""


@dataclass(frozen=True)
class ProteinRow:
    """One protein: mean values of its samples."""

    name: str
    residues: int
    samples: int
    values: Sequence[float]
    """Of each column."""
    sample: Float[np.ndarray, "N 3"] | None = None
    """C-alphas of a sample, superposed on the reference; NaN in gaps."""
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
    """The reference: data set, split, count, digest."""
    interval: str = ""
    """How intervals are computed: "95 %, from 20 repeated subsets"."""
    galleries: Sequence[Gallery] = ()
    neighbors: NearestNeighborsPanel | None = None
    histograms: Sequence[Histogram] = ()
    protein_tables: Sequence[ProteinTable] = ()
    photos: Sequence[ImageConditionedGallery] = ()
