"""Metrics of the average's weights while they are trained: what `[eval]` of a preset may say, and the work.

Samples, reference and metrics are those of `inrflow eval`. What an evaluation finds depends on the weights alone, and
it changes nothing of the training.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from inrflow_core.errors import InrflowError, IntegrityError, MissingError, UsageError, did_you_mean
from inrflow_core.runs import best, checkpoint_manifest
from inrflow_core.runs.best import Best
from inrflow_core.shards.shard_dataset import ShardDataset
from inrflow_core.storage import atomic_write, typed_json

if TYPE_CHECKING:
    from inrflow_core.config.preset import Preset
    from inrflow_core.evaluation.evaluator import Evaluator
    from inrflow_core.evaluation.metric_specs import MetricSpec
    from inrflow_core.models import Model
    from inrflow_core.sample_files.collection import SampleCollection
    from inrflow_core.sampling.reference_inputs import ReferenceSamplingPlan
from inrflow_core.config.training import EvalConfig
from inrflow_core.training.run_folder import FOLDER

WHOLE = "whole"
"""Names in that folder what an evaluation left there that found every value: the reference's part is among it."""
HELD_OUT = ("val", "test")
"""Reference splits of clouds where [data] names no held-out one: `test` is better left for the end."""


@dataclass(frozen=True)
class EvalResult:
    """What an evaluation found."""

    values: dict[str, float | None]
    """By a metric's full name; None where it could not be computed."""
    notes: tuple[str, ...]
    """Why not."""


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
    """What samples are drawn from, where the model draws from items of the reference."""

    @property
    def folder(self) -> Path:
        """Where features and distances are kept."""
        return self.evaluator.settings.folder

    @property
    def split(self) -> str:
        """The split of the data of the reference."""
        return self.reference.split or ""

    @property
    def by(self) -> str:
        """What values of a metric have in common that can be compared."""
        first, count = self.config.seed, self.num
        samples = f"seeds {first} to {first + count - 1}"
        if self.plan is not None:
            views = "view 0 of each" if self.plan.has_views else "each"
            seeds = samples if self.plan.has_views else f"seed {first}"
            nouns = "pictures" if self.plan.has_views else "sequences"  # best.json of earlier runs holds this text
            samples = f"{seeds}, {count:,} {nouns}, {views} once,"
        return (
            f"{samples} against {self.reference.count:,} of `{self.split}` "
            f"({self.reference.digest[:16]}){self.evaluator.weights_provenance(self.metrics)}"
        )

    @property
    def num(self) -> int:
        """Samples of an evaluation."""
        return self.config.num if self.plan is None else len(self.plan)

    def is_due(self, step: int, last: int) -> bool:
        """Whether a step of a run of `last` steps is evaluated."""
        return step % self.config.every == 0 or step == last

    def estimate_seconds(self) -> float:
        """Seconds of the first evaluation beside the drawing, from a few comparisons that are timed; nothing is kept.

        Raises:
            UsageError: a metric cannot be taken of such a reference.
            IntegrityError: the reference is damaged.
        """
        from inrflow_core.evaluation import evaluator

        rehearsal = evaluator.Evaluator(self.reference, self.evaluator.settings)
        return sum(seconds for _, seconds in rehearsal.estimate_cost(self.metrics, self.num))

    def find(self, model: Model) -> EvalResult:
        """The metrics of a model's samples; one that cannot be computed is None and has a note."""
        from inrflow_core.evaluation import results

        values: dict[str, float | None] = {metric.full: None for metric in self.metrics}
        notes: dict[str, None] = {}
        try:
            subject = results.EvaluatedSamples(self.out.name, self._drawn(model))
        except (InrflowError, torch.OutOfMemoryError) as error:
            return EvalResult(values, (_message(error),))
        with self._tidied():
            for metric in self.metrics:
                try:
                    values[metric.full] = self.evaluator.score(subject, metric, self.metrics).value
                except (InrflowError, torch.OutOfMemoryError) as error:
                    notes[_message(error)] = None
        if not notes:
            self._remember()
        return EvalResult(values, tuple(notes))

    def record(self, result: EvalResult, of: str, best: Best | None) -> dict[str, Any]:
        """The record of an evaluation, beside its step."""
        notes = {"note": "; ".join(result.notes)} if result.notes else {}
        return {"eval": result.values, "eval_of": of, "eval_by": self.by, "best_step": best and best.step, **notes}

    def better(self, step: int, result: EvalResult, than: Best | None) -> Best | None:
        """The best after a step: a new one, where its value is better than `than`, else `than`."""
        value = result.values[self.best.full]
        if value is None or not np.isfinite(value):
            return than
        now = Best(step, self.best.full, float(value), self.by)
        if than is None or (than.metric, than.by) != (now.metric, now.by):
            return now
        is_better = value > than.value if self.best.metric.higher_is_better else value < than.value
        return now if is_better else than

    def restored(self, step: int) -> Best | None:
        """The best logged step up to `step` whose checkpoint exists."""
        best = None
        there = set(checkpoint_manifest.complete_steps(self.out))
        for record in _records(self.out):
            if record.get("eval_by") == self.by and record["step"] <= step and record["step"] in there:
                values = {self.best.full: record["eval"].get(self.best.full)}
                best = self.better(record["step"], EvalResult(values, ()), best)
        return best

    def _drawn(self, model: Model) -> SampleCollection:
        """Samples of the preset's seeds.

        Raises:
            Diverged: they left the finite numbers.
        """
        from inrflow_core.sampling import labels, reference_inputs, sample
        from inrflow_core.sampling.request import SampleRequest

        seeds = range(self.config.seed, self.config.seed + self.num)
        with torch.no_grad():
            if self.plan is not None:
                return reference_inputs.sample_from_reference(model, self.plan, self.out)
            request = SampleRequest(seeds, labels.resolve_labels(model, seeds))
            return sample.sample_in_memory(model, [request], self.out, self.reference.normalization)

    @contextmanager
    def _tidied(self) -> Iterator[None]:
        """Afterwards the folder holds what later evaluations use again, and nothing of these samples.

        A file does not say what it belongs to; but one that did not exist after a whole evaluation is of the samples alone.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        mark = self.folder / WHOLE
        earlier = set(mark.read_text(encoding="utf-8").splitlines()) if mark.is_file() else None
        try:
            yield
        finally:
            there = {str(path.relative_to(self.folder)): path for path in self.folder.glob("*/*")}
            for path in [path for name, path in there.items() if earlier is not None and name not in earlier]:
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    def _remember(self) -> None:
        """Note what is there: what later evaluations leave beside it is of their samples."""
        mark = self.folder / WHOLE
        if not mark.is_file():
            names = sorted(str(path.relative_to(self.folder)) for path in self.folder.glob("*/*"))
            with atomic_write.atomic_write(mark) as beside:
                beside.write_text("\n".join(names), encoding="utf-8")


def prepare(preset: Preset, shards: ShardDataset, out: Path, device: str) -> Evaluation | None:
    """The evaluations that a preset asks for, None where it asks for none; nothing is computed or written.

    Raises:
        UsageError: unknown metrics, too few samples, a split that the data do not have.
        MissingError: the weights of a feature network are absent.
    """
    if preset.eval is None:
        return None
    from inrflow_core.evaluation import evaluator, gather, metric_specs
    from inrflow_core.sampling import reference_inputs

    config, domain, kind = preset.eval.config, preset.domain.name, reference_inputs.condition_kind(preset)
    usual = [*preset.domain.module.Domain.DEFAULT_METRICS, *reference_inputs.metrics_of(kind)]
    metrics = metric_specs.parse_metrics(config.metrics or usual, domain)
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
    drawn_from = (
        None if kind is None else reference_inputs.plan_from_reference(kind, reference, config.num, seed=config.seed)
    )
    num = config.num if drawn_from is None else len(drawn_from)
    for metric in metrics:
        _check_metric(metric, num, reference, shows_items=kind is not None and reference_inputs.has_views(kind))
    identity = " ".join([reference.digest, reference.split or "", *(metric.full for metric in metrics)])
    folder = out / FOLDER / hashlib.sha256(identity.encode()).hexdigest()[:16]
    setting = gather.EvaluationSettings(
        folder, weights_folder=_weights(config), points=_points(preset, reference), device=device
    )
    scorer = evaluator.Evaluator(reference, setting)
    for error in scorer.missing(metrics).values():
        raise error
    return Evaluation(config, metrics, best, reference, scorer, out, drawn_from)


def restore_best(evaluation: Evaluation | None, out: Path, step: int) -> Best | None:
    """The best checkpoint of a run that resumes after `step`; its record and the kept checkpoints are updated.

    A kill between a checkpoint and its record, or a checkpoint that was removed by hand, leave an older record; the log
    knows better.
    """
    try:
        recorded = best.read_best(out)
    except IntegrityError:
        recorded = None
    if recorded is not None and (recorded.step > step or recorded.step not in checkpoint_manifest.complete_steps(out)):
        recorded = None
    restored = (None if evaluation is None else evaluation.restored(step)) or recorded
    best.record_best(out, restored)
    for mark in (out / FOLDER).glob(f"*/{WHOLE}"):
        if evaluation is not None and mark.parent != evaluation.folder:
            shutil.rmtree(mark.parent)  # of metrics or a reference that the preset no longer names
    return restored


def _reference(preset: Preset, shards: ShardDataset) -> SampleCollection:
    """The reference: sets of the preset's classes, of one split of its data.

    Raises:
        UsageError: there is no such split, or nothing in it.
    """
    from inrflow_core.sample_files import collection, readers

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
        reference = collection.filter_classes(reference, data.classes)
    if config.reference is not None:
        reference = collection.evenly_spaced_items(reference, config.reference)
    if reference.count < 2:
        raise UsageError(
            f"the split `{split}` of the shards in `{shards.folder}` has {reference.count} to compare with, and [eval] needs 2",
            hint=f"they have {', '.join(shards.splits)}: `--set eval.split=NAME`",
        )
    return reference


def _points(preset: Preset, reference: SampleCollection) -> int | None:
    """Points of each cloud that are compared: known beforehand, so that the estimate is for as many."""
    domain = preset.domain.module.Domain(preset.domain.config)
    if domain.FILES is None or domain.FILES.has_one_shape:
        return None
    return min(domain.output_spec().shape[0], reference.shape[0])


def _check_metric(metric: MetricSpec, num: int, reference: SampleCollection, *, shows_items: bool) -> None:
    """Raise UsageError unless a metric can be computed from `num` samples and the reference.

    `shows_items` says whether each sample is conditioned on views of an item of the reference.

    Raises:
        UsageError: it cannot.
    """
    matched_by = metric.inputs.matched_by
    if matched_by == "name" or (matched_by == "condition" and not shows_items):
        raise UsageError(
            f"[eval] `{metric.full}` compares each sample with its own reference, and new samples have none",
            hint="take it out of `metrics`",
        )
    least = metric.metric.min_items
    for name, count in {"num": num, "reference": reference.count}.items():
        if count < least:
            raise UsageError(
                f"[eval] `{metric.full}` needs {least:,} or more, and `{name}` gives it {count:,}",
                hint=f"give more, as with `--set eval.{name}={least}`, or take it out of `metrics`",
            )


def _weights(config: EvalConfig) -> Path | None:
    """The folder of feature networks' weights.

    Raises:
        MissingError: it is not there.
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
    """The evaluations in a run's log, by the present names of their metrics."""
    for record in typed_json.json_lines(out / "log.jsonl"):
        if "eval" in record:
            yield record | {"eval": {best.present_metric(name): value for name, value in record["eval"].items()}}
