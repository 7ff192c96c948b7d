"""Metrics of the EMA weights during training, by the preset's table [eval].

Samples, reference and metrics are those of `inrflow eval`. The values depend on the weights alone, and an evaluation does not
change the training.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from inrflow_core.config.training import EvalConfig
from inrflow_core.errors import InrflowError, IntegrityError, MissingError, UsageError, did_you_mean
from inrflow_core.runs import best, checkpoint_manifest
from inrflow_core.runs.best import Best
from inrflow_core.shards.shard_dataset import ShardDataset
from inrflow_core.storage import atomic_write, typed_json
from inrflow_core.training.run_folder import FOLDER

if TYPE_CHECKING:
    from inrflow_core.config.preset import Preset
    from inrflow_core.evaluation.evaluator import Evaluator
    from inrflow_core.evaluation.metric_specs import MetricSpec
    from inrflow_core.evaluation.results import EvaluatedSamples
    from inrflow_core.metrics._inputs import MatchedBy
    from inrflow_core.models import Model
    from inrflow_core.sample_files.collection import SampleCollection, ShardCollection
    from inrflow_core.sampling.reference_inputs import ReferenceSamplingPlan

REFERENCE_FILES = "whole"
"""A file in that folder. It lists what the first evaluation without an error left there, the reference's cache among it."""
VIEWS = 8
"""Views of each scene that are rendered, evenly spaced."""
HELD_OUT = ("val", "test")
"""Reference splits of clouds if [data] names no held-out split; `test` comes last, as it is for the final evaluation."""


@dataclass(frozen=True)
class EvalResult:
    """The metrics of one evaluation."""

    values: dict[str, float | None]
    """By the full name of the metric; None if it could not be computed."""
    notes: tuple[str, ...]
    """Why metrics could not be computed."""


@dataclass(frozen=True)
class LoggedEval:
    """A line of log.jsonl with an evaluation."""

    step: int
    eval: dict[str, float | None]


@dataclass(frozen=True)
class Evaluation:
    """The evaluations of one run."""

    config: EvalConfig
    metrics: Sequence[MetricSpec]
    best: MetricSpec
    """The metric that decides which checkpoint is the best."""
    reference: SampleCollection
    evaluator: Evaluator
    out: Path
    """The run's folder."""
    plan: ReferenceSamplingPlan | None = None
    """The reference items that condition the samples; None for models without such a condition."""
    scenes: ShardCollection | None = None
    """The scenes of the reference that are rendered, each in `VIEWS` views; None for other domains."""

    @property
    def folder(self) -> Path:
        """The folder of cached features and distances."""
        return self.evaluator.settings.folder

    @property
    def split(self) -> str:
        """The split of the data of the reference."""
        return self.reference.split or ""

    @property
    def by(self) -> str:
        """Samples and reference as text: values of a metric are comparable if this is equal."""
        first, count = self.config.seed, self.num
        samples = f"seeds {first} to {first + count - 1}"
        if self.plan is not None:
            from inrflow_core.sampling import reference_inputs

            views = "view 0 of each" if self.plan.has_views else "each"
            seeds = samples if self.plan.has_views else f"seed {first}"
            noun = reference_inputs.noun_of(self.plan.kind)
            nouns = "pictures" if noun == "images" else noun  # best.json of earlier runs holds this text
            samples = f"{seeds}, {count:,} {nouns}, {views} once,"
        if self.scenes is not None:
            samples += f", {count:,} scenes in {VIEWS} views each"
        return (
            f"{samples} against {self.reference.count:,} of `{self.split}` "
            f"({self.reference.digest[:16]}){self.evaluator.weights_provenance(self.metrics)}"
        )

    @property
    def num(self) -> int:
        """Samples of an evaluation; of scenes, the number of scenes."""
        if self.scenes is not None:
            return self.scenes.count
        return self.config.num if self.plan is None else len(self.plan)

    def is_due(self, step: int, last: int) -> bool:
        """Whether `step` of a run of `last` steps is evaluated."""
        return step % self.config.every == 0 or step == last

    def estimate_seconds(self) -> float:
        """Seconds of the first evaluation without sampling, from a few timed comparisons; nothing is cached.

        Raises:
            UsageError: a metric cannot be computed against such a reference.
            IntegrityError: the reference is damaged.
        """
        from inrflow_core.evaluation import evaluator

        rehearsal = evaluator.Evaluator(self.reference, self.evaluator.settings)
        return sum(seconds for _, seconds in rehearsal.estimate_cost(self.metrics, self.num))

    def find(self, model: Model) -> EvalResult:
        """The metrics of a model's samples; a metric that cannot be computed is None, with a note."""
        values: dict[str, float | None] = {metric.full: None for metric in self.metrics}
        notes: dict[str, None] = {}
        try:
            sample_sets = self._sample_sets(model)
        except (InrflowError, torch.OutOfMemoryError) as error:
            return EvalResult(values, (_message(error),))
        with self._removing_sample_files():
            for samples, metric in ((one, metric) for one in sample_sets for metric in self.metrics if one.has(metric)):
                try:
                    values[metric.full] = self.evaluator.score(samples, metric, self.metrics).value
                except (InrflowError, torch.OutOfMemoryError) as error:
                    notes[_message(error)] = None
        if not notes:
            self._record_reference_files()
        return EvalResult(values, tuple(notes))

    def record(self, result: EvalResult, of: str, best: Best | None) -> dict[str, Any]:
        """The record of an evaluation in the log, without its step."""
        notes = {"note": "; ".join(result.notes)} if result.notes else {}
        return {"eval": result.values, "eval_of": of, "eval_by": self.by, "best_step": best and best.step, **notes}

    def better(self, step: int, result: EvalResult, than: Best | None) -> Best | None:
        """The best checkpoint after `step`: this step if its value is better than that of `than`, else `than`."""
        value = result.values[self.best.full]
        if value is None or not np.isfinite(value):
            return than
        this = Best(step, self.best.full, float(value), self.by)
        if than is None or (than.metric, than.by) != (this.metric, this.by):
            return this
        is_better = value > than.value if self.best.metric.higher_is_better else value < than.value
        return this if is_better else than

    def restored(self, step: int) -> Best | None:
        """The best logged step up to `step` whose checkpoint exists."""
        best = None
        saved_steps = set(checkpoint_manifest.complete_steps(self.out))
        for record in _records(self.out):
            if record.get("eval_by") == self.by and record["step"] <= step and record["step"] in saved_steps:
                values = {self.best.full: record["eval"].get(self.best.full)}
                best = self.better(record["step"], EvalResult(values, ()), best)
        return best

    def _sample_sets(self, model: Model) -> list[EvaluatedSamples]:
        """The samples; of scenes, views of drawn and of encoded ones, as the metrics need them. Raises as `_sample`."""
        from inrflow_core.evaluation import results
        from inrflow_core.sampling import novel_views

        if self.scenes is None:
            return [results.EvaluatedSamples(self.out.name, self._sample(model))]
        sample_sets = []
        kinds: set[MatchedBy] = {metric.inputs.matched_by for metric in self.metrics}
        for matched_by in sorted(kinds):
            plan = novel_views.plan_views(
                self.scenes, is_encoded=matched_by == "view", seed=self.config.seed, most_views=VIEWS
            )
            with torch.no_grad():
                views = novel_views.render_in_memory(model, plan, self.out)
            sample_sets.append(results.EvaluatedSamples(self.out.name, views, matched_by=matched_by))
        return sample_sets

    def _sample(self, model: Model) -> SampleCollection:
        """Samples with the preset's seeds.

        Raises:
            Diverged: a value is not finite.
        """
        from inrflow_core.sampling import labels, reference_inputs, sample
        from inrflow_core.sampling.request import SampleRequest

        seeds = range(self.config.seed, self.config.seed + self.num)
        with torch.no_grad():
            if self.plan is not None:
                return reference_inputs.sample_from_reference(model, self.plan, self.out)
            counts = {} if self.config.uniform_labels else self.reference.class_counts()
            # Models of crops encode smaller images than those that they are trained on and compared with.
            shape = self.reference.shape
            size = (
                (shape[0], shape[1]) if model.domain.HAS_WINDOWS and shape != model.domain.output_spec().shape else None
            )
            request = SampleRequest(seeds, labels.resolve_labels(model, seeds, None, counts), size)
            return sample.sample_in_memory(model, [request], self.out, self.reference.normalization)

    @contextmanager
    def _removing_sample_files(self) -> Iterator[None]:
        """After the block, remove cached files of these samples; those of the reference stay for later evaluations.

        A file that the first complete evaluation did not leave behind belongs to the samples.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        mark = self.folder / REFERENCE_FILES
        earlier = set(mark.read_text(encoding="utf-8").splitlines()) if mark.is_file() else None
        try:
            yield
        finally:
            present = {str(path.relative_to(self.folder)): path for path in self.folder.glob("*/*")}
            for path in [path for name, path in present.items() if earlier is not None and name not in earlier]:
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    def _record_reference_files(self) -> None:
        """List the files after the first complete evaluation: those that later evaluations add belong to their samples."""
        mark = self.folder / REFERENCE_FILES
        if not mark.is_file():
            names = sorted(str(path.relative_to(self.folder)) for path in self.folder.glob("*/*"))
            with atomic_write.atomic_write(mark) as beside:
                beside.write_text("\n".join(names), encoding="utf-8")


def prepare(preset: Preset, shards: ShardDataset, out: Path, device: str) -> Evaluation | None:
    """The evaluations of a preset; None if it has no table [eval]. Nothing is computed or written.

    Raises:
        UsageError: a metric is unknown, samples are too few, clips too short or too long, or the data lack the split.
        MissingError: the weights of a feature network are absent.
    """
    if preset.eval is None:
        return None
    from inrflow_core.evaluation import evaluator, gather, metric_specs
    from inrflow_core.sampling import reference_inputs

    config, domain, kind = preset.eval.config, preset.domain.name, reference_inputs.condition_kind(preset)
    default_metrics = [*preset.domain.module.Domain.DEFAULT_METRICS, *reference_inputs.metrics_of(kind)]
    metrics = metric_specs.parse_metrics(config.metrics or default_metrics, domain)
    if config.best is None:
        best = metrics[0]
    else:
        (best,) = metric_specs.parse_metrics([config.best], domain)
        if best.full not in {metric.full for metric in metrics}:
            raise UsageError(
                f"[eval] `best` is `{config.best}`, and `metrics` does not name it",
                hint="add it there, or choose of " + ", ".join(f"`{metric.full}`" for metric in metrics),
            )
    reference = _reference(preset, shards)
    plan = None if kind is None else reference_inputs.plan_from_reference(kind, reference, config.num, seed=config.seed)
    scenes = _scenes(preset, reference)
    num = len(plan) if plan is not None else config.num if scenes is None else scenes.count
    own_reference = {"view"} if scenes is not None else set[str]()
    if kind is not None and reference_inputs.has_views(kind):
        own_reference.add("condition")
    for metric in metrics:
        _check_metric(metric, num, reference, own_reference)
    metric_specs.check_frames(metrics, f"[eval] the clips of {reference.display_name}", reference.shape)
    identity = " ".join([reference.digest, reference.split or "", *(metric.full for metric in metrics)])
    folder = out / FOLDER / hashlib.sha256(identity.encode()).hexdigest()[:16]
    settings = gather.EvaluationSettings(
        folder, weights_folder=_weights(config), points=_points(preset, reference), device=device
    )
    scorer = evaluator.Evaluator(reference, settings)
    for error in scorer.missing(metrics).values():
        raise error
    return Evaluation(config, metrics, best, reference, scorer, out, plan, scenes)


def restore_best(evaluation: Evaluation | None, out: Path, step: int) -> Best | None:
    """The best checkpoint of a run that resumes after `step`; best.json is updated.

    best.json is out of date after a kill between a checkpoint and its record, or if a checkpoint was removed by hand. The log
    is then used instead.
    """
    try:
        recorded = best.read_best(out)
    except IntegrityError:
        recorded = None
    if recorded is not None and (recorded.step > step or recorded.step not in checkpoint_manifest.complete_steps(out)):
        recorded = None
    restored = (None if evaluation is None else evaluation.restored(step)) or recorded
    best.record_best(out, restored)
    for mark in (out / FOLDER).glob(f"*/{REFERENCE_FILES}"):
        if evaluation is not None and mark.parent != evaluation.folder:
            shutil.rmtree(mark.parent)  # of metrics or a reference that the preset no longer names
    return restored


def _reference(preset: Preset, shards: ShardDataset) -> SampleCollection:
    """The reference: sets of the preset's classes, of one split of its data.

    Raises:
        UsageError: the split is absent, or has fewer than 2 sets of these classes.
    """
    from inrflow_core.sample_files import readers, subsets

    assert preset.eval is not None
    config, data = preset.eval.config, preset.data.config
    held_out = [data.held_out] if data.held_out else [name for name in HELD_OUT if name in shards.splits]
    learns_split = preset.domain.module.Domain.REFERENCE_SPLITS[0] == "train"
    split = config.split or (data.train if learns_split else [*held_out, data.train][0])
    if split not in shards.splits:
        raise UsageError(
            f"the shards in `{shards.folder}` have no split `{split}` for [eval]",
            hint=did_you_mean(split, shards.splits),
        )
    reference = readers.open_collection(shards.folder, split)
    if data.classes:
        reference = subsets.filter_classes(reference, data.classes)
    if config.reference is not None:
        reference = subsets.evenly_spaced_items(reference, config.reference)
    if reference.count < 2:
        raise UsageError(
            f"the split `{split}` of the shards in `{shards.folder}` has {reference.count} to compare with, and [eval] needs 2",
            hint=f"they have {', '.join(shards.splits)}: `--set eval.split=NAME`",
        )
    return reference


def _points(preset: Preset, reference: SampleCollection) -> int | None:
    """Points of each cloud that metrics compare; None for other domains. The estimate of the time needs it before sampling."""
    domain = preset.domain.module.Domain(preset.domain.config)
    if domain.FILES is None or domain.FILES.has_one_shape:
        return None
    return min(domain.output_spec().shape[0], reference.shape[0])


def _scenes(preset: Preset, reference: SampleCollection) -> ShardCollection | None:
    """The scenes that samples are rendered as; None for other domains.

    Raises:
        UsageError: the shards have no cameras, or a scene has a single view.
    """
    from inrflow_core.sample_files import scene_views, subsets
    from inrflow_core.sampling import novel_views

    if not preset.domain.module.Domain.HAS_CAMERAS or preset.eval is None:
        return None
    scenes = scene_views.check_posed(subsets.evenly_spaced_items(reference, preset.eval.config.num))
    novel_views.plan_views(scenes, is_encoded=True, most_views=1)
    return scenes


def _check_metric(metric: MetricSpec, num: int, reference: SampleCollection, own_reference: Collection[str]) -> None:
    """Raise UsageError unless a metric can be computed from `num` samples and the reference.

    `own_reference` says how each sample can find a reference of its own (`MatchedBy`).

    Raises:
        UsageError: the metric needs paired references, or more samples or reference items.
    """
    matched_by = metric.inputs.matched_by
    if matched_by == "mesh":
        raise UsageError(
            f"[eval] `{metric.full}` is of meshes, which are not drawn while a model trains",
            hint="take it out of `metrics`, and compute it by `inrflow eval`",
        )
    if matched_by and matched_by not in own_reference:
        raise UsageError(
            f"[eval] `{metric.full}` compares each sample with its own reference, and new samples have none",
            hint="take it out of `metrics`",
        )
    if metric.inputs.samples_per_item is not None:
        raise UsageError(
            f"[eval] `{metric.full}` compares several samples of one item, and one of each is drawn while a model trains",
            hint="take it out of `metrics`, and compute it by `inrflow eval`",
        )
    minimum = metric.metric.min_items
    for name, count in {"num": num, "reference": reference.count}.items():
        if count < minimum:
            raise UsageError(
                f"[eval] `{metric.full}` needs {minimum:,} or more, and `{name}` gives it {count:,}",
                hint=f"give more, as with `--set eval.{name}={minimum}`, or take it out of `metrics`",
            )


def _weights(config: EvalConfig) -> Path | None:
    """The folder of feature networks' weights.

    Raises:
        MissingError: the folder does not exist.
    """
    if config.weights is None:
        return None
    folder = Path(config.weights)
    if not folder.is_dir():
        raise MissingError(
            f"the folder of weights `{folder}` that [eval] names does not exist", hint="`--set eval.weights=FOLDER`"
        )
    return folder


def _message(error: InrflowError | torch.OutOfMemoryError) -> str:
    return error.message if isinstance(error, InrflowError) else "the GPU has no room for it"


def _records(out: Path) -> Iterator[dict[str, Any]]:
    """The evaluations in a run's log; earlier names of metrics are replaced by the current ones."""
    log = out / "log.jsonl"
    for record in typed_json.json_lines(log):
        if "eval" in record:
            typed_json.typed(record, LoggedEval, f"a line of `{log}`", hint="remove that line", extra=True)
            yield record | {"eval": {best.present_metric(name): value for name, value in record["eval"].items()}}
