"""Compute metrics of samples against a reference; inputs that several metrics share are gathered once.

metrics = parse_metrics(["fid:random", "kid:random"], "image")
evaluator = Evaluator(open_collection(Path("shards/mnist"), "train"), EvaluationSettings(Path("results")))
for metric in metrics:
    print(evaluator.score(EvaluatedSamples("mine", open_collection(Path("mine.h5"))), metric, metrics))
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from inrflow_core.domains._contract import domain_class
from inrflow_core.errors import MissingError, UsageError
from inrflow_core.evaluation import estimate, intervals, metric_specs
from inrflow_core.evaluation.gather import EvaluationSettings, Gatherer
from inrflow_core.evaluation.metric_specs import MetricSpec
from inrflow_core.evaluation.results import EvaluatedSamples, Score
from inrflow_core.metrics._inputs import Cost, InputSpec, MetricInputs, ReferenceStats
from inrflow_core.metrics._view_inputs import ViewScores
from inrflow_core.sample_files import scene_views
from inrflow_core.sample_files.collection import SampleCollection

T = TypeVar("T")


class Evaluator:
    """Compares samples with one reference; inputs of samples are cached until other samples are scored."""

    def __init__(self, reference: SampleCollection | ReferenceStats, settings: EvaluationSettings) -> None:
        self.reference, self.settings = reference, settings
        self._context = Gatherer(settings)
        self._samples: EvaluatedSamples | None = None
        self._items: dict[str, dict[str, float]] = {}
        self._views: SampleCollection | None = None

    def verify(self, items: SampleCollection) -> None:
        """Compare every byte of shards with the recorded digests, once; raises IntegrityError, naming what is damaged."""
        self._context.verify(items)

    def score(self, samples: EvaluatedSamples, metric: MetricSpec, all_metrics: Sequence[MetricSpec] = ()) -> Score:
        """The value of one metric.

        Args:
            all_metrics: all metrics of these samples; inputs that several share are gathered once.

        Raises:
            MissingError: the weights of its network are absent.
            UsageError: it cannot be computed from these items.
            IntegrityError: an item or the weights are damaged.
        """
        if self._samples is not samples:
            self._context.forget_samples()
            self._samples, self._items = samples, {}
        context = self._context.sharing(_alike(metric.inputs, [metric, *all_metrics]))
        items = scene_views.as_images(samples.items) if _is_of_views(metric, samples.items) else samples.items
        reference = self._reference_of(metric) if samples.originals is None else samples.originals
        inputs = metric.inputs.gather(items, reference, context)
        with self.settings.announce(f"computing `{metric.full}` and its interval"):
            value = metric.compute(inputs)
            interval = intervals.metric_interval(metric, inputs, value)
            if items := metric.item_values(inputs):
                self._items[metric.full] = items
        num_samples, num_references = inputs.counts()
        specs = metric.inputs.features
        return Score(
            metric=metric.full,
            title=metric.metric.title,
            protocol=metric.protocol,
            value=value,
            unit=metric.unit,
            higher_is_better=metric.metric.higher_is_better,
            interval=interval,
            samples=num_samples,
            reference=num_references or None,
            features=", ".join(spec.protocol for spec in specs) or None,
            weights=", ".join(filter(None, (context.weights_digest(spec.network) for spec in specs))) or None,
            note=self._note(metric, inputs),
        )

    def cached(self, samples: EvaluatedSamples, kind: type[T]) -> T | None:
        """The inputs of a class that were gathered for these samples last, or None."""
        return self._context.cached(kind) if self._samples is samples else None

    def cached_views(self, samples: EvaluatedSamples, metrics: Sequence[MetricSpec]) -> dict[str, dict[str, float]]:
        """The mean of each scene by the full names of the metrics of novel views that were computed of these samples."""
        assert self._samples is samples
        gathered = {metric.full: self._context.gathered(metric.inputs.key()) for metric in metrics}
        return {name: inputs.per_scene() for name, inputs in gathered.items() if isinstance(inputs, ViewScores)}

    def cached_items(self, samples: EvaluatedSamples) -> dict[str, dict[str, float]]:
        """The value of each item by the full names of the metrics of single items that were computed of these samples."""
        assert self._samples is samples
        return dict(self._items)

    def check(self, metrics: Sequence[MetricSpec]) -> None:
        """Raise UsageError unless the reference fits every metric; metrics whose weights are absent are skipped."""
        missing = self.missing(metrics)
        for metric in metrics:
            if metric.full not in missing:
                metric.inputs.check(self._reference_of(metric), metric.full, self._context)

    def missing(self, metrics: Sequence[MetricSpec]) -> dict[str, MissingError]:
        """The metrics whose weights are absent, by full name, with the error and its remedy."""
        errors = {}
        for metric in metrics:
            try:
                for spec in metric.inputs.features:
                    self._context.weights_digest(spec.network)
            except MissingError as error:
                other = metric_specs.without_weights(metric.name)
                hint = f"{error.hint};\n`{other}` needs none" if other else error.hint
                errors[metric.full] = MissingError(error.message, hint=hint)
        return errors

    def cache_reference_stats(self, metrics: Sequence[MetricSpec]) -> None:
        """Compute and cache the reference features of metrics, for every later evaluation.

        Raises:
            MissingError: the weights of a network are absent.
            UsageError: a metric has nothing to cache.
        """
        for metric in metrics:
            if not metric.inputs.is_cacheable or isinstance(self.reference, ReferenceStats):
                raise UsageError(
                    f"`{metric.full}` has no reference features to cache", hint="name metrics of features, as in `fid`"
                )
        for metric in metrics:
            metric.inputs.cache(self._reference_of(metric), self._context.sharing(_alike(metric.inputs, metrics)))

    def estimate_cost(self, metrics: Sequence[MetricSpec], samples: int, points: int | None = None) -> list[Cost]:
        """The cost of gathering inputs for a number of samples and of their points (`estimate.estimate_cost`)."""
        if isinstance(self.reference, ReferenceStats):
            return estimate.estimate_cost(self._context, self.reference, metrics, samples, points)
        of_views = [metric for metric in metrics if _is_of_views(metric, self.reference)]
        others = [metric for metric in metrics if metric not in of_views]
        costs = estimate.estimate_cost(self._context, self.reference, others, samples, points)
        if of_views:
            views = self._reference_of(of_views[0])
            assert not isinstance(views, ReferenceStats)
            num_views = samples * views.count // self.reference.count
            costs += estimate.estimate_cost(self._context, views, of_views, num_views, points)
        return costs

    def weights_provenance(self, metrics: Sequence[MetricSpec]) -> str:
        """The weights that some metrics use, as a suffix for a sentence; empty if they need none."""
        digests = {self._context.weights_digest(spec.network) for metric in metrics for spec in metric.inputs.features}
        return "".join(f", weights {digest[:16]}" for digest in sorted(filter(None, digests)))

    def _reference_of(self, metric: MetricSpec) -> SampleCollection | ReferenceStats:
        """What a metric compares samples with: the reference, or the views of its scenes as images."""
        if isinstance(self.reference, ReferenceStats) or not _is_of_views(metric, self.reference):
            return self.reference
        if self._views is None:
            self._views = scene_views.as_images(self.reference)
        return self._views

    def _note(self, metric: MetricSpec, inputs: MetricInputs) -> str | None:
        """The remarks of a metric and of its networks."""
        notes = [metric.metric.remark(inputs, metric.protocol)]
        notes += [self._context.extractor(spec.network).note(spec.preprocessing) for spec in metric.inputs.features]
        return "; ".join(note for note in notes if note) or None


def _alike(spec: InputSpec, metrics: Sequence[MetricSpec]) -> list[InputSpec]:
    """The specs of the metrics whose inputs are gathered together with those of one of them."""
    return [metric.inputs for metric in metrics if metric.inputs.key() == spec.key()]


def _is_of_views(metric: MetricSpec, items: SampleCollection) -> bool:
    """Whether a metric compares the views of scenes as images."""
    return metric.metric.domain == domain_class(items.domain).VIEW_DOMAIN
