"""What `eval` does: sample the runs, judge all samples by one reference, and tell the result."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inrflow_cli import console, drawn, generation
from inrflow_cli.drawn import EvaluatedModel, SamplingSettings, SamplingWork
from inrflow_core.errors import IntegrityError, MissingError, UsageError, did_you_mean
from inrflow_core.feature_networks._contract import names_for_metrics
from inrflow_core.runtime import units

if TYPE_CHECKING:
    from inrflow_core.evaluation.evaluator import Evaluator
    from inrflow_core.evaluation.memorization import MemorizationSet
    from inrflow_core.evaluation.metric_specs import MetricSpec
    from inrflow_core.evaluation.reference_stats import ReferenceStats
    from inrflow_core.evaluation.results import EvaluatedSamples, Results
    from inrflow_core.sample_files.collection import SampleCollection

MOST = 50_000
"""Samples drawn where nobody says how many and the reference has more."""


@dataclass(frozen=True)
class EvaluationJob:
    """What is to be judged, by what, and where the results go."""

    out: Path
    runs: Sequence[Path]
    samples: Sequence[Path]
    reference: Path | None
    metrics: Sequence[str]
    split: str | None
    classes: Sequence[str]
    reference_num: int | None
    samples_split: str | None
    training: Path | None
    pictures: Path | None
    weights: Sequence[str]
    sampling: SamplingSettings
    is_enlarged: bool
    workers: int | None
    overwrite: bool


@dataclass(frozen=True)
class CheckedEvaluationJob:
    """A job whose places and names were checked."""

    job: EvaluationJob
    targets: Sequence[EvaluatedModel]
    given: Sequence[EvaluatedSamples]
    reference: SampleCollection | ReferenceStats
    chosen: Sequence[MetricSpec]
    judge: Evaluator
    work: SamplingWork
    """How the targets are sampled."""
    missing: Mapping[str, MissingError]
    """Chosen metrics whose weights are absent, by their full names."""
    training: MemorizationSet | None
    """Where copies are looked for."""


def check(job: EvaluationJob) -> CheckedEvaluationJob:
    """Everything that can be known before the first sample is drawn.

    Raises:
        MissingError: a run, samples or the reference are not there.
        UsageError: names that there are not, domains that differ, results that are there already.
    """
    from inrflow_core.domains._contract import domain_class
    from inrflow_core.evaluation import evaluator, memorization, metric_specs, results
    from inrflow_core.sample_files import collection, readers

    _check_out(job)
    _check_is_used(job)
    samples = [
        readers.open_collection(place, job.samples_split, ("samples",), all_models=True) for place in job.samples
    ]
    places = drawn.unique_names([some.name for some in samples])
    given = [results.EvaluatedSamples(name, some) for name, some in zip(places, samples, strict=True)]
    runs = drawn.unique_names([drawn.run_name(run) for run in job.runs])
    targets = [
        found for run, name in zip(job.runs, runs, strict=True) for found in drawn.targets(run, name, job.sampling)
    ]
    names = drawn.unique_names([*places, *(target.name for target in targets)])[len(places) :]
    targets = [replace(target, name=name) for target, name in zip(targets, names, strict=True)]
    domain = _domain(job, given, targets)
    reference = _open_reference(job, domain)
    chosen = metric_specs.parse_metrics(job.metrics or _default(job, domain, targets), domain)
    judge = evaluator.Evaluator(reference, _setting(job))
    judge.check(chosen)
    missing = judge.missing(chosen)
    if len(missing) == len(chosen):
        raise next(iter(missing.values()))
    num = job.sampling.num or min(reference.count if isinstance(reference, collection.SampleCollection) else MOST, MOST)
    work = SamplingWork(job.out / "samples", job.sampling, reference, num, job.overwrite)
    sizes = [(f"the samples of {one.items.display_name}", one.items.count, one.items.shape) for one in given]
    for target in targets:
        shape = drawn.sample_shape(target, job.sampling, is_enlarged=job.is_enlarged)
        sizes.append((f"the samples of `{target.name}`", drawn.num_samples(target, work), shape))
    for what, count, shape in sizes:
        metric_specs.check_compatible(what, domain, shape, reference)
        metric_specs.check_counts(chosen, what, count, reference)
        metric_specs.check_points(chosen, what, shape, reference)
    copied = None if job.training is None else readers.open_collection(job.training, prefer=("train",))
    if copied is not None:
        for _, _, shape in sizes:
            metric_specs.check_compatible("the samples", domain, shape, copied, role="the training set")
    searches = domain_class(domain).MEMORIZATION is not None
    training = memorization.memorization_set(reference, copied) if searches else None
    return CheckedEvaluationJob(job, targets, given, reference, chosen, judge, work, missing, training)


def run_evaluation(ready: CheckedEvaluationJob) -> Results | None:
    """Sample, judge, and write metrics.json and report.html; None in a process of a launcher that does not lead."""
    from inrflow_core.evaluation import results
    from inrflow_core.runtime import distributed

    try:
        ready.job.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(
            f"the folder `{ready.job.out}` cannot be made: {error.strerror}", hint="name another place"
        ) from error
    _warn(ready.missing)
    here = [metric for metric in ready.chosen if metric.full not in ready.missing]
    judged, failed = [], {}
    for subject in subjects(ready):
        console.info(f"judging {subject.items.count:,} samples of `{subject.name}`")
        scores = []
        for metric in here:
            try:
                scores.append(ready.judge.score(subject, metric, here))
            except (UsageError, IntegrityError) as error:
                failed[metric.full] = error
        judged.append(results.SampleScores(subject, scores, ready.judge.structures(subject)))
    if not distributed.find(os.environ, "cpu").leads:
        return None
    if failed and not any(one.scores for one in judged):
        raise next(iter(failed.values()))
    found = results.Results(ready.reference, judged, ready.missing, failed)
    _write(ready, found)
    return found


def _write(ready: CheckedEvaluationJob, found: Results) -> None:
    """Write both files when both are ready: the same command goes on only where neither is there."""
    from inrflow_core.evaluation import report_data, results
    from inrflow_core.report.page import write

    if ready.training is None:
        page = report_data.build_report(found, None)
    else:
        with console.track("looking for copies of training items", "items") as progress:
            page = report_data.build_report(found, ready.training, progress)
    write(ready.job.out / results.REPORT, page)
    found.save(ready.job.out)
    console.info(f"wrote `{ready.job.out / results.METRICS}` and `{ready.job.out / results.REPORT}`")


def subjects(ready: CheckedEvaluationJob) -> Iterator[EvaluatedSamples]:
    """The samples that were given, then those of each target, drawn when their turn comes."""
    from inrflow_core.runtime import distributed

    if distributed.find(os.environ, "cpu").leads:
        yield from ready.given
    for target in ready.targets:
        yield from drawn.iter_sample_sets(target, ready.work, is_enlarged=ready.job.is_enlarged)


def predict(ready: CheckedEvaluationJob, *, as_json: bool) -> None:
    """Tell what would be done and how long it would take, from a few items that are timed; nothing is written."""
    here = [metric for metric in ready.chosen if metric.full not in ready.missing]
    sizes = [(subject.items.count, subject.items.shape) for subject in ready.given]
    rows = []
    for target in ready.targets:
        count = drawn.num_samples(target, ready.work)
        rows.append((f"draw {count:,} samples of `{target.name}`", drawn.estimate_seconds(target, ready.work)))
        sizes.append((count, drawn.sample_shape(target, ready.job.sampling, is_enlarged=ready.job.is_enlarged)))
    for count, shape in sizes:
        rows += ready.judge.foretell(here, count, shape[0] if shape else None)
    total = sum(seconds for _, seconds in rows)
    console.table(
        ("work", "about"),
        [*((what, units.format_duration(s)) for what, s in rows), ("all", units.format_duration(total))],
    )
    _warn(ready.missing)
    told = {"metrics": [metric.full for metric in ready.chosen], "missing": list(ready.missing), "seconds": total}
    console.print_json(told, as_json=as_json)


def _warn(missing: Mapping[str, MissingError]) -> None:
    """Say of each absent file what it is, where it comes from and where it goes."""
    for error in {error.message: error for error in missing.values()}.values():
        console.warn(f"{error.message}; the other metrics are computed. For all of them, {error.hint}")


def split_metric_names(texts: Sequence[str] | None) -> list[str]:
    """Names of metrics from `fid,kid` given once or more; none where nothing is given.

    Raises:
        UsageError: what is given names none.
    """
    found = [name.strip() for text in texts or [] for name in text.split(",") if name.strip()]
    if texts and not found:
        raise UsageError("`--metrics` names no metric", hint="`inrflow eval --list` says them all")
    return found


def cache_reference_stats(shards: Path, metrics: Sequence[str]) -> None:
    """Make and keep what metrics need of the pictures of prepared shards, in the split that is their reference."""
    from inrflow_core.domains._contract import domain_class
    from inrflow_core.evaluation import evaluator, gather, metric_specs
    from inrflow_core.sample_files import readers

    domain = readers.open_collection(shards).domain
    reference = readers.open_collection(shards, prefer=domain_class(domain).REFERENCE_SPLITS)
    setting = gather.EvaluationSettings(
        shards, device=generation.choose_device(None), watch=console.track, say=console.info
    )
    evaluator.Evaluator(reference, setting).keep(metric_specs.parse_metrics(metrics, domain))
    console.info(f"kept in `{shards / gather.STATISTICS}` what {', '.join(metrics)} need of {reference.display_name}")


def _domain(job: EvaluationJob, given: Sequence[EvaluatedSamples], targets: Sequence[EvaluatedModel]) -> str:
    """The one domain of all that is judged.

    Raises:
        UsageError: there are several, or points are asked of what is no cloud.
    """

    from inrflow_core.domains._contract import domain_class

    domains = {subject.items.domain for subject in given} | {target.domain.NAME for target in targets}
    if len(domains) > 1:
        raise UsageError(
            f"{' and '.join(sorted(domains))} cannot be judged together", hint="evaluate them one after the other"
        )
    (domain,) = domains
    kind = domain_class(domain)
    if kind.SIZE_OPTION != "--points" and job.sampling.points is not None:
        raise UsageError(f"`--points` does not apply to {kind.NOUN}", hint="leave it out")
    return domain


def _default(job: EvaluationJob, domain: str, targets: Sequence[EvaluatedModel]) -> Sequence[str]:
    """What is computed where no metric is named: nothing that needs weights."""
    from inrflow_core.domains._contract import domain_class
    from inrflow_core.sampling import reference_inputs

    names = [*domain_class(domain).DEFAULT_METRICS]
    kinds = {target.kind for target in targets}
    if len(kinds) == 1 and not job.samples:
        names += reference_inputs.metrics_of(kinds.pop())
    if (job.sampling.samples_per_item or 1) > 1:
        names += domain_class(domain).METRICS_OF_SEVERAL
    return names


def _open_reference(job: EvaluationJob, domain: str) -> SampleCollection | ReferenceStats:
    from inrflow_core import models
    from inrflow_core.domains._contract import domain_class
    from inrflow_core.evaluation import reference_stats
    from inrflow_core.runs import run
    from inrflow_core.sample_files import collection, readers

    place = job.reference
    classes = job.classes
    if place is None and job.runs:
        data = models.read_metadata(run.resolve_weights(job.runs[0]))[0].data.config
        place, classes = Path(data.path), classes or data.classes
        of = f", of the classes {', '.join(classes)}" if classes else ""
        console.info(f"judging by the shards that the run was trained on, `{place}`{of}")
    if place is None:
        raise UsageError("nothing to judge by is named", hint="add `--reference PLACE`")
    if reference_stats.is_stats_file(place):
        if job.split is not None:
            raise UsageError(f"`{place}` holds statistics, so it has no split `{job.split}`", hint="leave it out")
        for name, is_given in (("--classes", bool(classes)), ("--reference-num", job.reference_num is not None)):
            if is_given:
                raise UsageError(f"`{place}` holds statistics, so `{name}` says nothing", hint="leave it out")
        return reference_stats.read(place)
    found = readers.open_collection(place, job.split, domain_class(domain).REFERENCE_SPLITS)
    found = collection.filter_classes(found, classes) if classes else found
    return collection.evenly_spaced_items(found, job.reference_num) if job.reference_num else found


def _setting(job: EvaluationJob) -> Any:
    from inrflow_core import registry
    from inrflow_core.evaluation import gather
    from inrflow_core.sample_files import readers

    files, folder = {}, None
    for text in job.weights:
        name, equals, place = text.partition("=")
        if equals:
            networks = [n for n in names_for_metrics() if registry.find("feature_networks", n).WEIGHTS is not None]
            if name not in networks:
                raise UsageError(f"no network `{name}` takes weights", hint=did_you_mean(name, networks))
            files[name] = Path(place)
        elif Path(text).is_dir():
            folder = Path(text)
        else:
            raise MissingError(f"the weights folder `{text}` does not exist", hint="name a folder, or `NETWORK=FILE`")
    return gather.EvaluationSettings(
        job.out / "kept",
        weights=files,
        weights_folder=folder,
        pictures=None if job.pictures is None else readers.open_collection(job.pictures),
        points=job.sampling.points,
        device=generation.choose_device(job.sampling.device),
        workers=job.workers or os.cpu_count() or 1,
        watch=console.track,
        say=console.info,
    )


def _check_out(job: EvaluationJob) -> None:
    """Nothing, where results can be written.

    Raises:
        UsageError: there are some already, or the folder cannot be made.
    """
    from inrflow_core.evaluation import results
    from inrflow_core.storage import atomic_write

    for folder in (job.out, job.out / "samples", job.out / "kept"):
        if os.path.exists(folder) and not folder.is_dir():  # False for a name that no file can have
            raise UsageError(f"`{folder}` is a file", hint="name a folder")
    for name in (results.METRICS, results.REPORT):
        if os.path.isdir(job.out):
            if (job.out / name).exists() and not job.overwrite:
                raise UsageError(
                    f"`{job.out / name}` exists already",
                    hint="add `--overwrite` (what was drawn and gathered is used again), or name another folder",
                )
            atomic_write.check_writable(job.out / name, overwrite=job.overwrite)


def _check_is_used(job: EvaluationJob) -> None:
    """Nothing, where every option that is given acts on something.

    Raises:
        UsageError: one speaks of runs or of samples, and there are none.
    """
    told = vars(job.sampling) | {"enlarged": job.is_enlarged or None}
    idle = {"checkpoints": "newest", "seed": 0}
    for name, value in told.items():
        if not job.runs and name not in ("device", "points") and value not in (None, idle.get(name)):
            option = f"--{name.replace('_', '-')}"
            raise UsageError(
                f"`{option}` says how a run is sampled, and there is none", hint="leave it out, or add `--run DIR`"
            )
    if not job.samples and job.samples_split:
        raise UsageError("`--samples-split` is of samples, and there are none", hint="leave it out")
