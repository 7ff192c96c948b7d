"""Collect the content of report.html: scores, samples, their nearest training items, histograms."""

from __future__ import annotations

import math
import os

import numpy as np

from inrflow_core.domains._contract import CLOUD_GALLERY, domain_class
from inrflow_core.errors import UsageError
from inrflow_core.evaluation import sample_matching
from inrflow_core.evaluation.memorization import MemorizationSet, nearest_panel
from inrflow_core.evaluation.report_entries import (
    POINTS,
    gallery,
    read_evenly_spaced,
    reference_facts,
    report_entry,
    report_title,
    shown_indices,
)
from inrflow_core.evaluation.report_proteins import protein_page
from inrflow_core.evaluation.results import INTERVALS, EvaluatedSamples, Results
from inrflow_core.geometry import point_clouds
from inrflow_core.metrics._inputs import ReferenceStats
from inrflow_core.report import content
from inrflow_core.runtime.progress import Progress
from inrflow_core.sample_files.collection import IMAGE, SampleCollection, ShardCollection
from inrflow_core.sample_files.subsets import evenly_spaced
from inrflow_core.sets import CAMERA

AZIMUTH = 35.0
"""Initial azimuth of the view of a cloud, in degrees about y (`point_rendering.cloud`)."""


def build_report(results: Results, training: MemorizationSet | None, progress: Progress | None = None) -> content.Page:
    """The content of report.html; `progress` counts searched training items."""
    reference = results.reference if not isinstance(results.reference, ReferenceStats) else None
    if reference is not None and domain_class(reference.domain).MAKES_STRUCTURES:
        return protein_page(results)
    shown = [results.scored[index].sample_set for index in shown_indices(results.scored)]
    photos = {sample_set.name: photo for sample_set in shown if (photo := _photos(sample_set, reference)) is not None}
    last = next((one.sample_set for one in reversed(results.scored) if one.sample_set.originals is None), None)
    return content.Page(
        title=report_title(results.scored),
        entries=[report_entry(one) for one in results.scored],
        reference=reference_facts(results),
        interval=INTERVALS if any(score.interval for one in results.scored for score in one.scores) else "",
        photos=list(photos.values()),
        galleries=[gallery(sample_set, reference) for sample_set in shown if sample_set.name not in photos],
        neighbors=None if training is None or last is None else nearest_panel(last, training, progress),
        histograms=[] if reference is None or last is None else _histograms(last, reference),
    )


def _photos(sample_set: EvaluatedSamples, reference: SampleCollection | None) -> content.ImageConditionedGallery | None:
    """Some samples with their condition images and reference objects; None if the samples do not record them."""
    if not isinstance(reference, ShardCollection) or not reference.has_views():
        return None
    selected = evenly_spaced(sample_set.items.count, CLOUD_GALLERY.tiles)
    batch = sample_set.items.read(selected.tolist())
    if "view" not in batch.condition:
        return None
    try:
        match = sample_matching.match_to_reference(sample_set.items, reference)
    except UsageError:
        return None
    indices, views = match.reference_index[selected], match.view_index[selected]
    objects = reference.read(indices.tolist())
    points = min(POINTS, batch.values.shape[1], objects.values.shape[1])
    sides = [
        np.stack(point_clouds.subsample(list(some.values), points, range(len(indices)))) for some in (batch, objects)
    ]
    if reference.has_views(CAMERA):
        cameras = reference.load_views(CAMERA, indices.tolist(), views)
        sides = [np.stack([_faced(*each) for each in zip(side, cameras, strict=True)]) for side in sides]
    names = [
        f"{os.fsencode(name).decode(errors='replace')}, view {view}"
        for name, view in zip(objects.names, views, strict=True)
    ]
    images = reference.load_views(IMAGE, indices.tolist(), views)
    return content.ImageConditionedGallery(sample_set.name, images, sides[0], sides[1], names, sample_set.items.count)


def _faced(points: np.ndarray, camera: np.ndarray) -> np.ndarray:
    """A cloud, rotated about y so that the initial view on the page is the camera's view."""
    x, _, z = camera[:3, 3].astype(np.float64)
    turn = math.radians(AZIMUTH) - math.atan2(x, z)
    cosine, sine = math.cos(turn), math.sin(turn)
    about_y = np.array([[cosine, 0, sine], [0, 1, 0], [-sine, 0, cosine]])
    placed = points[:, :3].astype(np.float64) @ about_y.T
    return np.concatenate([placed.astype(np.float32), points[:, 3:]], axis=1)


def _histograms(sample_set: EvaluatedSamples, reference: SampleCollection) -> list[content.Histogram]:
    """Histograms of the domain's statistics of single samples, and of those of the reference."""
    domain = domain_class(sample_set.items.domain)
    if domain.MEMORIZATION is None:
        return []
    most = domain.MEMORIZATION.num_compared
    sides = {f"samples of {sample_set.name}": sample_set.items, "reference": reference}
    histograms = {name: domain.statistics(read_evenly_spaced(items, most)[0]) for name, items in sides.items()}
    return [
        content.Histogram(title, unit, {name: statistics[number][2] for name, statistics in histograms.items()})
        for number, (title, unit, _) in enumerate(histograms["reference"])
    ]
