"""What `eval` does: sample the runs, judge all samples by one reference, and tell the result."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inrflow_cli import console, generation
from inrflow_core.errors import IntegrityError, MissingError, UsageError, did_you_mean

if TYPE_CHECKING:
    from inrflow_core.evaluate import Chosen, Judge, Subject
    from inrflow_core.fields import Progress
    from inrflow_core.generate import Size
    from inrflow_core.inspection import Training
    from inrflow_core.items import Items
    from inrflow_core.models import Model
    from inrflow_core.results import Results
    from inrflow_core.statistics_files import Statistics

PREFERRED = {"image": ("train",), "points": ("test", "val", "train"), "protein": ("test", "val", "train")}
"""Splits of a reference: FID compares with what was trained on, the metrics of clouds and proteins with what was not."""
MOST = 50_000
"""Samples drawn where nobody says how many and the reference has more."""
ENLARGED = ("bilinear", "bicubic")


@dataclass(frozen=True)
class Sampling:
    """How runs are sampled."""

    checkpoints: str
    num: int | None
    seed: int
    label: str | None
    guidance: float | None
    sampler: str | None
    steps: int | None
    resolution: str | None
    points: int | None
    noise: str | None
    ema: float | None
    batch: int | None
    device: str | None


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
class Target:
    """Weights to sample and judge."""

    name: str
    run: str
    """The run's name, which no other run of the evaluation has."""
    weights: Path


@dataclass(frozen=True)
class Ready:
    """A job whose places and names were checked."""

    job: Job
    targets: Sequence[Target]
    given: Sequence[Subject]
    reference: Items | Statistics
    chosen: Sequence[Chosen]
    judge: Judge
    num: int
    """Samples of each run."""
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
    from inrflow_core import evaluate, inspection, items, registry
    from inrflow_core.training import world

    if world.find(os.environ, "cpu").size > 1:
        raise UsageError(
            "`eval` runs as one process", hint="draw with many by `inrflow sample OUT.h5`, then give it to `--samples`"
        )
    _check_out(job)
    _check_is_used(job)
    samples = [items.open_items(place, job.samples_split, ("samples",)) for place in job.samples]
    places = _distinct([some.name for some in samples])
    given = [evaluate.Subject(name, some) for name, some in zip(places, samples, strict=True)]
    targets = [
        target
        for run, name in zip(job.runs, _distinct([_stem(run) for run in job.runs]), strict=True)
        for target in _targets(run, name, job.sampling)
    ]
    names = _distinct([*places, *(target.name for target in targets)])[len(places) :]
    targets = [replace(target, name=name) for target, name in zip(targets, names, strict=True)]
    domains = {subject.items.domain for subject in given} | {_domain(target).NAME for target in targets}
    if len(domains) > 1:
        raise UsageError(
            f"{' and '.join(sorted(domains))} cannot be judged together", hint="evaluate them one after the other"
        )
    domain = domains.pop()
    if domain != "points" and job.sampling.points is not None:
        raise UsageError(f"`--points` asks a cloud, and these are {items.NOUNS[domain]}", hint="leave it out")
    reference = _open_reference(job, domain)
    chosen = evaluate.choose(job.metrics or registry.find("domains", domain).Domain.METRICS, domain)
    judge = evaluate.Judge(reference, _setting(job))
    judge.check(chosen)
    missing = judge.missing(chosen)
    if len(missing) == len(chosen):
        raise next(iter(missing.values()))
    num = job.sampling.num or min(reference.count if isinstance(reference, items.Items) else MOST, MOST)
    shapes = [subject.items.shape for subject in given] + [_shape(target, job) for target in targets]
    for subject in given:
        what = f"the samples of {subject.items.spelled}"
        evaluate.check(what, domain, subject.items.shape, reference)
        evaluate.check_counts(chosen, what, subject.items.count, reference)
        evaluate.check_points(chosen, what, subject.items.shape, reference)
    for target in targets:
        what = f"the samples of `{target.name}`"
        evaluate.check(what, domain, _shape(target, job), reference)
        evaluate.check_counts(chosen, what, num, reference)
        evaluate.check_points(chosen, what, _shape(target, job), reference)
    copied = None if job.training is None else items.open_items(job.training, prefer=("train",))
    if copied is not None:
        for shape in shapes:
            evaluate.check("the samples", domain, shape, copied, role="the training set")
    training = inspection.training_of(reference, copied)
    return Ready(job, targets, given, reference, chosen, judge, num, missing, training)


def carry_out(ready: Ready) -> Results:
    """Sample, judge, and write metrics.json and report.html."""
    from inrflow_core import results

    try:
        ready.job.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(
            f"the folder `{ready.job.out}` cannot be made: {error.strerror}", hint="name another place"
        ) from error
    _warn(ready.missing)
    here = [metric for metric in ready.chosen if metric.full not in ready.missing]
    judged, failed = [], {}
    for subject in _subjects(ready):
        console.say(f"judging {subject.items.count:,} samples of `{subject.name}`")
        scores = []
        for metric in here:
            try:
                scores.append(ready.judge.score(subject, metric, here))
            except (UsageError, IntegrityError) as error:
                failed[metric.full] = error
        judged.append(results.Judged(subject, scores, ready.judge.structures(subject)))
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


def predict(ready: Ready, *, as_json: bool) -> None:
    """Tell what would be done and how long it would take, from a few items that are timed; nothing is written."""
    here = [metric for metric in ready.chosen if metric.full not in ready.missing]
    rows = [
        (f"draw {ready.num:,} samples of `{target.name}`", _drawing_seconds(ready, target)) for target in ready.targets
    ]
    sizes = [(subject.items.count, subject.items.shape) for subject in ready.given]
    for count, shape in [*sizes, *((ready.num, _shape(target, ready.job)) for target in ready.targets)]:
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


def _drawing_seconds(ready: Ready, target: Target) -> float:
    """What drawing a target's samples takes, from two solver steps of a few of them."""
    import time

    from inrflow_core import generate, models, solve

    wanted = ready.job.sampling
    model = models.load(target.weights, generation.choose_device(wanted.device))
    size = generation.choose_size(model.domain, wanted.resolution, wanted.points)
    how = _drawing(model, wanted)
    few = generate.drawing(model, sampler="euler", steps=2, guidance=wanted.guidance)
    whole = generate.Request(range(ready.num), generate.choose_labels(model, range(ready.num), wanted.label), size)
    batch = wanted.batch or generate.default_batch(model, whole)
    labels = None if whole.labels is None else whole.labels[:batch]
    start = time.perf_counter()
    for _ in generate.samples(model, replace(whole, seeds=whole.seeds[:batch], labels=labels, batch=batch), few):
        pass
    each = (time.perf_counter() - start) / min(batch, ready.num) / 2
    return each * solve.evaluations(how.sampler, how.config) * ready.num


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


def _subjects(ready: Ready) -> Iterator[Subject]:
    """The samples that were given, then those of each target, drawn when their turn comes."""
    yield from ready.given
    for target in ready.targets:
        yield from _drawn(ready, target)


def _drawn(ready: Ready, target: Target) -> Iterator[Subject]:
    """The samples of one target; with `--enlarged` also enlargements of its samples at the training's resolution."""
    from inrflow_core import evaluate, items, models

    job = ready.job
    model = models.load(target.weights, generation.choose_device(job.sampling.device))
    size = generation.choose_size(model.domain, job.sampling.resolution, job.sampling.points)
    place, facts = _sample(ready, target, model, size)
    yield evaluate.Subject(target.name, items.open_items(place), facts)
    if job.is_enlarged and isinstance(size, tuple):
        place, facts = _sample(ready, target, model, None)
        coarse = items.open_items(place)
        for filter in ENLARGED:
            enlarged = items.enlarged(coarse, size, filter)
            name = f"{target.name}, {filter}"
            yield evaluate.Subject(name, enlarged, {**facts, "enlarged": filter, "run": name})


def _sample(ready: Ready, target: Target, model: Model, size: Size) -> tuple[Path, dict[str, Any]]:
    """The shard of a target's samples, drawn where it is not there yet, and what is known of them."""
    from inrflow_core import generate, sample_shards, solve

    wanted, overwrite = ready.job.sampling, ready.job.overwrite
    how = _drawing(model, wanted)
    seeds = range(wanted.seed, wanted.seed + ready.num)
    request = generate.Request(seeds, generate.choose_labels(model, seeds, wanted.label), size, batch=wanted.batch)
    origin = generate.origin(model, target.weights, request, how)
    asked = "" if size is None else f"-{origin['size']}"
    place = ready.job.out / "samples" / f"{target.name}{asked}.h5"
    place.parent.mkdir(parents=True, exist_ok=True)
    is_drawn = generate.is_drawn(place, request, origin, overwrite=overwrite)
    if not is_drawn or not sample_shards.is_whole(place, overwrite=overwrite):
        sample_shards.unseal(place)
        generation.write_shard(model, request, how, place, origin, overwrite=overwrite)
    sample_shards.seal(place)
    facts = {
        **{key: text for key, text in origin.items() if key != "labels"},
        "label": None if request.labels is None else wanted.label or "random",
        "nfe": solve.evaluations(how.sampler, how.config),
        "parameters": sum(parameter.numel() for parameter in model.method.parameters()),
        "samples_seen": model.info.get("samples_seen"),
        "flops": model.info.get("flops"),
        "run": target.run,
    }
    return place, facts


def _drawing(model: Model, wanted: Sampling) -> Any:
    from inrflow_core import generate

    return generate.drawing(
        model, sampler=wanted.sampler, steps=wanted.steps, guidance=wanted.guidance, noise=wanted.noise
    )


def _stem(run: Path) -> str:
    """What a run or a weights file is called, where no text can hold a byte of it with a mark in its stead."""
    stem = run.stem if run.is_file() else run.name or run.resolve().name
    return os.fsencode(stem).decode(errors="replace")


def _targets(source: Path, run: str, sampling: Sampling) -> list[Target]:
    """The checkpoints of a run that are to be judged."""
    from inrflow_core import runs

    def target(step: Any, name: str) -> Target:
        return Target(name, run, runs.weights_file(source, ema=sampling.ema, step=step))

    if sampling.checkpoints != "all":
        texts = sampling.checkpoints.split(",")
        steps = [generation.parse_checkpoint(text.strip(), "--checkpoints") for text in texts]
    else:
        opened = runs.open_run(source)
        steps = list(opened.steps) or [opened.checkpoint()]  # the latter raises
    if sampling.checkpoints == "newest":
        return [target(None, run)]
    return [
        target(step, f"{run}-{step:08d}" if isinstance(step, int) else f"{run}-{step or 'newest'}") for step in steps
    ]


def _distinct(names: Sequence[str]) -> list[str]:
    """The names, a number behind those that were there before: runs in two folders may have one name."""
    found: list[str] = []
    for name in names:
        free, number = name, 2
        while free in found:
            free, number = f"{name}-{number}", number + 1
        found.append(free)
    return found


def _domain(target: Target) -> Any:
    """The domain of what a target draws."""
    from inrflow_core import models, registry

    part = models.read_header(target.weights)[0].domain
    return registry.find("domains", part.name or "").Domain(part.config)


def _shape(target: Target, job: Job) -> tuple[int, ...]:
    """The shape of a target's samples, as they are asked for.

    Raises:
        UsageError: a size of the wrong kind, or enlargements of what is not asked more finely.
    """
    domain = _domain(target)
    size = generation.choose_size(domain, job.sampling.resolution, job.sampling.points)
    if job.is_enlarged and not isinstance(size, tuple):
        raise UsageError("`--enlarged` compares pictures asked more finely", hint="add `--resolution HxW`")
    grid = size if isinstance(size, tuple) else domain.shape.grid or (size or domain.shape.num_pairs,)
    return (*grid, domain.shape.value_size)


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
            raise UsageError(
                f"`--{name}` says how a run is sampled, and there is none", hint="leave it out, or add `--run DIR`"
            )
    if not job.samples and job.samples_split:
        raise UsageError("`--samples-split` is of samples, and there are none", hint="leave it out")
