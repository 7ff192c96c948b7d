"""What the page of an evaluation shows beside the numbers: samples, their nearest training items, histograms."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from inrflow_core import clouds, matching, nearest, report, residue_pairs, structures
from inrflow_core.errors import UsageError
from inrflow_core.evaluate import Score, Subject
from inrflow_core.evidence import Protein, Structures
from inrflow_core.fields import Progress
from inrflow_core.items import Items
from inrflow_core.metrics import clashes, lddt, rmsd, tm_score
from inrflow_core.results import INTERVALS, Judged, Results

SHOWN = {"image": 48, "points": 8}
"""Items of each side of a gallery."""
GALLERIES = 8
"""Sets of samples that have one."""
COMPARED = {"image": 500, "points": 100}
"""Samples, and held-out items, whose nearest training items are looked for."""
TRAINING = {"image": 200_000, "points": 2_000}
"""Training items that are looked at, evenly spread where there are more: some minutes of one core."""
WORK = 1e13
"""Most differences of numbers that pictures are compared by: of 256 x 256 colour pictures, 50,000 with 1,000."""
NAMED = 96
"""Columns of a picture under which its name has room."""
NEAREST = 4
BLOCK = {"image": 1024, "points": 64}
MOST_BYTES = 2**26
"""Training items are read together up to `BLOCK`, and up to so many bytes."""
POINTS = 2048
"""Points of a cloud that is drawn."""
AZIMUTH = 35.0
"""Degrees about y from which the page looks at a cloud first (`pictures.cloud`)."""
LISTED, DRAWN = 20, 8
"""Proteins of a table, and those of them that are drawn: the worst and the best, half and half."""
LDDT, TM_SCORE, RMSD = "ca:auto:mean", "reference:auto:mean", "ca:auto:mean"
"""What is told of single proteins."""
FACTS = {
    "run": "run", "preset": "preset", "step": "step", "samples_seen": "samples seen", "flops": "training FLOPs",
    "parameters": "parameters", "sampler": "sampler", "nfe": "NFE", "guidance": "guidance", "noise": "noise",
    "seeds": "seeds", "size": "size", "enlarged": "enlarged by", "weights": "weights", "precision": "precision",
    "inrflow": "inrflow", "data set": "data set",
}  # fmt: skip
"""Facts that are shown, in this order; the others follow."""


@dataclass(frozen=True)
class Training:
    """Where copies are looked for, and what the model never saw."""

    items: Items
    held_out: Items | None


def page(results: Results, training: Training | None, progress: Progress | None = None) -> report.Page:
    """Everything that report.html shows of some results; `progress` counts training items that were looked at."""
    reference = results.reference if isinstance(results.reference, Items) else None
    if reference is not None and reference.domain == "protein":
        return _page_of_proteins(results)
    shown = [results.judged[place].subject for place in _galleries(results.judged)]
    photos = {subject.name: found for subject in shown if (found := _photos(subject, reference)) is not None}
    return report.Page(
        title=_title(results.judged),
        entries=[_entry(one) for one in results.judged],
        reference=_reference(results),
        interval=INTERVALS if any(score.interval for one in results.judged for score in one.scores) else "",
        photos=list(photos.values()),
        galleries=[_gallery(subject, reference) for subject in shown if subject.name not in photos],
        neighbours=None if training is None else _neighbours(results.judged[-1].subject, training, progress),
        histograms=[] if reference is None else _histograms(results.judged[-1].subject, reference),
    )


def _page_of_proteins(results: Results) -> report.Page:
    """Scores, the worst and the best proteins of each set of samples, and how they scatter."""
    shown = [results.judged[place] for place in _galleries(results.judged)]
    found = {one.subject.name: one.proteins for one in shown if one.proteins is not None and _is_told(one.proteins)}
    scattered = {
        f"samples of {name}": np.array([each.mean() for each in lddt.values(proteins, LDDT)])
        for name, proteins in found.items()
    }
    return report.Page(
        title=_title(results.judged),
        entries=[_entry(one) for one in results.judged],
        reference=_reference(results),
        interval=INTERVALS if any(score.interval for one in results.judged for score in one.scores) else "",
        histograms=[report.Histogram("lDDT of C-alphas, mean of a protein's samples", "", scattered)]
        if scattered
        else [],
        folds=[_folds(name, proteins) for name, proteins in found.items()],
    )


def _is_told(evidence: Structures) -> bool:
    """Whether every sample has what a row of the table tells; where not, a metric has said why."""
    try:
        lddt.values(evidence, LDDT)
        rmsd.values(evidence, RMSD)
    except UsageError:
        return False
    return True


def _folds(name: str, evidence: Structures) -> report.Folds:
    """The proteins that score least and most, with pictures of the very least and most."""
    by_protein = {
        "lDDT": lddt.values(evidence, LDDT),
        "TM-score": tm_score.values(evidence, TM_SCORE),
        "RMSD, Å": rmsd.values(evidence, RMSD),
        "clashes /1000 atoms": clashes.values(evidence),
        "of the reference": [np.array([clashes.per_thousand(one.reference)]) for one in evidence.proteins],
    }
    means = {column: [float(each.mean()) for each in values] for column, values in by_protein.items()}
    places = report.spread(means["lDDT"], LISTED)
    drawn = set(report.spread(means["lDDT"], DRAWN))
    rows = []
    for place in places:
        protein = evidence.proteins[place]
        traces = _traces(protein) if place in drawn else (None, None)
        values = [means[column][place] for column in means]
        rows.append(report.Fold(protein.name, len(protein.reference.codes), len(protein.samples), values, *traces))
    return report.Folds(name, list(means), rows, len(evidence.proteins))


def _traces(protein: Protein) -> tuple[np.ndarray, np.ndarray]:
    """C-alphas of the first sample, laid on the reference as the TM-score has it, and those of the reference."""
    sample, reference = protein.samples[0], protein.reference
    _, motion = structures.tm_score(*residue_pairs.c_alphas(sample, reference, protein.pairs[0]))
    return motion(_trace(sample)), _trace(reference)


def _trace(structure: structures.Structure) -> np.ndarray:
    """C-alphas, NaN where not known and where the chain has a gap."""
    places = np.where(structure.ca_is_known[:, None], structure.ca, np.nan).astype(np.float64)
    gaps = np.flatnonzero(np.diff(structure.numbers) > 1) + 1
    return np.insert(places, gaps, np.nan, axis=0)


def _title(judged: Sequence[Judged]) -> str:
    """What was judged: runs with the number of their checkpoints, and samples by name."""
    counts = Counter(str(one.subject.facts.get("run", one.subject.name)) for one in judged)
    names = [name if count == 1 else f"{name} ({count} checkpoints)" for name, count in counts.items()]
    more = f" and {len(names) - 3:,} more" if len(names) > 3 else ""
    return "Evaluation of " + ", ".join(names[:3]) + more


def _galleries(judged: Sequence[Judged]) -> list[int]:
    """Places of the sets of samples that are shown: the last of each run, then the last of the others."""
    lasts = {one.subject.facts.get("run", one.subject.name): place for place, one in enumerate(judged)}
    order = [*list(lasts.values())[::-1], *reversed(range(len(judged)))]
    return sorted(list(dict.fromkeys(order))[:GALLERIES])


def _reference(results: Results) -> dict[str, str]:
    told = results.told()["reference"]
    return {key: _spelled(value) for key, value in told.items() if value is not None} | {"digest": told["digest"][:16]}


def _entry(one: Judged) -> report.Entry:
    facts = {**one.subject.items.facts, **one.subject.facts}
    told = {FACTS[key]: _spelled(facts[key]) for key in FACTS if facts.get(key) is not None}
    told |= {key: _spelled(value) for key, value in facts.items() if key not in FACTS and value is not None}
    told |= {"samples": f"{one.subject.items.count:,}", "digest of the samples": one.subject.items.digest[:16]}
    for score in one.scores:
        if score.weights:
            told[f"weights of {score.title}, {score.protocol}"] = score.weights[:16]
    return report.Entry(one.subject.name, told, [_score(score) for score in one.scores], _progress(facts))


def _progress(facts: dict[str, Any]) -> report.Progress | None:
    try:
        step, seen, flops = int(facts["step"]), int(facts["samples_seen"]), float(facts["flops"])
    except (KeyError, TypeError, ValueError):
        return None
    return report.Progress(str(facts.get("run", "")), step, seen, flops)


def _score(score: Score) -> report.Score:
    return report.Score(
        score.title,
        score.protocol,
        score.value,
        score.unit,
        score.higher_is_better,
        score.interval,
        score.samples,
        score.note,
    )


def _gallery(subject: Subject, reference: Items | None) -> report.Gallery:
    samples, names = _some(subject.items, SHOWN[subject.items.domain])
    real, real_names = (None, []) if reference is None else _some(reference, SHOWN[reference.domain])
    if subject.items.domain == "image" and samples.shape[2] < NAMED:
        names, real_names = [], []
    return report.Gallery(subject.name, samples, real, names, real_names)


def _photos(subject: Subject, reference: Items | None) -> report.Photos | None:
    """Some samples beside the pictures that they record and the objects of these; None where they record none."""
    if reference is None or reference.fetch_pictures is None or subject.items.domain != "points":
        return None
    chosen = _spread(subject.items.count, SHOWN["points"])
    batch = subject.items.read(chosen.tolist())
    if "view" not in batch.condition:
        return None
    try:
        match = matching.own(subject.items, reference)
    except UsageError:
        return None
    places, views = match.places[chosen], match.views[chosen]
    own = reference.read(places.tolist())
    points = min(POINTS, batch.values.shape[1], own.values.shape[1])
    sides = [np.stack(clouds.thinned(list(some.values), points, range(len(chosen)))) for some in (batch, own)]
    if reference.fetch_cameras is not None:
        seen = reference.fetch_cameras(places.tolist(), views)
        sides = [np.stack([_faced(*each) for each in zip(side, seen, strict=True)]) for side in sides]
    names = [
        f"{os.fsencode(name).decode(errors='replace')}, view {view}"
        for name, view in zip(own.names, views, strict=True)
    ]
    pictures = reference.fetch_pictures(places.tolist(), views)
    return report.Photos(subject.name, pictures, sides[0], sides[1], names, subject.items.count)


def _faced(points: np.ndarray, camera: np.ndarray) -> np.ndarray:
    """A cloud turned about y so that the page's first look at it comes from the side of a camera."""
    x, _, z = camera[:3, 3].astype(np.float64)
    turn = math.radians(AZIMUTH) - math.atan2(x, z)
    cosine, sine = math.cos(turn), math.sin(turn)
    about_y = np.array([[cosine, 0, sine], [0, 1, 0], [-sine, 0, cosine]])
    placed = points[:, :3].astype(np.float64) @ about_y.T
    return np.concatenate([placed.astype(np.float32), points[:, 3:]], axis=1)


def _neighbours(subject: Subject, training: Training, progress: Progress | None) -> report.Neighbours | None:
    """Samples beside their nearest training items; None where these are of another size."""
    domain = subject.items.domain
    if training.items.domain != domain or (domain == "image" and training.items.shape != subject.items.shape):
        return None
    samples, _ = _some(subject.items, COMPARED[domain])
    count = len(samples)
    held_out = np.empty((0, *samples.shape[1:]), samples.dtype)
    if training.held_out is not None:
        held_out, _ = _some(training.held_out, COMPARED[domain])
    if domain == "points":
        points = min(samples.shape[1], training.items.shape[0])
        samples, held_out = (
            _boxed(values, points) if len(values) else values[:, :points] for values in (samples, held_out)
        )
    together = np.concatenate([samples, held_out]) if len(held_out) else samples
    total = training.items.count
    places = _spread(total, _looked_at(together) if domain == "image" else TRAINING[domain])
    found = _nearest(together, training.items, places, progress)
    most = SHOWN[domain]
    order = np.argsort(found.distances[:count, 0], kind="stable")[:most]
    near = training.items.read(found.indices[order].ravel().tolist()).values
    if domain == "points":
        near = _boxed(near, samples.shape[1])
    return report.Neighbours(
        samples[order],
        near.reshape(len(order), -1, *near.shape[1:]),
        found.distances[order],
        "rms difference in grey levels" if domain == "image" else "Chamfer distance, each in its box",
        found.distances[:count, 0],
        found.distances[count:, 0] if len(held_out) else None,
        subject.name,
        f"{total:,}" if len(places) == total else f"{len(places):,} (evenly spread) of {total:,}",
    )


def _looked_at(pictures: np.ndarray) -> int:
    """Training pictures that such pictures are compared with."""
    return max(1, min(TRAINING["image"], int(WORK / pictures.size)))


def _nearest(samples: np.ndarray, items: Items, places: np.ndarray, progress: Progress | None) -> nearest.Nearest:
    each = int(np.prod(items.shape)) * (1 if items.domain == "image" else 4)
    size = max(1, min(BLOCK[items.domain], MOST_BYTES // each))

    def batches() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for start in range(0, len(places), size):
            part = places[start : start + size]
            values = items.read(part.tolist()).values
            yield part, values if items.domain == "image" else _boxed(values, samples.shape[1])
            if progress is not None:
                progress(start + len(part), len(places))

    find = nearest.images if items.domain == "image" else nearest.clouds
    return find(samples, batches(), NEAREST)


def _histograms(subject: Subject, reference: Items) -> list[report.Histogram]:
    """How bright pictures are and how much they vary; how far points lie from a cloud's middle."""
    sides = {f"samples of {subject.name}": subject.items, "reference": reference}
    some = {name: _some(items, COMPARED[items.domain])[0] for name, items in sides.items()}
    if subject.items.domain == "image":
        # One picture after the other: together their numbers in 64 bits would take gigabytes.
        means = {name: np.array([one.mean() for one in values]) for name, values in some.items()}
        deviations = {name: np.array([one.std() for one in values]) for name, values in some.items()}
        return [
            report.Histogram("Mean of a picture", "grey levels", means),
            report.Histogram("Deviation within a picture", "grey levels", deviations),
        ]
    radii = {name: np.linalg.norm(_boxed(values, values.shape[1])[..., :3], axis=2) for name, values in some.items()}
    return [
        report.Histogram(
            "Distance of points from the middle of their box", "longest side", {n: r.ravel() for n, r in radii.items()}
        )
    ]


def _some(items: Items, most: int) -> tuple[np.ndarray, list[str]]:
    """Up to so many items, evenly spread, and their names."""
    batch = items.read(_spread(items.count, most).tolist())
    values = batch.values
    if items.domain == "points" and values.shape[1] > POINTS:
        values = np.stack(clouds.thinned(list(values), POINTS, range(len(values))))
    return values, [os.fsencode(name).decode(errors="replace") for name in batch.names]


def _spread(count: int, most: int) -> np.ndarray:
    """At most so many of `count` places, evenly spread."""
    return np.arange(count) if count <= most else np.linspace(0, count - 1, most).round().astype(np.int64)


def _boxed(values: np.ndarray, points: int) -> np.ndarray:
    """Clouds thinned to so many points, each in its own box, as float32."""
    thinned = np.stack(clouds.thinned(list(values[..., :3]), points, range(len(values))))
    return clouds.normalise(thinned, clouds.BOX, None).astype(np.float32)


def _spelled(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def training_of(reference: Any, given: Items | None) -> Training | None:
    """The training items to look for copies in: those given, else the split `train` of a reference that is shards."""
    from inrflow_core import items

    if given is not None:
        return Training(given, None if given.split is None else _held_out(given.source, given.split))
    if not isinstance(reference, Items) or reference.split is None:
        return None
    try:
        train = items.open_items(reference.source, "train")
    except UsageError:
        return None
    return Training(train, _held_out(reference.source, "train"))


def _held_out(shards: Path, train: str) -> Items | None:
    """The last of the other splits of some shards that holds anything."""
    from inrflow_core import items

    others = [items.open_items(shards, name) for name in items.splits(shards) if name != train]
    return next((found for found in reversed(others) if found.count), None)
