"""Evaluate runs and samples against a reference: sample, compute metrics, write metrics.json and report.html."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from inrflow_core.domains._contract import domain_class
from inrflow_core.errors import IntegrityError, MissingError, UsageError, did_you_mean
from inrflow_core.evaluation import (
    drawn_shards,
    evaluator,
    finished,
    gather,
    memorization,
    metric_specs,
    reconstructions,
    reference_stats,
    report_data,
    results,
    run_data,
    sample_runs,
    sample_scenes,
    sampling_plan,
    shape_sets,
    sweep,
)
from inrflow_core.evaluation.evaluator import Evaluator
from inrflow_core.evaluation.memorization import MemorizationSet
from inrflow_core.evaluation.metric_specs import MetricSpec
from inrflow_core.evaluation.results import EvaluatedSamples, Results, StoredResults
from inrflow_core.evaluation.sampling_plan import EvaluatedModel, SamplingSettings, SamplingWork
from inrflow_core.evaluation.sweep import Sweep
from inrflow_core.feature_networks import _contract
from inrflow_core.metrics._inputs import ReferenceStats
from inrflow_core.metrics._protein_inputs import Structures
from inrflow_core.report import page
from inrflow_core.runs import run
from inrflow_core.runtime import distributed
from inrflow_core.runtime.progress import SILENT, Reporter
from inrflow_core.sample_files import readers, subsets
from inrflow_core.sample_files.collection import SampleCollection
from inrflow_core.sampling import reference_inputs, request
from inrflow_core.storage import atomic_write

MOST = 50_000
"""Most samples of a run by default."""


@dataclass(frozen=True)
class EvaluationJob:
    """The samples and runs to evaluate, the reference, and the folder of the results."""

    out: Path
    runs: Sequence[Path] = ()
    samples: Sequence[Path] = ()
    names: Sequence[str] = ()
    """Labels of the samples, then of the runs, in the results; none: the names of their files and folders."""
    reference: Path | None = None
    """Default: the shards that the first run was trained on."""
    metrics: Sequence[str] = ()
    """Default: those of the domain that need no weights."""
    split: str | None = None
    classes: Sequence[str] = ()
    reference_num: int | None = None
    samples_split: str | None = None
    memorization_set: Path | None = None
    """Default: the reference's `train` split."""
    searches_copies: bool = True
    """Whether to search the training items for copies of the samples, which takes minutes where there are thousands."""
    condition_images: Path | None = None
    weights: Sequence[str] = ()
    """`NETWORK=FILE`, or a folder of all weights."""
    sampling: SamplingSettings = field(default_factory=SamplingSettings)
    sweeps: Sequence[Sweep] = ()
    """Each run is sampled with every combination of their values."""
    has_baselines: bool = False
    """Also evaluate bilinear and bicubic interpolation of the samples at the training resolution."""
    workers: int | None = None
    overwrite: bool = False
    reporter: Reporter = SILENT

    @property
    def cache(self) -> Path:
        """The folder of cached features and distances; `kept`, its old name, if it exists."""
        old = self.out / "kept"
        return old if os.path.isdir(old) else self.out / "cache"


@dataclass(frozen=True)
class CheckedEvaluationJob:
    """A job whose paths and names were checked."""

    job: EvaluationJob
    targets: Sequence[EvaluatedModel]
    existing: Sequence[EvaluatedSamples]
    reference: SampleCollection | ReferenceStats
    metrics: Sequence[MetricSpec]
    evaluator: Evaluator
    work: SamplingWork
    """How the targets are sampled."""
    missing: Mapping[str, MissingError]
    """Metrics whose weights are absent, by their full names."""
    memorization_set: MemorizationSet | None
    """Training items that samples are compared with."""
    settings: Mapping[str, str]
    """What results are recorded with, by option."""
    stored: StoredResults | None
    """The results where the evaluation was finished before with these settings."""

    @property
    def computed(self) -> list[MetricSpec]:
        """The metrics whose weights exist."""
        return [metric for metric in self.metrics if metric.full not in self.missing]


def check_job(job: EvaluationJob) -> CheckedEvaluationJob:
    """Check all options and inputs before sampling starts.

    Raises:
        MissingError: a run, samples or the reference do not exist.
        UsageError: unknown names, different domains, or existing results of other settings.
    """
    if not job.runs and not job.samples:
        raise UsageError("nothing to evaluate", hint="add `--run DIR` or `--samples PATH`")
    job = replace(job, runs=[run.find_source(source) for source in job.runs])
    _check_out(job)
    _check_names(job)
    samples = [readers.open_collection(path, job.samples_split, ("samples",), all_models=True) for path in job.samples]
    names = sampling_plan.unique_names(job.names[: len(samples)] or [some.name for some in samples])
    existing = [EvaluatedSamples(name, some) for name, some in zip(names, samples, strict=True)]
    targets = _targets(job, names)
    domain = _domain(job, existing, targets)
    reference = _open_reference(job, domain)
    num = job.sampling.num or min(reference.count if not isinstance(reference, ReferenceStats) else MOST, MOST)
    held_out = reconstructions.originals(reference, _classes(job), num) if targets else None
    metrics = metric_specs.parse_metrics(job.metrics or _default(job, domain, targets, reference, held_out), domain)
    reconstructions.check(metrics, targets, held_out, samples, job.sampling)
    shape_sets.check(metrics, targets, samples, reference)
    sampling_plan.check_conditions(metrics, targets, job.sampling)
    if job.sweeps:
        sweep.check_metrics(metrics)
    scorer = evaluator.Evaluator(reference, _settings(job))
    scorer.check(metrics)
    missing = scorer.missing(metrics)
    if len(missing) == len(metrics):
        raise next(iter(missing.values()))
    work = SamplingWork(
        job.out / "samples", job.sampling, reference, num, job.overwrite, job.reporter, metrics, held_out
    )
    sizes = _check_sizes(job, existing, targets, work, domain)
    sweep.check(targets, work)
    training = _training(job, work, domain, sizes)
    networks = scorer.weights_provenance([metric for metric in metrics if metric.full not in missing])
    settings = finished.setting_texts(job, [metric.full for metric in metrics], num, list(_classes(job)), networks)
    settings |= finished.input_texts(targets, existing, results.reference_facts(reference))
    stored = None if job.overwrite else finished.stored(job.out, job.cache, settings, missing)
    return CheckedEvaluationJob(
        job, targets, existing, reference, metrics, scorer, work, missing, training, settings, stored
    )


Size = tuple[str, int, tuple[int, ...]]
"""Samples in words, their number and the shape of one."""


def _check_sizes(
    job: EvaluationJob,
    existing: Sequence[EvaluatedSamples],
    targets: Sequence[EvaluatedModel],
    work: SamplingWork,
    domain: str,
) -> list[Size]:
    """The number and shape of all samples; raises UsageError unless they can be compared as the metrics need it."""
    for each in (work, *(work.of(target) for target in targets)):
        sampling_plan.check_options(each, has_baselines=job.has_baselines)
    sizes = [(f"the samples of {one.items.display_name}", one.items.count, one.items.shape) for one in existing]
    for target in targets:
        if work.draws_samples or target.domain.HAS_CAMERAS:
            shape = sampling_plan.sample_shape(target, job.sampling, has_baselines=job.has_baselines)
            sizes.append((f"the samples of `{target.name}`", sampling_plan.num_samples(target, work), shape))
        else:
            sampling_plan.plan_samples(target, work)
        if target.domain.HAS_CAMERAS:
            sample_scenes.check(target, work)
    for what, count, shape in sizes:
        metric_specs.check_compatible(what, domain, shape, work.reference)
        metric_specs.check_counts(work.metrics, what, count, work.reference)
        metric_specs.check_points(work.metrics, what, shape, work.reference)
        metric_specs.check_frames(work.metrics, what, shape)
    return sizes


def _training(job: EvaluationJob, work: SamplingWork, domain: str, sizes: Sequence[Size]) -> MemorizationSet | None:
    """The training items that samples are compared with; None where the job searches no copies, or there are no samples, or none
    of such a domain are.

    Raises:
        UsageError: the job names other ones, and no samples can be compared with them.
    """
    copied = None
    if job.memorization_set is not None:
        if not job.searches_copies and domain_class(domain).MEMORIZATION is not None:
            raise UsageError(
                "`--memorization-set` and `--no-copies` contradict each other", hint="leave one of them out"
            )
        if not sizes:
            raise UsageError("`--memorization-set` does not apply: no samples are drawn", hint="leave it out")
        copied = readers.open_collection(job.memorization_set, prefer=("train",))
        for _, _, shape in sizes:
            metric_specs.check_compatible("the samples", domain, shape, copied, role="the training set")
    searches = job.searches_copies and bool(sizes) and domain_class(domain).MEMORIZATION is not None
    return memorization.memorization_set(work.reference, copied) if searches else None


def run_evaluation(ready: CheckedEvaluationJob) -> Results | StoredResults | None:
    """Sample the runs, compute the metrics, and write metrics.json and report.html.

    Returns:
        The results, those of before where the evaluation was finished with the same settings; None in a process of a launcher
        that is not the main one.

    Raises:
        UsageError, IntegrityError: no metric could be computed; a single one that fails is part of the results.
    """
    job = ready.job
    if ready.stored is not None:
        return ready.stored if drawn_shards.is_main() else None
    try:
        job.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"cannot make the folder `{job.out}`: {error.strerror}", hint="name another path") from error
    warn_of_missing(ready)
    _verify_shown(ready)
    scored, failed = [], {}
    for sample_set in sample_sets(ready):
        job.reporter.log(f"evaluating {sample_set.items.count:,} samples of `{sample_set.name}`")
        scores = []
        for metric in filter(sample_set.has, ready.computed):
            try:
                scores.append(ready.evaluator.score(sample_set, metric, ready.computed))
            except (UsageError, IntegrityError) as error:
                failed[metric.full] = error
        proteins = ready.evaluator.cached(sample_set, Structures)
        scenes = ready.evaluator.cached_views(sample_set, ready.computed) if scores else {}
        items = ready.evaluator.cached_items(sample_set) if scores else {}
        scored.append(results.SampleScores(sample_set, scores, proteins, scenes, items))
    if distributed.find(os.environ, "cpu").rank != 0:
        return None
    if failed and not any(one.scores for one in scored):
        raise next(iter(failed.values()))
    evaluated = results.Results(ready.reference, scored, ready.missing, failed)
    _write(ready, evaluated)
    return evaluated


def sample_sets(ready: CheckedEvaluationJob) -> Iterator[EvaluatedSamples]:
    """The samples of files, then those of each run; a run is sampled when it is reached."""
    if distributed.find(os.environ, "cpu").rank == 0:
        yield from ready.existing
    for target in ready.targets:
        sets = sample_runs.iter_sample_sets(target, ready.work.of(target), has_baselines=ready.job.has_baselines)
        yield from (sampling_plan.labeled(each, target) for each in sets)
    if any(target.domain.HAS_CAMERAS for target in ready.targets) and drawn_shards.is_main():
        yield from sample_scenes.iter_baselines(ready.work, ready.job.memorization_set)


def estimate_cost(ready: CheckedEvaluationJob) -> list[tuple[str, float]]:
    """The tasks with their seconds, measured on a few items; nothing is written."""
    sizes = [(sample_set.items.count, sample_set.items.shape) for sample_set in ready.existing]
    rows = []
    for target in ready.targets:
        rows += sample_runs.estimate_costs(target, ready.work.of(target))
        if ready.work.draws_samples or target.domain.HAS_CAMERAS:
            shape = sampling_plan.sample_shape(target, ready.job.sampling, has_baselines=ready.job.has_baselines)
            sizes.append((sampling_plan.num_samples(target, ready.work), shape))
    for count, shape in sizes:
        rows += ready.evaluator.estimate_cost(ready.computed, count, shape[0] if shape else None)
    if sizes and ready.memorization_set is not None:  # of the last set alone
        rows += memorization.estimate_cost(*sizes[-1], ready.memorization_set)
    return rows


def warn_of_missing(ready: CheckedEvaluationJob) -> None:
    """Report each absent weights file once: its name, its source and its folder."""
    for error in {error.message: error for error in ready.missing.values()}.values():
        ready.job.reporter.warn(f"{error.message}; the other metrics are computed. For all of them, {error.hint}")


def cache_reference_stats(shards: Path, metrics: Sequence[str], reporter: Reporter = SILENT) -> None:
    """Compute the reference features that metrics need from prepared shards, and cache them beside the shards."""
    domain = readers.open_collection(shards).domain
    reference = readers.open_collection(shards, prefer=domain_class(domain).REFERENCE_SPLITS)
    settings = gather.EvaluationSettings(
        shards,
        device=distributed.process_device(),
        progress=reporter.progress,
        log=reporter.log,
        announce=reporter.announce,
    )
    specs = metric_specs.parse_cacheable(metrics, domain)
    metric_specs.check_frames(specs, f"the clips of {reference.display_name}", reference.shape)
    evaluator.Evaluator(reference, settings).cache_reference_stats(specs)
    reporter.log(
        f"cached the features of {reference.display_name} for {', '.join(metrics)} in `{shards / gather.STATISTICS}`"
    )


def _targets(job: EvaluationJob, taken: Sequence[str]) -> list[EvaluatedModel]:
    """The checkpoints to evaluate, with names that are unique, also among `taken`."""
    runs = sampling_plan.unique_names([sampling_plan.run_name(run) for run in job.runs])
    labels = job.names[len(job.samples) :] or [None] * len(runs)
    targets = [
        model
        for source, name, label in zip(job.runs, runs, labels, strict=True)
        for model in sampling_plan.resolve_models(source, name, job.sampling, label)
    ]
    if job.sweeps:
        targets = sweep.combined(targets, job.sweeps, job.sampling)
    names = sampling_plan.unique_names([*taken, *(target.name for target in targets)])[len(taken) :]
    return [replace(target, name=name) for target, name in zip(targets, names, strict=True)]


def _verify_shown(ready: CheckedEvaluationJob) -> None:
    """Verify what the report reads beside the metrics, which take cached features without reading the items."""
    training = ready.memorization_set
    is_alone = bool(ready.work.originals) and not ready.work.generates and not ready.existing
    reference = ready.work.originals if is_alone else ready.reference
    shown = [reference, *([] if training is None else [training.items, training.held_out])]
    if drawn_shards.is_main():
        for items in shown:
            if items is not None and not isinstance(items, ReferenceStats):
                ready.evaluator.verify(items)


def _write(ready: CheckedEvaluationJob, evaluated: Results) -> None:
    """Write both files once both are complete, and then the record of them; an older record goes first."""
    out, reporter = ready.job.out, ready.job.reporter
    if ready.memorization_set is None:
        with reporter.announce("collecting samples for the report"):
            report = report_data.build_report(evaluated, None)
    else:
        with reporter.progress("searching for copies of training items", "items") as progress:
            report = report_data.build_report(evaluated, ready.memorization_set, progress)
    finished.forget(ready.job.cache)
    page.write(out / results.REPORT, report)
    evaluated.save(out)
    if not evaluated.failed:
        finished.record(out, ready.job.cache, ready.settings, evaluated)
    reporter.log(f"wrote `{out / results.METRICS}` and `{out / results.REPORT}`")


def _domain(job: EvaluationJob, existing: Sequence[EvaluatedSamples], targets: Sequence[EvaluatedModel]) -> str:
    """The one domain of everything that is evaluated.

    Raises:
        UsageError: there are several, or `points` is set and they are not point clouds.
    """
    domains = {sample_set.items.domain for sample_set in existing} | {target.domain.NAME for target in targets}
    if len(domains) > 1:
        raise UsageError(
            f"{' and '.join(sorted(domains))} cannot be evaluated together", hint="evaluate them one after the other"
        )
    (domain,) = domains
    sized = request.domains_of_options(request.SizeOptions(points=job.sampling.points))
    if sized is not None and domain not in sized:
        raise UsageError(f"`--points` does not apply to {domain_class(domain).NOUN}", hint="leave it out")
    return domain


def _default(
    job: EvaluationJob,
    domain: str,
    targets: Sequence[EvaluatedModel],
    reference: SampleCollection | ReferenceStats,
    held_out: SampleCollection | None,
) -> Sequence[str]:
    """The metrics by default: those of the domain that need no weights."""
    names = [*domain_class(domain).DEFAULT_METRICS]
    if job.samples:  # views of samples in files are of no scene of the reference
        names = [one.full for one in metric_specs.parse_metrics(names, domain) if one.inputs.matched_by != "view"]
    kinds = {target.kind for target in targets}
    if len(kinds) == 1 and not job.samples:
        (kind,) = kinds
        has_classes = not isinstance(reference, ReferenceStats) and bool((reference.labels() >= 0).all())
        of_kind = [name for name in reference_inputs.metrics_of(kind) if name in metric_specs.metrics_of_domain(domain)]
        specs = metric_specs.parse_metrics(of_kind, domain)
        names += [spec.full for spec in specs if has_classes or not spec.inputs.needs_class]
    if not job.samples and not job.sweeps:
        names += reconstructions.default_metrics(targets, held_out, job.sampling) + shape_sets.default_metrics(domain)
    if (job.sampling.samples_per_item or 1) > 1:
        names += domain_class(domain).METRICS_OF_SEVERAL
    if not names:
        raise UsageError(
            f"no metric evaluates {domain_class(domain).NOUN} by default", hint="name metrics with `--metrics`"
        )
    return names


def _classes(job: EvaluationJob) -> Sequence[str]:
    """The classes of the reference."""
    if job.classes or job.reference is not None or not job.runs:
        return job.classes
    return run_data.common_data(job.runs, needs_classes=True).classes


def _open_reference(job: EvaluationJob, domain: str) -> SampleCollection | ReferenceStats:
    path = job.reference
    classes = _classes(job)
    if path is None and job.runs:
        path, is_recorded = run_data.default_reference(job.runs, needs_classes=not job.classes)
        origin = "that the run was trained on" if is_recorded else "that the preset names"
        of = f", of the classes {', '.join(classes)}" if classes else ""
        job.reporter.log(f"the reference is the shards {origin}, `{path}`{of}")
    if path is None:
        raise UsageError("no reference data given", hint="add `--reference PATH`")
    if reference_stats.is_stats_file(path):
        if job.split is not None:
            raise UsageError(f"`{path}` holds statistics, so it has no split `{job.split}`", hint="leave it out")
        for name, is_set in (("--classes", bool(classes)), ("--reference-num", job.reference_num is not None)):
            if is_set:
                raise UsageError(f"`{path}` holds statistics, so `{name}` does not apply", hint="leave it out")
        return reference_stats.read(path)
    reference = readers.open_collection(path, job.split, domain_class(domain).REFERENCE_SPLITS)
    reference = subsets.filter_classes(reference, classes) if classes else reference
    return subsets.evenly_spaced_items(reference, job.reference_num) if job.reference_num else reference


def _settings(job: EvaluationJob) -> gather.EvaluationSettings:
    files, folder = {}, None
    for text in job.weights:
        name, equals, file = text.partition("=")
        if equals:
            networks = [n for n in _contract.names("extractor") if _contract.find_extractor(n).needs_weights]
            if name not in networks:
                raise UsageError(f"unknown feature network `{name}`", hint=did_you_mean(name, networks))
            files[name] = Path(file)
        elif Path(text).is_dir():
            folder = Path(text)
        else:
            raise MissingError(f"the weights folder `{text}` does not exist", hint="name a folder, or `NETWORK=FILE`")
    return gather.EvaluationSettings(
        job.cache,
        weights=files,
        weights_folder=folder,
        condition_images=None if job.condition_images is None else readers.open_collection(job.condition_images),
        points=job.sampling.points,
        device=distributed.process_device(job.sampling.device),
        workers=job.workers or os.cpu_count() or 1,
        progress=job.reporter.progress,
        log=job.reporter.log,
        announce=job.reporter.announce,
    )


def _check_names(job: EvaluationJob) -> None:
    """Raise UsageError unless there is one printable label for each set of samples and each run, or none at all."""
    sources, names = [*job.samples, *job.runs], job.names
    if names and len(names) != len(sources):
        raise UsageError(
            f"{len(names)} names, and {len(job.samples)} `--samples` and {len(job.runs)} runs",
            hint="give one `--name` for each `--samples`, then one for each `--run`, in their order",
        )
    for name in names:
        if not name.strip() or not name.isprintable():
            raise UsageError(f"`--name {name!r}` is not a line of text", hint="name a label, as in `--name ours`")
        if names.count(name) > 1:
            raise UsageError(f"`--name {name}` is there twice", hint="name each differently")


def _check_out(job: EvaluationJob) -> None:
    """Raise UsageError if results exist already, are files of another program, or cannot be written."""
    for folder in (job.out, job.out / "samples", job.cache):
        if os.path.exists(folder) and not folder.is_dir():  # False for a name that no file can have
            raise UsageError(f"`{folder}` is a file", hint="name a folder")
    for name in (results.METRICS, results.REPORT):
        if os.path.isdir(job.out):
            if (job.out / name).exists() and not job.overwrite:
                if not finished.is_recorded(job.out, job.cache):
                    raise UsageError(f"`{job.out / name}` exists already", hint=finished.HINT)
                continue
            atomic_write.check_writable(job.out / name, overwrite=job.overwrite)
            if (job.out / name).exists() and not results.is_own(job.out / name):
                raise UsageError(f"`inrflow eval` did not write `{job.out / name}`", hint="name another folder")
