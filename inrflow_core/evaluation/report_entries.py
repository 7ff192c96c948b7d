"""Rows and galleries of the report: scores, settings and evenly spaced samples."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from inrflow_core.domains._contract import CLOUD_GALLERY, domain_class
from inrflow_core.evaluation import sample_matching
from inrflow_core.evaluation.results import EvaluatedSamples, Results, SampleScores, Score, StoredSamples
from inrflow_core.geometry import point_clouds
from inrflow_core.report import content
from inrflow_core.sample_files import scene_views
from inrflow_core.sample_files.collection import SampleCollection
from inrflow_core.sample_files.subsets import evenly_spaced

GALLERIES = 8
"""Most sets of samples shown."""
NAMED = 96
"""Smallest width of an image, in pixels, with its name shown."""
POINTS = 2048
"""Most points shown of a cloud."""
FACTS = {
    "run": "run", "preset": "preset", "step": "step", "samples_seen": "samples seen", "flops": "training FLOPs",
    "parameters": "parameters", "sampler": "sampler", "nfe": "NFE", "guidance": "guidance", "noise": "noise",
    "seeds": "seeds", "size": "size", "enlarged": "enlarged by", "weights": "weights", "precision": "precision",
    "inrflow": "inrflow", "data set": "data set",
}  # fmt: skip
"""Labels of metadata, in the order of the page; other metadata follow."""


def report_title(scored: Sequence[SampleScores]) -> str:
    """The title of the page: runs with the number of their checkpoints, and samples by name."""
    counts = Counter(str(one.sample_set.facts.get("run", one.sample_set.name)) for one in scored)
    names = [name if count == 1 else f"{name} ({count} checkpoints)" for name, count in counts.items()]
    more = f" and {len(names) - 3:,} more" if len(names) > 3 else ""
    return "Evaluation of " + ", ".join(names[:3]) + more


def shown_indices(scored: Sequence[SampleScores]) -> list[int]:
    """Indices of the sets of samples that are shown: the last of each run, then the last of the others."""
    lasts = {one.sample_set.facts.get("run", one.sample_set.name): index for index, one in enumerate(scored)}
    order = [*list(lasts.values())[::-1], *reversed(range(len(scored)))]
    return sorted(list(dict.fromkeys(order))[:GALLERIES])


def reference_facts(results: Results) -> dict[str, str]:
    """Metadata of the reference, as text."""
    facts = results.to_json()["reference"]
    return {key: _text(value) for key, value in facts.items() if value is not None} | {"digest": facts["digest"][:16]}


def report_entry(one: SampleScores) -> content.Entry:
    """The scores and metadata of one set of samples."""
    facts = {**one.sample_set.items.metadata, **one.sample_set.facts}
    shown = {FACTS[key]: _text(facts[key]) for key in FACTS if facts.get(key) is not None}
    shown |= {key: _text(value) for key, value in facts.items() if key not in FACTS and value is not None}
    shown |= {"samples": f"{one.sample_set.items.count:,}", "digest of the samples": one.sample_set.items.digest[:16]}
    for score in one.scores:
        if score.weights:
            shown[f"weights of {score.title}, {score.protocol}"] = score.weights[:16]
    scores = [_score(score) for score in one.scores]
    return content.Entry(one.sample_set.name, shown, scores, _progress(facts), speed_texts(one.sample_set))


def speed_texts(sample_set: EvaluatedSamples | StoredSamples) -> dict[str, str]:
    """Network evaluations per sample and samples per second, as text; empty for samples of no run."""
    evaluations, speed = sample_set.facts.get("nfe"), sample_set.speed
    if evaluations is None:
        return {}
    rate = "-" if speed is None else f"{speed:.3g}" if speed < 1000 else f"{speed:,.0f}"
    return {"NFE": _text(evaluations), content.RATE: rate}


def _progress(facts: dict[str, Any]) -> content.Progress | None:
    try:
        step, seen, flops = int(facts["step"]), int(facts["samples_seen"]), float(facts["flops"])
    except (KeyError, TypeError, ValueError):
        return None
    return content.Progress(str(facts.get("run", "")), step, seen, flops)


def _score(score: Score) -> content.Score:
    return content.Score(
        score.title,
        score.protocol,
        score.value,
        score.unit,
        score.higher_is_better,
        score.interval,
        score.samples,
        score.note,
    )


def gallery(sample_set: EvaluatedSamples, reference: SampleCollection | None) -> content.Gallery:
    """Evenly spaced samples, and reference items if there are any; reconstructions with their originals; of scenes, single
    views.
    """
    reference = reference if sample_set.originals is None else sample_set.originals
    domain = domain_class(sample_set.items.domain)
    assert domain.GALLERY is not None
    if domain.HAS_CAMERAS:
        return _view_gallery(sample_set, reference)
    samples, names = read_evenly_spaced(sample_set.items, domain.GALLERY.tiles)
    real, real_names = (None, []) if reference is None else read_evenly_spaced(reference, domain.GALLERY.tiles)
    samples, real = domain.thumbnails(samples), None if real is None else domain.thumbnails(real)
    if samples.ndim == 4 and samples.shape[2] < NAMED:
        names, real_names = [], []
    return content.Gallery(sample_set.name, samples, real, names, real_names)


def read_evenly_spaced(items: SampleCollection, most: int) -> tuple[np.ndarray, list[str]]:
    """Values and names of at most `most` items, evenly spaced."""
    batch = items.read(evenly_spaced(items.count, most).tolist())
    values = batch.values
    if domain_class(items.domain).GALLERY == CLOUD_GALLERY and values.shape[1] > POINTS:
        values = np.stack(point_clouds.subsample(list(values), POINTS, range(len(values))))
    return values, [os.fsencode(name).decode(errors="replace") for name in batch.names]


def _view_gallery(sample_set: EvaluatedSamples, reference: SampleCollection | None) -> content.Gallery:
    """Evenly spaced views of the samples, and the reference's view of each if samples record it, else views of its own."""
    domain = domain_class(sample_set.items.domain)
    assert domain.GALLERY is not None
    items, tiles = sample_set.items, domain.GALLERY.tiles
    if items.shape[0] == 1:  # read as they are: some are computed as they are read
        rows = evenly_spaced(items.count, tiles)
        samples = items.read(rows.tolist()).values[:, 0]
    else:
        images = scene_views.as_images(items)
        rows = evenly_spaced(images.count, tiles)
        samples = images.read(rows.tolist()).values
    real = None if reference is None else _real_views(items, reference, rows)
    return content.Gallery(sample_set.name, samples, real)


def _real_views(samples: SampleCollection, reference: SampleCollection, rows: np.ndarray) -> np.ndarray:
    condition = samples.load_conditions(rows.tolist()) if samples.shape[0] == 1 else {}
    if not {"item", "view"} <= condition.keys():
        images = scene_views.as_images(reference)
        return images.read(evenly_spaced(images.count, len(rows)).tolist()).values
    item, view = (condition[name].astype(np.int64).reshape(-1) for name in ("item", "view"))
    return scene_views.read_views(reference, sample_matching.match_recorded(samples, item, reference), view)


def _text(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"
