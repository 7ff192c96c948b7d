"""Nearest training items of samples: does a model copy what it was trained on?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from inrflow_core.domains._contract import DomainClass, Memorization, domain_class
from inrflow_core.errors import UsageError
from inrflow_core.evaluation import nearest_neighbors
from inrflow_core.evaluation.report_entries import read_evenly_spaced
from inrflow_core.evaluation.results import EvaluatedSamples
from inrflow_core.geometry import point_clouds
from inrflow_core.report import content
from inrflow_core.runtime.progress import Progress
from inrflow_core.sample_files.collection import SampleCollection, evenly_spaced

WORK = 1e13
"""Most differences of numbers that pictures are compared by: of 256 x 256 colour pictures, 50,000 with 1,000."""
NEAREST = 4
MOST_BYTES = 2**26
"""Training items are read together up to the domain's `block`, and up to this number of bytes."""


@dataclass(frozen=True)
class MemorizationSet:
    """Where copies are looked for, and what the model never saw."""

    items: SampleCollection
    held_out: SampleCollection | None


def nearest_panel(
    subject: EvaluatedSamples, training: MemorizationSet, progress: Progress | None
) -> content.NearestNeighborsPanel | None:
    """Samples beside their nearest training items; None where these are of another size."""
    domain = domain_class(subject.items.domain)
    rule = domain.MEMORIZATION
    if rule is None or domain.GALLERY is None or training.items.domain != domain.NAME:
        return None
    if rule.distance == "rms" and training.items.shape != subject.items.shape:
        return None
    samples, _ = read_evenly_spaced(subject.items, rule.num_compared)
    count = len(samples)
    held_out = np.empty((0, *samples.shape[1:]), samples.dtype)
    if training.held_out is not None:
        held_out, _ = read_evenly_spaced(training.held_out, rule.num_compared)
    points = min(samples.shape[1], training.items.shape[0])
    samples, held_out = (_comparable(domain, values, points) for values in (samples, held_out))
    together = np.concatenate([samples, held_out]) if len(held_out) else samples
    total = training.items.count
    places = evenly_spaced(total, _num_searched(together, rule))
    found = _nearest(together, training.items, places, progress)
    most = domain.GALLERY.tiles
    order = np.argsort(found.distances[:count, 0], kind="stable")[:most]
    near = _comparable(domain, training.items.read(found.indices[order].ravel().tolist()).values, points)
    return content.NearestNeighborsPanel(
        samples[order],
        near.reshape(len(order), -1, *near.shape[1:]),
        found.distances[order],
        rule.unit,
        found.distances[:count, 0],
        found.distances[count:, 0] if len(held_out) else None,
        subject.name,
        f"{total:,}" if len(places) == total else f"{len(places):,} (evenly spread) of {total:,}",
    )


def _num_searched(together: np.ndarray, rule: Memorization) -> int:
    """Training items that samples are compared with."""
    return max(1, min(rule.num_training, int(WORK / together.size))) if rule.distance == "rms" else rule.num_training


def _nearest(
    samples: np.ndarray, items: SampleCollection, places: np.ndarray, progress: Progress | None
) -> nearest_neighbors.NearestNeighbors:
    domain = domain_class(items.domain)
    rule = domain.MEMORIZATION
    assert rule is not None
    each = int(np.prod(items.shape)) * samples.dtype.itemsize
    size = max(1, min(rule.block, MOST_BYTES // each))

    def batches() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for start in range(0, len(places), size):
            part = places[start : start + size]
            yield part, _comparable(domain, items.read(part.tolist()).values, samples.shape[1])
            if progress is not None:
                progress(start + len(part), len(places))

    find = nearest_neighbors.nearest_images if rule.distance == "rms" else nearest_neighbors.nearest_clouds
    return find(samples, batches(), NEAREST)


def _comparable(domain: DomainClass, values: np.ndarray, points: int) -> np.ndarray:
    """Thumbnails, or clouds of `points` points, each in its own box."""
    if domain.MEMORIZATION is not None and domain.MEMORIZATION.distance == "rms":
        return domain.thumbnails(values)
    return point_clouds.boxed(values, points) if len(values) else values[:, :points]


def memorization_set(reference: Any, given: SampleCollection | None) -> MemorizationSet | None:
    """The training items to look for copies in: those given, else the split `train` of a reference that is shards."""
    from inrflow_core.sample_files import readers

    if given is not None:
        return MemorizationSet(given, None if given.split is None else _held_out(given.source, given.split))
    if not isinstance(reference, SampleCollection) or reference.split is None:
        return None
    try:
        train = readers.open_collection(reference.source, "train")
    except UsageError:
        return None
    return MemorizationSet(train, _held_out(reference.source, "train"))


def _held_out(shards: Path, train: str) -> SampleCollection | None:
    """The last of the other splits of some shards that holds anything."""
    from inrflow_core.sample_files import readers

    others = [readers.open_collection(shards, name) for name in readers.split_names(shards) if name != train]
    return next((found for found in reversed(others) if found.count), None)
