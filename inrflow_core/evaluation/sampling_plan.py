"""Plan the samples of runs under evaluation: weights, number, conditions and shape."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from inrflow_core import models
from inrflow_core.config.preset import Preset
from inrflow_core.config.training import LAST_SEED
from inrflow_core.domains._contract import domain_class
from inrflow_core.errors import UsageError
from inrflow_core.evaluation.metric_specs import MetricSpec
from inrflow_core.evaluation.results import EvaluatedSamples
from inrflow_core.metrics._inputs import ReferenceStats
from inrflow_core.models import Model
from inrflow_core.runs.checkpoint_manifest import is_checkpoint
from inrflow_core.runs.run import Step, find_source, open_run, resolve_weights
from inrflow_core.runtime import distributed, memory
from inrflow_core.runtime.progress import SILENT, Reporter
from inrflow_core.sample_files.collection import SampleCollection
from inrflow_core.sampling import labels, reference_inputs, request, sample
from inrflow_core.sampling.options import options_for_labels
from inrflow_core.sampling.reference_inputs import ReferenceSamplingPlan
from inrflow_core.sampling.request import SampleRequest, Size

LAST_FIRST_SEED = LAST_SEED - (1 << 40)
"""The largest seed of a first sample: no evaluation has as many samples as there are seeds after it."""


@dataclass(frozen=True)
class SamplingSettings:
    """How runs are sampled; None is the default of each run's preset."""

    checkpoints: Sequence[Step] | Literal["all"] = (None,)
    """Steps, "best" or None for the latest."""
    num: int | None = None
    """Samples of each run; of conditional ones, reference conditions. Default: as many as the reference has items."""
    seed: int = 0
    label: str | None = None
    sampler: str | None = None
    steps: int | None = None
    sampler_settings: Mapping[str, Any] = field(default_factory=dict)
    method_settings: Mapping[str, Any] = field(default_factory=dict)
    """Settings of the method's `SamplingConfig`, such as `guidance`."""
    guide: Path | None = None
    """The weights file of a weaker model to guide with (autoguidance)."""
    resolution: str | None = None
    points: int | None = None
    view: int | str | None = None
    """The view of each reference object, from 0 on, or `reference_inputs.PAIRED_BY_SEED`. Default: 0."""
    samples_per_item: int | None = None
    ema: float | None = None
    batch: int | None = None
    device: str | None = None
    precision: str = "fp32"
    compile: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.seed <= LAST_FIRST_SEED:
            raise UsageError(
                f"the seed {self.seed} is out of range: the samples' seeds count up from it",
                hint=f"give a number from 0 to {LAST_FIRST_SEED}",
            )

    def options(self, model: Model, labels: Sequence[int] | None = None) -> Any:
        """The sampling options of a model for samples of these labels; raises as `sampling_options`."""
        return options_for_labels(
            model,
            labels,
            sampler=self.sampler,
            steps=self.steps,
            sampler_settings=self.sampler_settings,
            method_settings=self.method_settings,
            guide=None if self.guide is None else models.load(self.guide, distributed.process_device(self.device)),
            precision=self.precision,
        )

    def size(self, domain: Any) -> Size:
        """The size of samples of a domain; None for the training's."""
        if domain.MAKES_STRUCTURES:
            return None
        return request.choose_size(domain, request.SizeOptions(self.resolution, self.points))


@dataclass(frozen=True)
class EvaluatedModel:
    """Weights to sample and evaluate."""

    name: str
    run: str
    """The run's name, which no other run of the evaluation has."""
    weights: Path
    sampling: SamplingSettings | None = None
    """How it is sampled in one combination of a sweep; None is as the job says."""
    label: str | None = None
    """What results call it in place of `name`."""
    run_label: str | None = None
    """What they call its run in place of `run`; None together with `label`."""

    @cached_property
    def preset(self) -> Preset:
        """The preset that the weights were trained with."""
        return models.read_metadata(self.weights)[0]

    @property
    def domain(self) -> Any:
        """The domain of the samples."""
        part = self.preset.domain
        return part.module.Domain(part.config)

    @property
    def kind(self) -> str | None:
        """The kind of condition that reference items provide (`reference_inputs.condition_kind`); None if none."""
        return reference_inputs.condition_kind(self.preset)


@dataclass(frozen=True)
class SamplingWork:
    """Folder, number, reference and settings of the samples."""

    folder: Path
    sampling: SamplingSettings
    reference: SampleCollection | ReferenceStats
    num: int
    """Samples of each run; for a run conditioned on items of the reference, the number of items."""
    overwrite: bool
    reporter: Reporter = SILENT
    metrics: Sequence[MetricSpec] = ()
    """The metrics to compute: scenes are drawn or encoded only where one needs it."""
    originals: SampleCollection | None = None
    """Held-out items that runs encode, for metrics of reconstructions."""

    def of(self, target: EvaluatedModel) -> SamplingWork:
        """The work of one target, with its settings in a sweep."""
        return self if target.sampling is None else replace(self, sampling=target.sampling)

    @property
    def draws_samples(self) -> bool:
        """Whether a metric needs drawn samples; others are of meshes, or compare what one call encodes."""
        return any(metric.needs_samples for metric in self.metrics)

    @property
    def resizes_originals(self) -> bool:
        """Whether a metric is of images that a model encodes: they are evaluated at any resolution."""
        of_originals = any(metric.inputs.matched_by == "reconstruction" for metric in self.metrics)
        return (
            of_originals
            and self.originals is not None
            and domain_class(self.originals.domain).SIZE_OPTION == "--resolution"
        )

    @property
    def generates(self) -> bool:
        """Whether a metric is of anything that a model generates, samples or meshes."""
        return any(metric.needs_generation for metric in self.metrics)


def resolve_models(
    source: Path, run: str, sampling: SamplingSettings, label: str | None = None
) -> list[EvaluatedModel]:
    """The checkpoints of a run to evaluate; their names start with `run`, and their labels with `label` if there is one.

    Raises:
        MissingError: a checkpoint does not exist.
        UsageError: `source` is a file or a checkpoint, and others are requested.
    """
    source = find_source(source)

    def resolve(step: Step, name: str) -> EvaluatedModel:
        own = None if label is None else label + name.removeprefix(run)
        weights = resolve_weights(source, ema=sampling.ema, step=step)
        return EvaluatedModel(name, run, weights, label=own, run_label=label)

    is_one = is_checkpoint(source) and not (source / "preset.toml").is_file()
    if sampling.checkpoints == "all" and (is_one or source.is_file()):
        kind = "checkpoint" if is_one else "file of weights"
        raise UsageError(f"`{source}` is one {kind}", hint="leave `--checkpoints` out, or name a run's folder")
    if sampling.checkpoints == "all":
        opened_run = open_run(source)
        steps: Sequence[Any] = list(opened_run.steps) or [opened_run.checkpoint()]  # the latter raises
    else:
        steps = list(sampling.checkpoints)
    if steps == [None]:
        return [resolve(None, run)]
    return [
        resolve(step, f"{run}-{step:08d}" if isinstance(step, int) else f"{run}-{step or 'newest'}") for step in steps
    ]


def labeled(samples: EvaluatedSamples, target: EvaluatedModel) -> EvaluatedSamples:
    """The samples of a target under its label, if it has one."""
    if target.label is None or target.run_label is None:
        return samples
    name = target.label + samples.name.removeprefix(target.name)
    run = target.run_label + str(samples.facts["run"]).removeprefix(target.run)
    return replace(samples, name=name, facts={**samples.facts, "run": run})


def run_name(run: Path) -> str:
    """The name of a run folder or a weights file; bytes that no text can hold are replaced."""
    name = run.stem if run.is_file() else run.name or run.resolve().name
    return os.fsencode(name).decode(errors="replace")


def unique_names(names: Sequence[str]) -> list[str]:
    """The names, with a number appended to repeated ones: runs in two folders may have the same name."""
    unique: list[str] = []
    for name in names:
        free, number = name, 2
        while free in unique:
            free, number = f"{name}-{number}", number + 1
        unique.append(free)
    return unique


def sample_shape(target: EvaluatedModel, sampling: SamplingSettings, *, has_baselines: bool) -> tuple[int, ...]:
    """The shape of a target's samples; empty for proteins, which differ in size.

    Raises:
        UsageError: a size of the wrong kind, or interpolation baselines at the training resolution.
    """
    domain = target.domain
    if domain.MAKES_STRUCTURES:
        if sampling.resolution is not None or has_baselines:
            raise UsageError("a protein has the atoms of its sequence", hint="leave `--resolution` out")
        return ()
    if domain.HAS_CAMERAS and (sampling.resolution is not None or has_baselines):
        option = "--interpolation-baselines" if has_baselines else "--resolution"
        raise UsageError(
            f"`{option}` does not apply: scenes are rendered as the views of the reference", hint="leave it out"
        )
    size = sampling.size(domain)
    if has_baselines:
        _check_baselines(isinstance(size, tuple))
    return domain.output_spec(size).shape


def _check_baselines(has_size: bool) -> None:
    if not has_size:
        raise UsageError(
            "`--interpolation-baselines` compares images at a higher resolution", hint="add `--resolution HxW`"
        )


def check_options(work: SamplingWork, *, has_baselines: bool) -> None:
    """Raise UsageError for options of drawn samples if no metric needs any; meshes, of the preset's grid, need those but of sizes."""
    settings = work.sampling
    options = {
        "--seed": settings.seed or None,
        "--label": settings.label,
        "--sampler": settings.sampler,
        "--steps": settings.steps,
        **{f"--set sampler.{name}": value for name, value in settings.sampler_settings.items()},
        **{f"--set method.{name}": value for name, value in settings.method_settings.items()},
        "--guide-run": settings.guide,
        "--precision": None if settings.precision == "fp32" else settings.precision,
    }
    sizes = {
        "--resolution": settings.resolution,
        "--points": settings.points,
        "--interpolation-baselines": has_baselines or None,
    }
    refused = ({} if work.generates else options) | ({} if work.draws_samples or work.resizes_originals else sizes)
    for option, value in refused.items():
        if value is not None:
            raise UsageError(
                f"`{option}` does not apply: no metric needs drawn samples{_reason(work)}",
                hint=f"leave it out, or add a metric of samples to {', '.join(f'`{one.full}`' for one in work.metrics)}",
            )
    if has_baselines and not work.draws_samples:
        _check_baselines(settings.resolution is not None)


def _reason(work: SamplingWork) -> str:
    return ", and meshes are of the preset's grid" if work.generates else ", and one call encodes what these compare"


def check_conditions(
    metrics: Sequence[MetricSpec], targets: Sequence[EvaluatedModel], sampling: SamplingSettings
) -> None:
    """Raise UsageError unless runs draw samples of classes, and of each item as many, as metrics compare."""
    for metric in metrics:
        for target in targets:
            if metric.inputs.needs_class and (target.preset.condition is None or sampling.label == labels.NO_CLASS):
                raise UsageError(
                    f"`{metric.full}` compares the class of a sample with the requested one, and `{target.name}` draws samples "
                    "of none",
                    hint="leave the metric out, or evaluate samples under labels or texts",
                )
    drawn = sampling.samples_per_item or 1
    for metric in metrics:
        count = metric.inputs.samples_per_item
        if count is None:
            continue
        for target in targets:
            if target.kind is None:
                raise UsageError(
                    f"`{metric.full}` compares samples of one text, and `{target.name}` is conditioned on none",
                    hint="leave the metric out, or evaluate the run of a model conditioned on texts",
                )
            if drawn != count:
                raise UsageError(
                    f"`{metric.full}` compares {count} samples of each of the reference's "
                    f"{reference_inputs.noun_of(target.kind)}, and {drawn} would be drawn",
                    hint=f"add `--samples-per-item {count}`; `--num` sets how many items of the reference are used",
                )
            if sampling.view == reference_inputs.PAIRED_BY_SEED:
                raise UsageError(
                    f"`{metric.full}` compares samples of one of an item's {reference_inputs.noun_of(target.kind)}, and "
                    f"`--view {sampling.view}` chooses another for each",
                    hint="give its number with `--view`, or leave it out",
                )


def plan_samples(target: EvaluatedModel, work: SamplingWork) -> ReferenceSamplingPlan | None:
    """The reference items that a target's samples are conditioned on; None for a target without such conditions.

    Raises:
        UsageError: an option that does not apply to it, or a reference without its conditions.
    """
    settings, kind = work.sampling, target.kind
    source = f"is conditioned on {reference_inputs.noun_of(kind)}" if kind else "takes no condition from the reference"
    for option, value, applies in (
        ("--view", settings.view, kind is not None and reference_inputs.has_views(kind)),
        ("--samples-per-item", settings.samples_per_item, kind is not None),
        ("--label", settings.label, kind is None),
    ):
        if value is not None and not applies:
            raise UsageError(f"`{option}` does not apply to `{target.name}`, which {source}", hint="leave it out")
    if kind is None:
        return None
    if isinstance(work.reference, ReferenceStats):
        raise UsageError(
            f"`{work.reference.source}` holds statistics, and `{target.name}` {source}",
            hint="give shards that hold them with `--reference`",
        )
    view = None if settings.view == reference_inputs.PAIRED_BY_SEED else int(settings.view or 0)
    each = settings.samples_per_item or 1
    return reference_inputs.plan_from_reference(
        kind, work.reference, work.num, each=each, seed=settings.seed, view=view
    )


def num_samples(target: EvaluatedModel, work: SamplingWork) -> int:
    """Samples of a target; raises as `plan_samples`."""
    plan = plan_samples(target, work)
    return work.num if plan is None else len(plan)


def sample_request(model: Model, work: SamplingWork, plan: ReferenceSamplingPlan | None) -> SampleRequest:
    """The seeds and labels of all samples of a target; conditions are computed during sampling."""
    settings, size = work.sampling, work.sampling.size(model.domain)
    if plan is not None:
        return SampleRequest(plan.seeds.tolist(), None, size, batch=settings.batch)
    seeds = range(settings.seed, settings.seed + work.num)
    requested = labels.resolve_labels(model, seeds, settings.label, class_counts(work.reference))
    return SampleRequest(seeds, requested, size, batch=settings.batch)


def class_counts(reference: SampleCollection | ReferenceStats) -> Mapping[str, int]:
    """Items of each class of the reference; empty where they are not known."""
    return {} if isinstance(reference, ReferenceStats) else reference.class_counts()


def load_model(target: EvaluatedModel, work: SamplingWork) -> Model:
    """The model of a target, on the device of the settings."""
    memory.retain_freed_pages()
    model = models.load(target.weights, distributed.process_device(work.sampling.device))
    note = sample.note_on_average(model.preset, model.metadata)
    if note is not None:
        work.reporter.warn(f"`{target.name}`: {note}")
    note = sample.note_on_label(model, work.sampling.label)
    if note is not None:
        work.reporter.warn(f"`{target.name}`: {note}")
    return model
