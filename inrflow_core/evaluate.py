"""Samples and a reference to named numbers: gather what metrics judge by, once for all of them, and let them judge.

chosen = choose(["fid:random", "kid:random"], "image")
judge = Judge(open_items(Path("shards/mnist"), "train"), Setting(Path("results")))
for metric in chosen:
    print(judge.score(Subject("mine", open_items(Path("mine.h5"))), metric))
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64

from inrflow_core import clouds, confidence, manifest, matching, pairs, protein_pairs, registry
from inrflow_core.chosen import Chosen as Chosen  # part of this file's face, as the next
from inrflow_core.chosen import check as check
from inrflow_core.chosen import check_counts as check_counts
from inrflow_core.chosen import check_points as check_points
from inrflow_core.chosen import choose as choose
from inrflow_core.errors import MissingError, UsageError
from inrflow_core.evidence import (
    CloudNeed,
    Clouds,
    DistanceNeed,
    Distances,
    Evidence,
    FeatureNeed,
    Features,
    Matches,
    MatchNeed,
    Moments,
    Need,
    StructureNeed,
    Structures,
    features_of,
)
from inrflow_core.extraction import KEPT, Extraction
from inrflow_core.features import find_weights
from inrflow_core.fields import Progress
from inrflow_core.items import Items, normalised
from inrflow_core.statistics_files import Statistics

TRIALS = 16
"""Pictures that are timed to foretell the rest."""
FEW = 2
"""The same of clouds and of the pictures that they are drawn from, whose networks take seconds for each."""
STATISTICS = "statistics"
"""The folder beside shards in which the features of their pictures are kept."""


@dataclass(frozen=True)
class Subject:
    """What is judged: samples, and what is known of them."""

    name: str
    items: Items
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Score:
    """A metric's value, and what it rests on."""

    metric: str
    """Its full name: `mmd:emd-exact:inrflow`."""
    title: str
    """Its name in the papers."""
    protocol: str
    value: float
    unit: str
    higher_is_better: bool
    interval: tuple[float, float] | None
    """95 % confidence; None where there are too few items for one."""
    samples: int
    """Those that the value rests on: of very many pictures not all (`extraction.KEPT`)."""
    reference: int | None
    """The same of the reference; None where it is not looked at, or a file of statistics does not say it."""
    features: str | None
    """The network and the form of the features that it was taken of, as `random:v1`; of two networks both."""
    weights: str | None
    """sha256 of the feature network's weights; of two networks both."""
    note: str | None
    """What a reader must know beside the protocol."""


def _no_watch(title: str, unit: str) -> AbstractContextManager[Progress]:
    return contextlib.nullcontext(lambda done, total: None)


@dataclass(frozen=True)
class Setting:
    """Where and how to work."""

    folder: Path
    """Kept here: features and distances, so that nothing is made twice."""
    weights: Mapping[str, Path] = field(default_factory=dict)
    """Weights files of feature networks by name."""
    weights_folder: Path | None = None
    """Where the others are looked for; None: `INRFLOW_WEIGHTS`, else `weights`."""
    pictures: Items | None = None
    """What clouds of the reference look like, by name or place; None for those that the reference holds."""
    points: int | None = None
    """Points of each cloud that count; None: as many as the smaller of samples and reference has."""
    device: str = "cpu"
    workers: int = 1
    watch: Callable[[str, str], AbstractContextManager[Progress]] = _no_watch
    """Given a title and a unit, shows the progress of a piece of work."""
    say: Callable[[str], None] | None = None
    """Hears before distances are taken how long that will take."""


class Judge:
    """Compares samples with one reference; what was gathered of samples is kept until others are asked about."""

    def __init__(self, reference: Items | Statistics, setting: Setting) -> None:
        self.reference, self.setting = reference, setting
        self._subject: Subject | None = None
        self._held: dict[Any, Any] = {}
        self._extractors: dict[str, Any] = {}
        self._digests: dict[Path, str] = {}
        self._verified: list[Items] = []
        self._reference_clouds: dict[tuple[str, int], np.ndarray] = {}

    def score(self, subject: Subject, metric: Chosen, together: Sequence[Chosen] = ()) -> Score:
        """The value of one metric.

        Args:
            together: the metrics that will be asked of this subject; what several need is gathered once for all.

        Raises:
            MissingError: the weights of its network are absent.
            UsageError: it cannot be taken of these items.
            IntegrityError: an item or the weights are damaged.
        """
        if self._subject is not subject:
            self._held.clear()
            self._subject = subject
        evidence = self._evidence(subject, metric, [metric, *together])
        value = metric.module.compute(evidence, metric.protocol)
        samples, references = _counts(evidence)
        return Score(
            metric=metric.full,
            title=metric.module.TITLE,
            protocol=metric.protocol,
            value=value,
            unit=metric.module.unit(metric.protocol),
            higher_is_better=metric.module.HIGHER_IS_BETTER,
            interval=_interval(metric, evidence, value),
            samples=samples,
            reference=references or None,
            features=", ".join(f"{need.network}:{need.form}" for need in features_of(metric.need)) or None,
            weights=", ".join(filter(None, map(self._weights_digest, features_of(metric.need)))) or None,
            note=self._note(metric, evidence),
        )

    def check(self, metrics: Sequence[Chosen]) -> None:
        """Nothing, where the reference has what every metric needs of it; those whose weights are absent are passed over.

        Raises:
            UsageError: it is statistics of another protocol, or a metric compares single items.
        """
        missing = self.missing(metrics)
        for metric in metrics:
            if metric.needs_reference and metric.full not in missing and isinstance(self.reference, Statistics):
                if not isinstance(metric.need, FeatureNeed):
                    raise UsageError(
                        f"`{self.reference.source}` holds statistics, and `{metric.full}` compares single items",
                        hint="give the pictures themselves",
                    )
                self.reference.find(metric.need, self._weights_digest(metric.need))

    def missing(self, metrics: Sequence[Chosen]) -> dict[str, MissingError]:
        """Those metrics whose weights are absent, and the error that says what to do."""
        found = {}
        for metric in metrics:
            try:
                for need in features_of(metric.need):
                    self._weights_digest(need)
            except MissingError as error:
                found[metric.full] = error
        return found

    def keep(self, metrics: Sequence[Chosen]) -> None:
        """Make and keep what metrics need of the reference's pictures, for every later evaluation.

        Raises:
            MissingError: the weights of a network are absent.
            UsageError: the reference is no pictures, or a metric needs no features.
        """
        needs: dict[tuple[str, ...], list[FeatureNeed]] = {}
        for metric in metrics:
            if not isinstance(metric.need, FeatureNeed) or isinstance(self.reference, Statistics):
                raise UsageError(
                    f"`{metric.full}` keeps nothing of its reference", hint="name metrics of features, as in `fid`"
                )
            needs.setdefault(_key(metric.need), []).append(metric.need)
        for alike in needs.values():
            outputs = tuple(sorted({need.output for need in alike}))
            assert isinstance(self.reference, Items)
            extraction = self._extract(self.reference, alike[0], outputs)
            for need in alike:
                if need.moments_suffice:
                    extraction.moments(need.output)

    def foretell(self, metrics: Sequence[Chosen], samples: int, points: int | None = None) -> list[tuple[str, float]]:
        """What gathering takes for so many samples, and the seconds for each, from a few that are timed.

        `points` is the size of each sample where they are clouds; None: that of the reference's.
        """
        found = []
        for key, need in {_key(metric.need): metric.need for metric in metrics}.items():
            for features in features_of(need):
                found.append(self._foretell_features(features, samples, is_matched=isinstance(need, MatchNeed)))
            if isinstance(need, FeatureNeed | MatchNeed):
                continue
            if isinstance(need, DistanceNeed) and isinstance(self.reference, Items):
                is_within = any(
                    isinstance(other.need, DistanceNeed) and other.need.is_within and _key(other.need) == key
                    for other in metrics
                )
                found.append(self._foretell_distances(replace(need, is_within=is_within), samples, points))
        return found

    def _foretell_features(self, need: FeatureNeed, samples: int, *, is_matched: bool) -> tuple[str, float]:
        extractor = self._extractor(need.network)
        module = registry.find("features", need.network)
        few = FEW if is_matched or module.DOMAIN == "points" else TRIALS
        count, some = samples, np.zeros((few, 64, 64, 3), dtype=np.uint8)
        if isinstance(self.reference, Items) and self.reference.domain == module.DOMAIN:
            some = self.reference.read(range(min(few, self.reference.count))).values
            kept = Extraction(
                self.reference, (need.output,), need.form, self._folder_of(self.reference, need, (need.output,))
            )
            count += 0 if kept.is_done() else self.reference.count
        extractor(some[:1], tuple(module.OUTPUTS), need.form)
        start = time.perf_counter()
        extractor(some, tuple(module.OUTPUTS), need.form)
        each = (time.perf_counter() - start) / len(some)
        return f"{need.network}:{need.form} features of {count:,} {_items(module.DOMAIN)}", each * count

    def _foretell_distances(self, need: DistanceNeed, samples: int, points: int | None) -> tuple[str, float]:
        assert isinstance(self.reference, Items)
        whole = self.reference.shape[0]
        points = self.setting.points or min(points or whole, whole)
        some = normalised(self.reference, points, clouds.BOX, "references")
        count = len(some)
        total = samples * count
        if need.is_within:
            once = 2 if registry.find("distances", need.distance).IS_SYMMETRIC else 1
            total += (samples * (samples - 1) + count * (count - 1)) // once
        work = pairs.Work(None, self.setting.workers, self.setting.device)
        found = pairs.predict(some, some, need, work, pairs=total)
        return str(found), found.seconds

    def _evidence(self, subject: Subject, metric: Chosen, together: Sequence[Chosen]) -> Evidence:
        """What a metric judges by, gathered once for all those that judge by the like."""
        need, alike = metric.need, [other for other in together if _key(other.need) == _key(metric.need)]
        if isinstance(need, FeatureNeed):
            mine = _outputs(alike)
            theirs = _outputs([other for other in alike if other.needs_reference])
            held = self._once((_key(need), mine, theirs), lambda: self._extracted(subject, need, mine, theirs))
            return self._features(held, need, is_compared=metric.needs_reference)
        if isinstance(need, DistanceNeed):
            is_within = any(isinstance(other.need, DistanceNeed) and other.need.is_within for other in alike)
            wanted = replace(need, is_within=is_within, is_paired=False)
            found = self._once(wanted, lambda: self._distances(subject, wanted))
            return replace(found, own=self._match(subject).places) if need.is_paired else found
        if isinstance(need, MatchNeed):
            return self._once(need, lambda: self._matched(subject, need))
        if isinstance(need, CloudNeed):
            return self._once(need, lambda: Clouds(*self._clouds(subject, need.normalisation)))
        if isinstance(need, StructureNeed):
            return self._once(need, lambda: self._structures(subject, need.pairing))
        return self._once(need, lambda: matching.pairs(subject.items, self._whole_reference(subject)))

    def structures(self, subject: Subject) -> Structures | None:
        """The proteins of the subject that was judged last, with their values; None where there are none."""
        found = [held for held in self._held.values() if isinstance(held, Structures)]
        return found[0] if found and self._subject is subject else None

    def _structures(self, subject: Subject, rule: str) -> Structures:
        assert isinstance(self.reference, Items)
        for items in (subject.items, self.reference):
            self._verify(items)
        return protein_pairs.gather(subject.items, self.reference, rule)

    def _once(self, key: Any, gather: Callable[[], Any]) -> Any:
        if key not in self._held:
            self._held[key] = gather()
        return self._held[key]

    def _extracted(
        self, subject: Subject, need: FeatureNeed, mine: tuple[str, ...], theirs: tuple[str, ...]
    ) -> tuple[Extraction, Extraction | None]:
        """Features of the samples and of the reference's pictures, on the disk; none of the latter where none are needed."""
        of_samples = self._extract(subject.items, need, mine)
        if not theirs or isinstance(self.reference, Statistics):
            return of_samples, None
        return of_samples, self._extract(self.reference, need, theirs)

    def _extract(self, items: Items, need: FeatureNeed, outputs: tuple[str, ...]) -> Extraction:
        weights = self._weights_digest(need)
        told = {"network": need.network, "weights": weights or "", "items": items.digest, "split": items.split or ""}
        told["shape"] = json.dumps(items.shape)
        extraction = Extraction(items, outputs, need.form, self._folder_of(items, need, outputs), told)
        if not extraction.is_done():
            self._verify(items)
            name = f"{need.network} features of {items.source.name}{f', {items.split}' if items.split else ''}"
            with self.setting.watch(name, _items(items.domain)) as progress:
                extraction.run(self._extractor(need.network), progress)
        return extraction

    def _features(
        self, held: tuple[Extraction, Extraction | None], need: FeatureNeed, *, is_compared: bool
    ) -> Features:
        mine, theirs = held
        samples = mine.rows(need.output)
        if not is_compared:
            return Features(samples, samples[:0])
        if theirs is None:
            assert isinstance(self.reference, Statistics)
            return Features(samples, self.reference.find(need, self._weights_digest(need)))
        if need.moments_suffice and theirs.items.count > KEPT:
            return Features(samples, theirs.moments(need.output))
        return Features(samples, theirs.rows(need.output))

    def _folder_of(self, items: Items, need: FeatureNeed, outputs: tuple[str, ...]) -> Path:
        """Where features are kept: those of shards beside them, for every later evaluation, unless nothing can be added."""
        weights = (self._weights_digest(need) or "")[:12]
        name = "-".join(part for part in (need.network, need.form, weights, items.split, items.digest[:16]) if part)
        beside = items.source / STATISTICS / name
        is_there = (items.source / manifest.NAME).is_file() and (
            os.access(items.source, os.W_OK) or Extraction(items, outputs, need.form, beside).is_done()
        )
        return beside if is_there else self.setting.folder / "features" / name

    def _verify(self, items: Items) -> None:
        """Compare shards with their digests, once."""
        if items not in self._verified:
            items.verify()
            self._verified.append(items)

    def _extractor(self, network: str) -> Any:
        if network not in self._extractors:
            module = registry.find("features", network)
            self._extractors[network] = module.load(self._weights(network), self.setting.device)
        return self._extractors[network]

    def _distances(self, subject: Subject, need: DistanceNeed) -> Distances:
        samples, reference = self._clouds(subject, need.normalisation)
        work = pairs.Work(self.setting.folder / "distances", self.setting.workers, self.setting.device)
        with self.setting.watch(f"distances by {need.distance}", "pairs") as progress:
            return pairs.matrices(samples, reference, need, work, progress=progress, say=self.setting.say)

    def _clouds(
        self, subject: Subject, protocol: str
    ) -> tuple[Float64[np.ndarray, "N P 3"], Float64[np.ndarray, "R P 3"]]:
        """Samples and reference with one number of points, in the units of a protocol."""
        assert isinstance(self.reference, Items)
        points = self.setting.points or min(subject.items.shape[0], self.reference.shape[0])
        for items in (subject.items, self.reference):
            self._verify(items)
        if (protocol, points) not in self._reference_clouds:
            self._reference_clouds[protocol, points] = normalised(self.reference, points, protocol, "references")
        samples = normalised(subject.items, points, protocol, "samples")
        return samples, self._reference_clouds[protocol, points]

    def _weights_digest(self, need: Need) -> str | None:
        """sha256 of the weights that a need's network takes; None where it needs none.

        Raises:
            MissingError: they are absent.
        """
        if not isinstance(need, FeatureNeed) or registry.find("features", need.network).WEIGHTS is None:
            return None
        path = self._weights(need.network)
        assert path is not None
        if path not in self._digests:
            self._digests[path] = manifest.digest(path)
        return self._digests[path]

    def weights_told(self, metrics: Sequence[Chosen]) -> str:
        """The weights that some metrics rest on, in words to stand behind others; nothing where they need none."""
        digests = {self._weights_digest(need) for metric in metrics for need in features_of(metric.need)} - {None}
        return "".join(f", weights {digest[:16]}" for digest in sorted(str(digest) for digest in digests))

    def _weights(self, network: str) -> Path | None:
        if registry.find("features", network).WEIGHTS is None:
            return None
        return find_weights(network, self.setting.weights, self.setting.weights_folder)

    def _note(self, metric: Chosen, evidence: Evidence) -> str | None:
        """What the metric and its network have to say beside the number."""
        notes = []
        if hasattr(metric.module, "note"):
            notes.append(metric.module.note(evidence, metric.protocol))
        notes += [self._extractor(need.network).note(need.form) for need in features_of(metric.need)]
        return "; ".join(note for note in notes if note) or None

    def _match(self, subject: Subject) -> matching.Match:
        """Of each sample its own reference."""
        return self._once("match", lambda: matching.own(subject.items, self._whole_reference(subject)))

    def _matched(self, subject: Subject, need: MatchNeed) -> Matches:
        """Features of the samples, of their own references, and of the pictures of both."""
        reference = self._whole_reference(subject)
        if subject.items.count > KEPT:
            raise UsageError(f"{subject.items.count:,} samples are too many", hint=f"give {KEPT:,} at most")
        match = self._match(subject)
        found = [self._extract(subject.items, need.clouds, (need.clouds.output,)).rows(need.clouds.output)]
        for features, (items, whose) in (
            (need.clouds, matching.clouds(match, reference)),
            (need.pictures, matching.pictures(match, reference, self.setting.pictures)),
        ):
            verified = replace(items, verify=lambda: None) if items.source == reference.source else items
            found.append(self._extract(verified, features, (features.output,)).rows(features.output)[whose])
        return Matches(*found)

    def _whole_reference(self, subject: Subject) -> Items:
        """The reference's items, read through like the subject's.

        Raises:
            UsageError: only their statistics are known.
        """
        if isinstance(self.reference, Statistics):
            raise UsageError(
                f"`{self.reference.source}` holds statistics, and this metric compares picture by picture",
                hint="give the pictures themselves",
            )
        for items in (subject.items, self.reference):
            self._verify(items)
        return self.reference


def _interval(metric: Chosen, evidence: Evidence, value: float) -> tuple[float, float] | None:
    """95 % confidence, by the metric's own short cut where it has one."""
    values = None
    if hasattr(metric.module, "left_out") and confidence.fewest(evidence) >= 2 * confidence.PARTS:
        values = metric.module.left_out(evidence, metric.protocol, confidence.PARTS)
    found = confidence.interval(
        lambda part: metric.module.compute(part, metric.protocol), evidence, value=value, values=values
    )
    return None if found is None else (found.low, found.high)


def _items(domain: str) -> str:
    return "pictures" if domain == "image" else "clouds"


def _outputs(metrics: Sequence[Chosen]) -> tuple[str, ...]:
    return tuple(sorted({metric.need.output for metric in metrics if isinstance(metric.need, FeatureNeed)}))


def _counts(evidence: Evidence) -> tuple[int, int]:
    """Samples and items of the reference that a value rests on; 0 of a reference that nobody counted or looked at."""
    if isinstance(evidence, Distances):
        return evidence.across.shape
    if isinstance(evidence, Structures):
        return sum(len(protein.samples) for protein in evidence.proteins), len(evidence.proteins)
    reference = evidence.reference
    return len(evidence.samples), reference.count if isinstance(reference, Moments) else len(reference)


def _key(need: Need) -> tuple[str, ...]:
    """What needs that are gathered together have in common."""
    if isinstance(need, FeatureNeed):
        return "features", need.network, need.form
    if isinstance(need, DistanceNeed):
        return "distances", need.distance, need.normalisation
    if isinstance(need, MatchNeed):
        return ("matches", *_key(need.clouds), *_key(need.pictures))
    if isinstance(need, StructureNeed):
        return "structures", need.pairing
    return ("clouds", need.normalisation) if isinstance(need, CloudNeed) else ("pairs",)
