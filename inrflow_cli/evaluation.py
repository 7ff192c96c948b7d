"""What `eval` does: sample the runs, judge all samples by one reference, and tell the result."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inrflow_cli import console, drawn, generation
from inrflow_cli.drawn import Sampling, Target, Work
from inrflow_core.errors import IntegrityError, MissingError, UsageError, did_you_mean

if TYPE_CHECKING:
    from inrflow_core.evaluate import Chosen, Judge, Subject
    from inrflow_core.fields import Progress
    from inrflow_core.inspection import Training
    from inrflow_core.items import Items
    from inrflow_core.results import Results
    from inrflow_core.statistics_files import Statistics

PREFERRED = {"image": ("train",), "points": ("test", "val", "train"), "protein": ("test", "val", "train")}
"""Splits of a reference: FID compares with what was trained on, the metrics of clouds and proteins with what was not."""
MOST = 50_000
"""Samples drawn where nobody says how many and the reference has more."""
OF_SEVERAL = ("lddt:best", "tm-score:best", "rmsd:best")
"""What several structures of each protein are judged by, beside the metrics of one."""


@dataclass(frozen=True)
class Job:
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
    sampling: Sampling
    is_enlarged: bool
    workers: int | None
    overwrite: bool


@dataclass(frozen=True)
class Ready:
    """A job whose places and names were checked."""

    job: Job
    targets: Sequence[Target]
    given: Sequence[Subject]
    reference: Items | Statistics
    chosen: Sequence[Chosen]
    judge: Judge
    work: Work
    """How the targets are sampled."""
    missing: Mapping[str, MissingError]
    """Chosen metrics whose weights are absent, by their full names."""
    training: Training | None
    """Where copies are looked for."""


def check(job: Job) -> Ready:
    """Everything that can be known before the first sample is drawn.

    Raises:
        MissingError: a run, samples or the reference are not there.
        UsageError: names that there are not, domains that differ, results that are there already.
    """
    from inrflow_core import evaluate, inspection, items

    _check_out(job)
    _check_is_used(job)
    samples = [items.open_items(place, job.samples_split, ("samples",), all_models=True) for place in job.samples]
    places = drawn.distinct([some.name for some in samples])
    given = [evaluate.Subject(name, some) for name, some in zip(places, samples, strict=True)]
    runs = drawn.distinct([drawn.stem(run) for run in job.runs])
    targets = [
        found for run, name in zip(job.runs, runs, strict=True) for found in drawn.targets(run, name, job.sampling)
    ]
    names = drawn.distinct([*places, *(target.name for target in targets)])[len(places) :]
    targets = [replace(target, name=name) for target, name in zip(targets, names, strict=True)]
    domain = _domain(job, given, targets)
    reference = _open_reference(job, domain)
    chosen = evaluate.choose(job.metrics or _default(job, domain, targets), domain)
    judge = evaluate.Judge(reference, _setting(job))
    judge.check(chosen)
    missing = judge.missing(chosen)
    if len(missing) == len(chosen):
        raise next(iter(missing.values()))
    num = job.sampling.num or min(reference.count if isinstance(reference, items.Items) else MOST, MOST)
    work = Work(job.out / "samples", job.sampling, reference, num, job.overwrite)
    sizes = [(f"the samples of {one.items.spelled}", one.items.count, one.items.shape) for one in given]
    for target in targets:
        shape = drawn.shape(target, job.sampling, is_enlarged=job.is_enlarged)
        sizes.append((f"the samples of `{target.name}`", drawn.count(target, work), shape))
    for what, count, shape in sizes:
        evaluate.check(what, domain, shape, reference)
        evaluate.check_counts(chosen, what, count, reference)
        evaluate.check_points(chosen, what, shape, reference)
    copied = None if job.training is None else items.open_items(job.training, prefer=("train",))
    if copied is not None:
        for _, _, shape in sizes:
            evaluate.check("the samples", domain, shape, copied, role="the training set")
    training = None if domain == "protein" else inspection.training_of(reference, copied)
    return Ready(job, targets, given, reference, chosen, judge, work, missing, training)


def carry_out(ready: Ready) -> Results | None:
    """Sample, judge, and write metrics.json and report.html; None in a process of a launcher that does not lead."""
    from inrflow_core import results
    from inrflow_core.training import world

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
        console.say(f"judging {subject.items.count:,} samples of `{subject.name}`")
        scores = []
        for metric in here:
            try:
                scores.append(ready.judge.score(subject, metric, here))
            except (UsageError, IntegrityError) as error:
                failed[metric.full] = error
        judged.append(results.Judged(subject, scores, ready.judge.structures(subject)))
    if not world.find(os.environ, "cpu").leads:
        return None
    if failed and not any(one.scores for one in judged):
        raise next(iter(failed.values()))
    found = results.Results(ready.reference, judged, ready.missing, failed)
    _write(ready, found)
    return found


def _write(ready: Ready, found: Results) -> None:
    """Write both files when both are ready: the same command goes on only where neither is there."""
    from inrflow_core import inspection, report, results

    if ready.training is None:
        page = inspection.page(found, None)
    else:
        with _watch("looking for copies of training items", "items") as progress:
            page = inspection.page(found, ready.training, progress)
    report.write(ready.job.out / results.REPORT, page)
    found.save(ready.job.out)
    console.say(f"wrote `{ready.job.out / results.METRICS}` and `{ready.job.out / results.REPORT}`")


def subjects(ready: Ready) -> Iterator[Subject]:
    """The samples that were given, then those of each target, drawn when their turn comes."""
    from inrflow_core.training import world

    if world.find(os.environ, "cpu").leads:
        yield from ready.given
    for target in ready.targets:
        yield from drawn.subjects(target, ready.work, is_enlarged=ready.job.is_enlarged)


def predict(ready: Ready, *, as_json: bool) -> None:
    """Tell what would be done and how long it would take, from a few items that are timed; nothing is written."""
    here = [metric for metric in ready.chosen if metric.full not in ready.missing]
    sizes = [(subject.items.count, subject.items.shape) for subject in ready.given]
    rows = []
    for target in ready.targets:
        count = drawn.count(target, ready.work)
        rows.append((f"draw {count:,} samples of `{target.name}`", drawn.seconds(target, ready.work)))
        sizes.append((count, drawn.shape(target, ready.job.sampling, is_enlarged=ready.job.is_enlarged)))
    for count, shape in sizes:
        rows += ready.judge.foretell(here, count, shape[0] if shape else None)
    total = sum(seconds for _, seconds in rows)
    console.table(
        ("work", "about"), [*((what, console.duration(s)) for what, s in rows), ("all", console.duration(total))]
    )
    _warn(ready.missing)
    told = {"metrics": [metric.full for metric in ready.chosen], "missing": list(ready.missing), "seconds": total}
    console.result(told, as_json=as_json)


def _warn(missing: Mapping[str, MissingError]) -> None:
    """Say of each absent file what it is, where it comes from and where it goes."""
    for error in {error.message: error for error in missing.values()}.values():
        console.warn(f"{error.message}; the other metrics are computed. For all of them, {error.hint}")


def named(texts: Sequence[str] | None) -> list[str]:
    """Names of metrics from `fid,kid` given once or more; none where nothing is given.

    Raises:
        UsageError: what is given names none.
    """
    found = [name.strip() for text in texts or [] for name in text.split(",") if name.strip()]
    if texts and not found:
        raise UsageError("`--metrics` names no metric", hint="`inrflow eval --list` says them all")
    return found


def keep(shards: Path, metrics: Sequence[str]) -> None:
    """Make and keep what metrics need of the pictures of prepared shards, in the split that is their reference."""
    from inrflow_core import evaluate, items

    domain = items.open_items(shards).domain
    reference = items.open_items(shards, prefer=PREFERRED[domain])
    setting = evaluate.Setting(shards, device=generation.choose_device(None), watch=_watch, say=console.say)
    evaluate.Judge(reference, setting).keep(evaluate.choose(metrics, domain))
    console.say(f"kept in `{shards / evaluate.STATISTICS}` what {', '.join(metrics)} need of {reference.spelled}")


def _domain(job: Job, given: Sequence[Subject], targets: Sequence[Target]) -> str:
    """The one domain of all that is judged.

    Raises:
        UsageError: there are several, or points are asked of what is no cloud.
    """
    from inrflow_core import items

    domains = {subject.items.domain for subject in given} | {target.domain.NAME for target in targets}
    if len(domains) > 1:
        raise UsageError(
            f"{' and '.join(sorted(domains))} cannot be judged together", hint="evaluate them one after the other"
        )
    (domain,) = domains
    if domain != "points" and job.sampling.points is not None:
        raise UsageError(f"`--points` asks a cloud, and these are {items.NOUNS[domain]}", hint="leave it out")
    return domain


def _default(job: Job, domain: str, targets: Sequence[Target]) -> Sequence[str]:
    """What is computed where no metric is named: nothing that needs weights."""
    from inrflow_core import from_reference, registry

    names = [*registry.find("domains", domain).Domain.METRICS]
    kinds = {target.kind or "" for target in targets}
    if len(kinds) == 1 and not job.samples:
        names += from_reference.METRICS.get(kinds.pop(), ())
    if domain == "protein" and (job.sampling.samples_per_item or 1) > 1:
        names += OF_SEVERAL
    return names


def _open_reference(job: Job, domain: str) -> Items | Statistics:
    from inrflow_core import items, models, runs, statistics_files

    place = job.reference
    classes = job.classes
    if place is None and job.runs:
        data = models.read_header(runs.weights_file(job.runs[0]))[0].data.config
        place, classes = Path(data.path), classes or data.classes
        of = f", of the classes {', '.join(classes)}" if classes else ""
        console.say(f"judging by the shards that the run was trained on, `{place}`{of}")
    if place is None:
        raise UsageError("nothing to judge by is named", hint="add `--reference PLACE`")
    if statistics_files.is_one(place):
        if job.split is not None:
            raise UsageError(f"`{place}` holds statistics, so it has no split `{job.split}`", hint="leave it out")
        for name, is_given in (("--classes", bool(classes)), ("--reference-num", job.reference_num is not None)):
            if is_given:
                raise UsageError(f"`{place}` holds statistics, so `{name}` says nothing", hint="leave it out")
        return statistics_files.read(place)
    found = items.open_items(place, job.split, PREFERRED[domain])
    found = items.of_classes(found, classes) if classes else found
    return items.spread(found, job.reference_num) if job.reference_num else found


def _setting(job: Job) -> Any:
    from inrflow_core import evaluate, items, registry

    files, folder = {}, None
    for text in job.weights:
        name, equals, place = text.partition("=")
        if equals:
            networks = [n for n in registry.names("features") if registry.find("features", n).WEIGHTS is not None]
            if name not in networks:
                raise UsageError(f"no network `{name}` takes weights", hint=did_you_mean(name, networks))
            files[name] = Path(place)
        elif Path(text).is_dir():
            folder = Path(text)
        else:
            raise MissingError(f"the weights folder `{text}` does not exist", hint="name a folder, or `NETWORK=FILE`")
    return evaluate.Setting(
        job.out / "kept",
        weights=files,
        weights_folder=folder,
        pictures=None if job.pictures is None else items.open_items(job.pictures),
        points=job.sampling.points,
        device=generation.choose_device(job.sampling.device),
        workers=job.workers or os.cpu_count() or 1,
        watch=_watch,
        say=console.say,
    )


@contextmanager
def _watch(title: str, unit: str) -> Iterator[Progress]:
    with console.progress(None, unit, title=title) as shown:
        yield generation.report(shown)


def _check_out(job: Job) -> None:
    """Nothing, where results can be written.

    Raises:
        UsageError: there are some already, or the folder cannot be made.
    """
    from inrflow_core import outputs, results

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
            outputs.check_output(job.out / name, overwrite=job.overwrite)


def _check_is_used(job: Job) -> None:
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
