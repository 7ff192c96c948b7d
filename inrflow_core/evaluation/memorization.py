"""Find the nearest training items of samples, to detect memorized training data."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from inrflow_core.domains._contract import DomainClass, Memorization, domain_class
from inrflow_core.errors import UsageError
from inrflow_core.evaluation import nearest_neighbors
from inrflow_core.evaluation.report_entries import read_evenly_spaced
from inrflow_core.evaluation.results import EvaluatedSamples
from inrflow_core.geometry import point_clouds
from inrflow_core.metrics._inputs import Cost, ReferenceStats
from inrflow_core.report import content
from inrflow_core.runtime.progress import Progress
from inrflow_core.sample_files.collection import SampleCollection
from inrflow_core.sample_files.subsets import evenly_spaced

WORK = 1e13
"""Most multiplications of a search: 50,000 training images of 256 x 256 x 3 against 1,000 samples."""
NEAREST = 4
TIMED = 16
"""Training items whose distances to all samples are timed for an estimate."""
MOST_BYTES = 2**26
"""Bytes of training items that are read together; the domain's `block` limits their number."""


@dataclass(frozen=True)
class MemorizationSet:
    """Training items, among which copies are searched, and held-out items of the same data."""

    items: SampleCollection
    held_out: SampleCollection | None


def nearest_panel(
    sample_set: EvaluatedSamples, training: MemorizationSet, progress: Progress | None
) -> content.NearestNeighborsPanel | None:
    """Samples with their nearest training items; None if these have another shape or domain."""
    domain = domain_class(sample_set.items.domain)
    rule = domain.MEMORIZATION
    if rule is None or domain.GALLERY is None or training.items.domain != domain.NAME:
        return None
    if rule.distance == "rms" and training.items.shape != sample_set.items.shape:
        return None
    samples, _ = read_evenly_spaced(sample_set.items, rule.num_compared)
    count = len(samples)
    held_out = np.empty((0, *samples.shape[1:]), samples.dtype)
    if training.held_out is not None:
        held_out, _ = read_evenly_spaced(training.held_out, rule.num_compared)
    points = min(samples.shape[1], training.items.shape[0])
    samples, held_out = (_comparable(domain, values, points) for values in (samples, held_out))
    compared = np.concatenate([samples, held_out]) if len(held_out) else samples
    total = training.items.count
    indices = evenly_spaced(total, _num_searched(compared, rule))
    nearest = _nearest(compared, training.items, indices, progress)
    num_shown = domain.GALLERY.tiles
    order = np.argsort(nearest.distances[:count, 0], kind="stable")[:num_shown]
    near = _comparable(domain, training.items.read(nearest.indices[order].ravel().tolist()).values, points)
    return content.NearestNeighborsPanel(
        samples[order],
        near.reshape(len(order), -1, *near.shape[1:]),
        nearest.distances[order],
        rule.unit,
        nearest.distances[:count, 0],
        nearest.distances[count:, 0] if len(held_out) else None,
        sample_set.name,
        f"{total:,}" if len(indices) == total else f"{len(indices):,} evenly spaced ones of {total:,}",
    )


def estimate_cost(num_samples: int, shape: tuple[int, ...], training: MemorizationSet) -> list[Cost]:
    """The work of `nearest_panel` for samples of a shape, with its seconds, measured on a few training items; empty if there is none."""
    domain = domain_class(training.items.domain)
    rule = domain.MEMORIZATION
    if rule is None or (rule.distance == "rms" and training.items.shape != shape):
        return []
    held_out = 0 if training.held_out is None else min(training.held_out.count, rule.num_compared)
    points = min(shape[0], training.items.shape[0])
    few = _comparable(domain, read_evenly_spaced(training.items, TIMED)[0], points)
    compared = np.resize(few, (min(num_samples, rule.num_compared) + held_out, *few.shape[1:]))
    indices = evenly_spaced(training.items.count, _num_searched(compared, rule))
    start = time.perf_counter()
    _nearest(compared, training.items, indices[:TIMED], None)
    seconds = (time.perf_counter() - start) / len(indices[:TIMED]) * len(indices)
    return [(f"search for copies among {len(indices):,} training {domain.NOUN}", seconds)]


def _num_searched(compared: np.ndarray, rule: Memorization) -> int:
    """The number of training items that samples are compared with."""
    return max(1, min(rule.num_training, int(WORK / compared.size))) if rule.distance == "rms" else rule.num_training


def _nearest(
    samples: np.ndarray, items: SampleCollection, indices: np.ndarray, progress: Progress | None
) -> nearest_neighbors.NearestNeighbors:
    domain = domain_class(items.domain)
    rule = domain.MEMORIZATION
    assert rule is not None
    each = int(np.prod(items.shape)) * samples.dtype.itemsize
    size = max(1, min(rule.block, MOST_BYTES // each))

    def batches() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for start in range(0, len(indices), size):
            part = indices[start : start + size]
            yield part, _comparable(domain, items.read(part.tolist()).values, samples.shape[1])
            if progress is not None:
                progress(start + len(part), len(indices))

    find = nearest_neighbors.nearest_images if rule.distance == "rms" else nearest_neighbors.nearest_clouds
    return find(samples, batches(), NEAREST)


def _comparable(domain: DomainClass, values: np.ndarray, points: int) -> np.ndarray:
    """Thumbnails, or clouds of `points` points, each in its own box."""
    if domain.MEMORIZATION is not None and domain.MEMORIZATION.distance == "rms":
        return domain.thumbnails(values)
    return point_clouds.boxed(values, points) if len(values) else values[:, :points]


def memorization_set(
    reference: SampleCollection | ReferenceStats | None, training: SampleCollection | None
) -> MemorizationSet | None:
    """The training items among which copies are searched: `training`, else the `train` split of reference shards."""
    from inrflow_core.sample_files import readers

    if training is not None:
        return MemorizationSet(training, None if training.split is None else _held_out(training.source, training.split))
    if reference is None or isinstance(reference, ReferenceStats) or reference.split is None:
        return None
    try:
        train = readers.open_collection(reference.source, "train")
    except UsageError:
        return None
    return MemorizationSet(train, _held_out(reference.source, "train"))


def _held_out(shards: Path, train: str) -> SampleCollection | None:
    """The last non-empty split of the shards other than `train`."""
    from inrflow_core.sample_files import readers

    others = [readers.open_collection(shards, name) for name in readers.split_names(shards) if name != train]
    return next((split for split in reversed(others) if split.count), None)
