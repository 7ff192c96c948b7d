"""Samples and a reference to named numbers: gather what metrics judge by, once for all of them, and let them judge.

chosen = choose(["fid:random", "kid:random"], "image")
judge = Judge(open_items(Path("shards/mnist"), "train"), Setting(Path("results")))
for metric in chosen:
    print(judge.score(Subject("mine", open_items(Path("mine.h5"))), metric))
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64

from inrflow_core import registry
from inrflow_core.errors import MissingError, UsageError
from inrflow_core.evaluation import distance_matrix, jackknife, pairwise_distances, protein_matching, sample_matching
from inrflow_core.evaluation.feature_cache import MAX_STORED_ROWS, FeatureCache
from inrflow_core.evaluation.gather import (
    STATISTICS,
    EvaluationSettings,
    feature_outputs,
    input_key,
    item_noun,
    normalized_clouds,
)
from inrflow_core.evaluation.metric_specs import MetricSpec as Chosen  # part of this file's face, as the next
from inrflow_core.evaluation.metric_specs import check_counts as check_counts
from inrflow_core.evaluation.metric_specs import check_points as check_points
from inrflow_core.evaluation.reference_stats import ReferenceStats
from inrflow_core.evaluation.results import EvaluatedSamples, Score
from inrflow_core.feature_networks._weights_file import find
from inrflow_core.geometry import point_clouds
from inrflow_core.metrics._inputs import (
    Clouds,
    CloudSpec,
    Distances,
    DistanceSpec,
    Features,
    FeatureSpec,
    InputSpec,
    MatchedFeatureSpec,
    Matches,
    MetricInputs,
    Structures,
    StructureSpec,
    features_of,
)
from inrflow_core.numerics.gaussian_stats import GaussianStats
from inrflow_core.sample_files.collection import SampleCollection
from inrflow_core.shards import manifest
from inrflow_core.storage import checksum

TRIALS = 16
"""Pictures that are timed to foretell the rest."""
FEW = 2
"""The same of clouds and of the pictures that they are drawn from, whose networks take seconds for each."""


class Evaluator:
    """Compares samples with one reference; what was gathered of samples is kept until others are asked about."""

    def __init__(self, reference: SampleCollection | ReferenceStats, setting: EvaluationSettings) -> None:
        self.reference, self.setting = reference, setting
        self._subject: EvaluatedSamples | None = None
        self._held: dict[Any, Any] = {}
        self._extractors: dict[str, Any] = {}
        self._digests: dict[Path, str] = {}
        self._verified: list[SampleCollection] = []
        self._reference_clouds: dict[tuple[str, int], np.ndarray] = {}

    def score(self, subject: EvaluatedSamples, metric: Chosen, together: Sequence[Chosen] = ()) -> Score:
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
            if metric.needs_reference and metric.full not in missing and isinstance(self.reference, ReferenceStats):
                if not isinstance(metric.need, FeatureSpec):
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
        needs: dict[tuple[str, ...], list[FeatureSpec]] = {}
        for metric in metrics:
            if not isinstance(metric.need, FeatureSpec) or isinstance(self.reference, ReferenceStats):
                raise UsageError(
                    f"`{metric.full}` keeps nothing of its reference", hint="name metrics of features, as in `fid`"
                )
            needs.setdefault(input_key(metric.need), []).append(metric.need)
        for alike in needs.values():
            outputs = tuple(sorted({need.output for need in alike}))
            assert isinstance(self.reference, SampleCollection)
            extraction = self._extract(self.reference, alike[0], outputs)
            for need in alike:
                if need.moments_suffice:
                    extraction.moments(need.output)

    def foretell(self, metrics: Sequence[Chosen], samples: int, points: int | None = None) -> list[tuple[str, float]]:
        """What gathering takes for so many samples, and the seconds for each, from a few that are timed.

        `points` is the size of each sample where they are clouds; None: that of the reference's.
        """
        found = []
        for key, need in {input_key(metric.need): metric.need for metric in metrics}.items():
            for features in features_of(need):
                found.append(
                    self._foretell_features(features, samples, is_matched=isinstance(need, MatchedFeatureSpec))
                )
            if isinstance(need, FeatureSpec | MatchedFeatureSpec):
                continue
            if isinstance(need, DistanceSpec) and isinstance(self.reference, SampleCollection):
                is_within = any(
                    isinstance(other.need, DistanceSpec) and other.need.is_within and input_key(other.need) == key
                    for other in metrics
                )
                found.append(self._foretell_distances(replace(need, is_within=is_within), samples, points))
        return found

    def _foretell_features(self, need: FeatureSpec, samples: int, *, is_matched: bool) -> tuple[str, float]:
        extractor = self._extractor(need.network)
        module = registry.find("feature_networks", need.network)
        few = FEW if is_matched or module.DOMAIN == "points" else TRIALS
        count, some = samples, np.zeros((few, 64, 64, 3), dtype=np.uint8)
        if isinstance(self.reference, SampleCollection) and self.reference.domain == module.DOMAIN:
            some = self.reference.read(range(min(few, self.reference.count))).values
            kept = FeatureCache(
                self.reference, (need.output,), need.form, self._folder_of(self.reference, need, (need.output,))
            )
            count += 0 if kept.is_done() else self.reference.count
        extractor(some[:1], tuple(module.OUTPUTS), need.form)
        start = time.perf_counter()
        extractor(some, tuple(module.OUTPUTS), need.form)
        each = (time.perf_counter() - start) / len(some)
        return f"{need.network}:{need.form} features of {count:,} {item_noun(module.DOMAIN)}", each * count

    def _foretell_distances(self, need: DistanceSpec, samples: int, points: int | None) -> tuple[str, float]:
        assert isinstance(self.reference, SampleCollection)
        whole = self.reference.shape[0]
        points = self.setting.points or min(points or whole, whole)
        some = normalized_clouds(self.reference, points, point_clouds.BOX, "references")
        count = len(some)
        total = samples * count
        if need.is_within:
            once = 2 if registry.find("distances", need.distance).IS_SYMMETRIC else 1
            total += (samples * (samples - 1) + count * (count - 1)) // once
        work = distance_matrix.PairwiseJob(None, self.setting.workers, self.setting.device)
        found = pairwise_distances.estimate_cost(some, some, need, work, pairs=total)
        return str(found), found.seconds

    def _evidence(self, subject: EvaluatedSamples, metric: Chosen, together: Sequence[Chosen]) -> MetricInputs:
        """What a metric judges by, gathered once for all those that judge by the like."""
        need, alike = metric.need, [other for other in together if input_key(other.need) == input_key(metric.need)]
        if isinstance(need, FeatureSpec):
            mine = feature_outputs(alike)
            theirs = feature_outputs([other for other in alike if other.needs_reference])
            held = self._once((input_key(need), mine, theirs), lambda: self._extracted(subject, need, mine, theirs))
            return self._features(held, need, is_compared=metric.needs_reference)
        if isinstance(need, DistanceSpec):
            is_within = any(isinstance(other.need, DistanceSpec) and other.need.is_within for other in alike)
            wanted = replace(need, is_within=is_within, is_paired=False)
            found = self._once(wanted, lambda: self._distances(subject, wanted))
            return replace(found, own=self._match(subject).places) if need.is_paired else found
        if isinstance(need, MatchedFeatureSpec):
            return self._once(need, lambda: self._matched(subject, need))
        if isinstance(need, CloudSpec):
            return self._once(need, lambda: Clouds(*self._clouds(subject, need.normalisation)))
        if isinstance(need, StructureSpec):
            return self._once(need, lambda: self._structures(subject, need.pairing))
        return self._once(need, lambda: sample_matching.image_pairs(subject.items, self._whole_reference(subject)))

    def structures(self, subject: EvaluatedSamples) -> Structures | None:
        """The proteins of the subject that was judged last, with their values; None where there are none."""
        found = [held for held in self._held.values() if isinstance(held, Structures)]
        return found[0] if found and self._subject is subject else None

    def _structures(self, subject: EvaluatedSamples, rule: str) -> Structures:
        assert isinstance(self.reference, SampleCollection)
        for items in (subject.items, self.reference):
            self._verify(items)
        return protein_matching.load_matched(subject.items, self.reference, rule)

    def _once(self, key: Any, gather: Callable[[], Any]) -> Any:
        if key not in self._held:
            self._held[key] = gather()
        return self._held[key]

    def _extracted(
        self, subject: EvaluatedSamples, need: FeatureSpec, mine: tuple[str, ...], theirs: tuple[str, ...]
    ) -> tuple[FeatureCache, FeatureCache | None]:
        """Features of the samples and of the reference's pictures, on the disk; none of the latter where none are needed."""
        of_samples = self._extract(subject.items, need, mine)
        if not theirs or isinstance(self.reference, ReferenceStats):
            return of_samples, None
        return of_samples, self._extract(self.reference, need, theirs)

    def _extract(self, items: SampleCollection, need: FeatureSpec, outputs: tuple[str, ...]) -> FeatureCache:
        weights = self._weights_digest(need)
        told = {"network": need.network, "weights": weights or "", "items": items.digest, "split": items.split or ""}
        told["shape"] = json.dumps(items.shape)
        extraction = FeatureCache(items, outputs, need.form, self._folder_of(items, need, outputs), told)
        if not extraction.is_done():
            self._verify(items)
            name = f"{need.network} features of {items.source.name}{f', {items.split}' if items.split else ''}"
            with self.setting.watch(name, item_noun(items.domain)) as progress:
                extraction.run(self._extractor(need.network), progress)
        return extraction

    def _features(
        self, held: tuple[FeatureCache, FeatureCache | None], need: FeatureSpec, *, is_compared: bool
    ) -> Features:
        mine, theirs = held
        samples = mine.rows(need.output)
        if not is_compared:
            return Features(samples, samples[:0])
        if theirs is None:
            assert isinstance(self.reference, ReferenceStats)
            return Features(samples, self.reference.find(need, self._weights_digest(need)))
        if need.moments_suffice and theirs.items.count > MAX_STORED_ROWS:
            return Features(samples, theirs.moments(need.output))
        return Features(samples, theirs.rows(need.output))

    def _folder_of(self, items: SampleCollection, need: FeatureSpec, outputs: tuple[str, ...]) -> Path:
        """Where features are kept: those of shards beside them, for every later evaluation, unless nothing can be added."""
        weights = (self._weights_digest(need) or "")[:12]
        name = "-".join(part for part in (need.network, need.form, weights, items.split, items.digest[:16]) if part)
        beside = items.source / STATISTICS / name
        is_there = (items.source / manifest.NAME).is_file() and (
            os.access(items.source, os.W_OK) or FeatureCache(items, outputs, need.form, beside).is_done()
        )
        return beside if is_there else self.setting.folder / "features" / name

    def _verify(self, items: SampleCollection) -> None:
        """Compare shards with their digests, once."""
        if items not in self._verified:
            items.verify()
            self._verified.append(items)

    def _extractor(self, network: str) -> Any:
        if network not in self._extractors:
            module = registry.find("feature_networks", network)
            self._extractors[network] = module.load(self._weights(network), self.setting.device)
        return self._extractors[network]

    def _distances(self, subject: EvaluatedSamples, need: DistanceSpec) -> Distances:
        samples, reference = self._clouds(subject, need.normalisation)
        work = distance_matrix.PairwiseJob(self.setting.folder / "distances", self.setting.workers, self.setting.device)
        with self.setting.watch(f"distances by {need.distance}", "pairs") as progress:
            return pairwise_distances.compute_distances(
                samples, reference, need, work, progress=progress, say=self.setting.say
            )

    def _clouds(
        self, subject: EvaluatedSamples, protocol: str
    ) -> tuple[Float64[np.ndarray, "N P 3"], Float64[np.ndarray, "R P 3"]]:
        """Samples and reference with one number of points, in the units of a protocol."""
        assert isinstance(self.reference, SampleCollection)
        points = self.setting.points or min(subject.items.shape[0], self.reference.shape[0])
        for items in (subject.items, self.reference):
            self._verify(items)
        if (protocol, points) not in self._reference_clouds:
            self._reference_clouds[protocol, points] = normalized_clouds(self.reference, points, protocol, "references")
        samples = normalized_clouds(subject.items, points, protocol, "samples")
        return samples, self._reference_clouds[protocol, points]

    def _weights_digest(self, need: InputSpec) -> str | None:
        """sha256 of the weights that a need's network takes; None where it needs none.

        Raises:
            MissingError: they are absent.
        """
        if not isinstance(need, FeatureSpec) or registry.find("feature_networks", need.network).WEIGHTS is None:
            return None
        path = self._weights(need.network)
        assert path is not None
        if path not in self._digests:
            self._digests[path] = checksum.file_digest(path)
        return self._digests[path]

    def weights_told(self, metrics: Sequence[Chosen]) -> str:
        """The weights that some metrics rest on, in words to stand behind others; nothing where they need none."""
        digests = {self._weights_digest(need) for metric in metrics for need in features_of(metric.need)} - {None}
        return "".join(f", weights {digest[:16]}" for digest in sorted(str(digest) for digest in digests))

    def _weights(self, network: str) -> Path | None:
        if registry.find("feature_networks", network).WEIGHTS is None:
            return None
        return find(network, self.setting.weights, self.setting.weights_folder)

    def _note(self, metric: Chosen, evidence: MetricInputs) -> str | None:
        """What the metric and its network have to say beside the number."""
        notes = []
        if hasattr(metric.module, "remark"):
            notes.append(metric.module.remark(evidence, metric.protocol))
        notes += [self._extractor(need.network).note(need.form) for need in features_of(metric.need)]
        return "; ".join(note for note in notes if note) or None

    def _match(self, subject: EvaluatedSamples) -> sample_matching.SampleMatch:
        """Of each sample its own reference."""
        return self._once(
            "match", lambda: sample_matching.match_to_reference(subject.items, self._whole_reference(subject))
        )

    def _matched(self, subject: EvaluatedSamples, need: MatchedFeatureSpec) -> Matches:
        """Features of the samples, of their own references, and of the pictures of both."""
        reference = self._whole_reference(subject)
        if subject.items.count > MAX_STORED_ROWS:
            raise UsageError(f"{subject.items.count:,} samples are too many", hint=f"give {MAX_STORED_ROWS:,} at most")
        match = self._match(subject)
        found = [self._extract(subject.items, need.clouds, (need.clouds.output,)).rows(need.clouds.output)]
        for features, (items, whose) in (
            (need.clouds, sample_matching.reference_clouds(match, reference)),
            (need.pictures, sample_matching.condition_images(match, reference, self.setting.pictures)),
        ):
            verified = items.as_verified() if items.source == reference.source else items
            found.append(self._extract(verified, features, (features.output,)).rows(features.output)[whose])
        return Matches(*found)

    def _whole_reference(self, subject: EvaluatedSamples) -> SampleCollection:
        """The reference's items, read through like the subject's.

        Raises:
            UsageError: only their statistics are known.
        """
        if isinstance(self.reference, ReferenceStats):
            raise UsageError(
                f"`{self.reference.source}` holds statistics, and this metric compares picture by picture",
                hint="give the pictures themselves",
            )
        for items in (subject.items, self.reference):
            self._verify(items)
        return self.reference


def _interval(metric: Chosen, evidence: MetricInputs, value: float) -> tuple[float, float] | None:
    """95 % confidence, by the metric's own short cut where it has one."""
    values = None
    if hasattr(metric.module, "jackknife_values") and jackknife.min_group_items(evidence) >= 2 * jackknife.NUM_GROUPS:
        values = metric.module.jackknife_values(evidence, metric.protocol, jackknife.NUM_GROUPS)
    found = jackknife.jackknife_interval(
        lambda part: metric.module.compute(part, metric.protocol), evidence, value=value, values=values
    )
    return None if found is None else (found.low, found.high)


def _counts(evidence: MetricInputs) -> tuple[int, int]:
    """Samples and items of the reference that a value rests on; 0 of a reference that nobody counted or looked at."""
    if isinstance(evidence, Distances):
        return evidence.across.shape
    if isinstance(evidence, Structures):
        return sum(len(protein.samples) for protein in evidence.proteins), len(evidence.proteins)
    reference = evidence.reference
    return len(evidence.samples), reference.count if isinstance(reference, GaussianStats) else len(reference)
