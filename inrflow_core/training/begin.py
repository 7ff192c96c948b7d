"""From a command to a run: everything that can be wrong is found here, before the first step."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from inrflow_core import manifest, models, noise, registry, runs
from inrflow_core.errors import MissingError, UsageError
from inrflow_core.presets import Preset
from inrflow_core.shards import Shards
from inrflow_core.training import advice, checkpoint, engine, evaluation, features, log, plan, run_folder, world
from inrflow_core.training.checkpoint import Counters
from inrflow_core.training.ema import Average
from inrflow_core.training.engine import Engine
from inrflow_core.training.evaluation import Evaluation
from inrflow_core.training.loader import Loader, shares
from inrflow_core.training.log import Record
from inrflow_core.training.plan import Plan, Planner
from inrflow_core.training.run_folder import Begun
from inrflow_core.training.trainer import Trainer
from inrflow_core.training.world import World

HELD_OUT = 1
"""The word that tells the held-out loss's seeds from the training's."""


@dataclass(frozen=True)
class Job:
    """What a command asks for."""

    preset: Preset
    out: Path
    data: Path | None = None
    """Where the shards lie, if not where the preset says."""
    device: str | None = None
    threads: int | None = None
    init_from: Path | None = None
    """A run or a weights file to begin with, instead of random weights."""
    until: int | None = None
    """Stop after this step, as if interrupted there; the last step by default."""
    overwrite: bool = False
    check_data: bool = True
    """Read every byte of the shards and compare it with the manifest's digests, before the first step."""
    say: Callable[[str], None] = lambda text: None
    report: Callable[[Record], None] = lambda record: None


@dataclass(frozen=True)
class Ready:
    """A job whose files, settings and sizes were checked; nothing is built or written yet."""

    job: Job
    world: World
    loader: Loader
    held_out: Loader | None
    begun: Begun | None
    precision: str
    places: list[range]
    plan: Plan
    initial: Path | None
    """Weights to begin with, where the job names some and the run has no step of its own yet."""
    evaluation: Evaluation | None
    foretold: float
    """Seconds that the first evaluation takes beside the drawing, on the leading process."""

    @property
    def last(self) -> int:
        """The step after which this call ends."""
        steps = self.job.preset.training.config.steps
        return steps if self.job.until is None else min(self.job.until, steps)

    @property
    def data(self) -> str:
        """The digest of the data's manifest."""
        return manifest.digest(self.loader.shards.folder / manifest.NAME)


def check(job: Job, environment: dict[str, str]) -> Ready:
    """Everything that can be known without building the model.

    Raises:
        MissingError: the shards, the weights to begin with or those of a metric's network are absent.
        UsageError: data of another domain, classes or features that do not fit, metrics that cannot be computed, a run
            with other settings, a device that is not there, a batch that does not divide.
    """
    preset, settings = job.preset, job.preset.training.config
    place = world.find(environment, job.device)
    if job.threads is not None:
        torch.set_num_threads(job.threads)
    loader, held_out = open_data(preset, job.data)
    begun = None if job.overwrite else run_folder.inspect(job.out, preset)
    precision = world.choose_precision(settings.precision, place.device, begun.precision if begun else None)
    places = shares(batch=settings.batch, rank=place.rank, size=place.size, micro=settings.micro_batch)
    predicted = plan.predict(preset, place, precision=precision, micro=len(places[0]))
    is_fresh = begun is None or begun.step is None
    initial = runs.weights_file(job.init_from) if job.init_from is not None and is_fresh else None
    evaluated = evaluation.prepare(preset, loader.shards, job.out, str(place.device))
    foretold = evaluated.foretell() if evaluated is not None and place.leads else 0.0
    ready = Ready(job, place, loader, held_out, begun, precision, places, predicted, initial, evaluated, foretold)
    if begun is not None:
        run_folder.check_same_data(job.out, begun, ready.data)
        run_folder.check_same_start(job.out, begun, job.init_from)
    return ready


def check_room(ready: Ready) -> None:
    """Nothing, where memory and disk suffice.

    Raises:
        OutOfMemory: one of them does not; says by how much.
    """
    present = run_folder.checkpoint_bytes(ready.job.out)
    plan.check_disk(ready.plan, ready.job.out, present)
    planner, micro = _planner(ready), len(ready.places[0])
    plan.check_memory(ready.plan, ready.world, lambda free: advice.find(planner, micro, free).hint())


def begin(ready: Ready) -> Trainer:
    """Build the model, bring it to where the run stands, and record the run.

    Raises:
        UsageError: another process trains in the run's folder, or the embedder does not fit the settings or the run.
        MissingError: the weights of an embedder that computes in training are absent.
        IntegrityError: a shard, the newest checkpoint or the weights to begin with are damaged.
    """
    job, place, settings = ready.job, ready.world, ready.job.preset.training.config
    embedder = features.prepare(job.preset, ready.loader, place.device)
    told = features.told(job.preset, ready.loader, embedder)
    if ready.begun is not None and ready.begun.step is not None:
        features.check_same(job.out, ready.begun.step, told)
    if place.leads:
        log.check_free(job.out)
        if job.check_data:
            _check_shards(ready)
    engine.join(place)
    model = replace(_build(ready), info={"classes": ready.loader.classes, "normalisation": told})
    if embedder is not None:
        model.method.conditioner.use(embedder)
    driven = Engine(model.method, settings, place, precision=ready.precision, num_micro=len(ready.places))
    averages = [Average(decay, driven.own()) for decay in settings.ema]
    counters, change = _resume(ready, driven, averages)
    best = None
    if place.leads:
        _record(ready)
        best = evaluation.settle(ready.evaluation, job.out, counters.step)
        # A kill behind the last checkpoint may have left one too many.
        checkpoint.prune(job.out, settings.keep, best.step if best else None)
    driven.wait()
    _tell(ready, counters, change)
    return Trainer(
        job.out,
        model,
        driven,
        averages,
        ready.loader,
        ready.held_out,
        ready.places,
        flops=ready.plan.total_flops,
        precision=ready.precision,
        say=job.say if place.leads else lambda text: None,
        report=job.report,
        counters=counters,
        saved=ready.begun.step if ready.begun else None,
        evaluation=ready.evaluation,
        best=best,
    )


def train(job: Job, environment: dict[str, str] | None = None) -> Trainer:
    """Check, begin, and train to the end, or to `until`; `environment` is where a launcher says which process this is.

    Raises:
        Interrupted, Diverged: see `Trainer.run`; else see `check`, `check_room` and `begin`.
        OutOfMemory: there was not enough memory for a step; says what takes less.
    """
    ready = check(job, environment or {})
    check_room(ready)
    with advised(ready, ready.begun.step if ready.begun else None):
        trainer = begin(ready)
    with advised(ready, trainer):
        trainer.run(ready.last)
    return trainer


def advised(ready: Ready, saved: Trainer | int | None) -> AbstractContextManager[None]:
    """Inside the block, running out of memory says what helps; `saved` is the newest checkpoint's step, or who knows it."""
    if isinstance(saved, Trainer):
        return advice.out_of_memory(_planner(ready), len(ready.places[0]), lambda: saved.saved)
    return advice.out_of_memory(_planner(ready), len(ready.places[0]), lambda: saved, in_step=False)


def _planner(ready: Ready) -> Planner:
    return Planner(ready.job.preset, ready.world, ready.precision)


def open_data(preset: Preset, data: Path | None) -> tuple[Loader, Loader | None]:
    """The training data and the held-out data of a preset.

    Raises:
        MissingError: there are no shards; says what was looked for, where, and what makes them.
        UsageError: they are of another domain or shape, their classes are not the preset's, or a split is absent.
    """
    config, settings = preset.data.config, preset.training.config
    shards = _open_shards(preset, Path(config.path) if data is None else data)
    if shards.domain != preset.domain.name:
        raise UsageError(
            f"the shards in `{shards.folder}` hold {shards.domain}, and the preset `{preset.name}` learns {preset.domain.name}",
            hint="give other shards with `--data`, or choose another preset",
        )
    domain = registry.find("domains", preset.domain.name or "").Domain(preset.domain.config)
    told = preset.condition
    loader = Loader(shards, domain, config, split=config.train, seed=settings.seed, batch=settings.batch, told=told)
    _check_classes(preset, loader)
    features.check(preset, loader)
    _check_shape(preset, loader)
    if settings.held_out_every is None:
        return loader, None
    if config.held_out is None:
        raise UsageError(
            f"[training] `held_out_every` is {settings.held_out_every}, and [data] names no split for that loss",
            hint=f"the shards have {', '.join(shards.splits)}: `--set data.held_out=NAME`",
        )
    if config.held_out not in shards.splits:
        raise UsageError(
            f"the shards in `{shards.folder}` have no split `{config.held_out}` for the held-out loss",
            hint=f"they have {', '.join(shards.splits)}: `--set data.held_out=NAME`, or `none` to go without",
        )
    held_out = Loader(
        shards, domain, config, split=config.held_out, seed=noise.derive(settings.seed, HELD_OUT), batch=1, told=told
    )
    held_out.batch_size = min(settings.held_out_sets, len(held_out))
    return loader, held_out


def _open_shards(preset: Preset, folder: Path) -> Shards:
    if not (folder / manifest.NAME).is_file():
        state = "it has no manifest.json" if folder.is_dir() else "it does not exist"
        command = preset.data.config.prepare or f"inrflow prepare {folder.name}"
        raise MissingError(
            f"looked for the shards of the preset `{preset.name}` in `{folder}`: {state}",
            hint=f"make them with `{command}`, or name another place with `--data`",
        )
    return Shards(folder)


def _check_classes(preset: Preset, loader: Loader) -> None:
    """The classes of the data are those that the preset's condition counts."""
    found = len(loader.classes)
    if preset.condition is None or preset.condition.name != "label":
        return
    wanted = preset.condition.config.classes
    if not found:
        raise UsageError(
            f"the preset `{preset.name}` learns {wanted} classes, and the shards in `{loader.shards.folder}` have none",
            hint="prepare them with classes, or choose a preset without [condition]",
        )
    if found != wanted:
        raise UsageError(
            f"the preset `{preset.name}` learns {wanted} classes, and the shards in `{loader.shards.folder}` have {found}",
            hint=f"`--set condition.classes={found}`, or give other shards with `--data`",
        )


def _check_shape(preset: Preset, loader: Loader) -> None:
    """One set of the data has the shape that the network is built for."""
    if not len(loader):
        raise UsageError(
            f"the split `{loader.split}` of the shards in `{loader.shards.folder}` is empty",
            hint="prepare it with examples",
        )
    shape = loader.domain.shape
    found = tuple(loader.batch(0, range(1)).values.shape[1:])
    if shape.group_size is not None:  # as many atoms as the chain has
        return
    if found != (shape.num_pairs, shape.value_size):
        raise UsageError(
            f"the sets in `{loader.shards.folder}` have {found[0]} pairs of {found[1]} numbers, and the preset "
            f"`{preset.name}` learns {shape.num_pairs} of {shape.value_size}",
            hint="prepare the data in the preset's resolution, or give other shards with `--data`",
        )


def _check_shards(ready: Ready) -> None:
    config = ready.job.preset.data.config
    splits = [config.train] + ([config.held_out] if ready.held_out else [])
    if ready.evaluation is not None and ready.evaluation.split not in splits:
        splits.append(ready.evaluation.split)
    shards = ready.loader.shards
    size = sum(entry.bytes for split in splits for entry in shards.manifest.splits[split].shards)
    ready.job.say(f"checking {size / 1e6:,.1f} MB of shards against their digests")
    shards.verify(splits)


def _build(ready: Ready) -> models.Model:
    """The model with the initial weights of its seed, or with those that the job names."""
    job = ready.job
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(job.preset.training.config.seed)
        model = models.build(job.preset)
    if ready.initial is not None:
        models.fill(model.method, ready.initial)
    return model


def _resume(ready: Ready, driven: Engine, averages: list[Average]) -> tuple[Counters, str | None]:
    """Where the run stands, with the engine brought there, and in words what has become another since it was saved.

    Raises:
        UsageError: the processes see different runs in what should be one folder.
        IntegrityError: the newest checkpoint is damaged.
    """
    out, step = ready.job.out, ready.begun.step if ready.begun else None
    seen = -1.0 if step is None else float(step)
    total, squares = driven.together(seen, seen**2)
    if squares * ready.world.size != total * total:  # both rounded alike, which `**` does not promise
        raise UsageError(
            f"the processes do not see the same run in `{out}`: some find another newest checkpoint, or none",
            hint="give a place with `--out` that all machines share",
        )
    if step is None:
        return Counters(), None
    source = checkpoint.folder(out, step)
    counters = checkpoint.load(source, driven, averages)
    was = checkpoint.saved_by(source)
    return counters, None if was is None else was.change(checkpoint.division(driven))


def _record(ready: Ready) -> None:
    job = ready.job
    if job.overwrite:
        run_folder.clear(job.out)
    init_from = ready.begun.init_from if ready.begun else None
    if ready.initial is not None:
        init_from = manifest.digest(ready.initial)
    facts: dict[str, Any] = run_folder.environment(
        ready.world, precision=ready.precision, data=ready.data, init_from=init_from
    )
    job.out.mkdir(parents=True, exist_ok=True)
    run_folder.write(job.out, job.preset, facts)


def _tell(ready: Ready, counters: Counters, change: str | None) -> None:
    if not ready.world.leads:
        return
    job = ready.job
    on = f"{ready.world.size} x {ready.world.device}, {ready.precision}"
    is_finished = counters.step >= job.preset.training.config.steps
    if is_finished:
        job.say(f"the run `{job.out}` is finished: step {counters.step:,}")
    elif ready.begun is None:
        job.say(f"training `{job.preset.name}` in `{job.out}` on {on}")
    else:
        job.say(f"going on with the run `{job.out}` after step {counters.step:,} on {on}")
        if change is not None:
            job.say(f"{change}: weights, averages and the optimiser's moments were carried over exactly")
    if ready.evaluation is not None and not is_finished:
        names = ", ".join(metric.full for metric in ready.evaluation.metrics)
        job.say(f"{names} every {ready.evaluation.config.every:,} steps: about {ready.foretold:,.0f} s the first time")
