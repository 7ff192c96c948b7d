"""Check a training job, build its trainer, and train; every check comes before the first step."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from inrflow_core import models
from inrflow_core.config.preset import Preset
from inrflow_core.errors import UsageError
from inrflow_core.methods._contract import SHARDS, Stage
from inrflow_core.methods._trained_weights import mark_trainable, weights_by_optimizer
from inrflow_core.planning import advice, checks
from inrflow_core.planning.plan import Plan, Planner
from inrflow_core.runs import checkpoint_manifest, run
from inrflow_core.runtime import device, distributed, process_group
from inrflow_core.runtime.distributed import World
from inrflow_core.runtime.progress import Announce, no_announcement
from inrflow_core.sampling import support_cameras
from inrflow_core.sampling.sample import NAME_RAW_WEIGHTS, note_on_average
from inrflow_core.shards import manifest
from inrflow_core.storage import plain_file
from inrflow_core.training import (
    checkpoint,
    condition_features,
    periodic_eval,
    planned_sizes,
    precompute,
    pretrained,
    run_folder,
    stages,
)
from inrflow_core.training.checkpoint import Counters
from inrflow_core.training.data import open_data
from inrflow_core.training.loader import Loader, split_batch
from inrflow_core.training.metrics_log import LogRecord
from inrflow_core.training.periodic_eval import Evaluation
from inrflow_core.training.precompute import PrecomputeJob
from inrflow_core.training.run_folder import ExistingRun
from inrflow_core.training.stages import StageJob, StageRun
from inrflow_core.training.trainer import Trainer


@dataclass(frozen=True)
class TrainJob:
    """The arguments of a training command."""

    preset: Preset
    out: Path
    data: Path | None = None
    """The folder of the shards, if not the preset's."""
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
    announce: Announce = no_announcement
    report: Callable[[LogRecord], None] = lambda record: None


@dataclass(frozen=True)
class CheckedTrainJob:
    """A job whose files, settings and memory plan are checked; no model is built and no file is written yet."""

    job: TrainJob
    world: World
    loader: Loader
    held_out: Loader | None
    existing_run: ExistingRun | None
    precision: str
    stages: list[StageJob]
    initial: Path | None
    """Initial weights, if the job names some and the run has no checkpoint yet."""
    evaluation: Evaluation | None
    pretrained: dict[str, Path]
    """Weights of frozen networks that the remaining stages train with, by network."""
    eval_seconds: float
    """Estimated seconds of the first evaluation without sampling, on the main process."""

    @property
    def done(self) -> int:
        """The step of the run after which this call begins; 0 for a new one."""
        return self.existing_run.step or 0 if self.existing_run else 0

    @property
    def last(self) -> int:
        """The step after which this call ends; that of the run where it is beyond `until`."""
        steps = sum(stage.settings.steps for stage in self.stages)
        return steps if self.job.until is None else max(min(self.job.until, steps), self.done)

    @property
    def largest(self) -> StageJob:
        """The stage that takes the most memory."""
        return max(self.stages, key=lambda stage: stage.plan.total_memory)

    @property
    def plan(self) -> Plan:
        """The plan of the stage that takes the most memory."""
        return self.largest.plan

    @property
    def micro_batches(self) -> Sequence[range]:
        """The micro-batches of that stage."""
        return self.largest.micro_batches

    @property
    def data(self) -> str:
        """The digest of the data's manifest."""
        return plain_file.file_digest(self.loader.shards.folder / manifest.NAME)


def check_job(job: TrainJob, environment: dict[str, str]) -> CheckedTrainJob:
    """Check data, settings, metrics and device, without a model.

    Raises:
        MissingError: the shards, the initial weights or those of a metric's or a loss's network are absent.
        UsageError: the shards are of another domain, classes or features do not match the preset, a metric cannot be
            computed, the run has other settings, the device is absent, or the batch does not divide over the processes.
    """
    preset, settings = job.preset, job.preset.training.config
    world = distributed.find(environment, job.device)
    if job.threads is not None:
        torch.set_num_threads(job.threads)
    loader, held_out = open_data(preset, job.data)
    if job.overwrite:
        run_folder.check_replaceable(job.out)
    existing = None if job.overwrite else run_folder.read_existing_run(job.out, preset)
    sizes = loader.sizes()
    recorded = existing.precision if existing else None
    precision = device.choose_precision(
        settings.precision, world.device, recorded, has_equal_sizes=loader.domain.shape.has_equal_sizes
    )
    parts = [_check_stage(preset, number, stage, world, precision, sizes) for number, stage in enumerate(preset.stages)]
    is_fresh = existing is None or existing.step is None
    _check_skipped_stages(parts, is_fresh=is_fresh, init_from=job.init_from)
    initial = run.resolve_weights(job.init_from) if job.init_from is not None and is_fresh else None
    evaluated = periodic_eval.prepare(preset, loader.shards, job.out, str(world.device))
    eval_seconds = evaluated.estimate_seconds() if evaluated is not None and world.is_main else 0.0
    frozen = pretrained.find(
        preset, existing.step or 0 if existing else 0, job.say if world.is_main else lambda text: None
    )
    ready = CheckedTrainJob(
        *(job, world, loader, held_out, existing, precision, parts, initial, evaluated), frozen, eval_seconds
    )
    if existing is not None:
        run_folder.check_not_beyond(job.out, existing, sum(part.settings.steps for part in parts))
        run_folder.check_same_data(job.out, existing, ready.data)
        run_folder.check_same_initial_weights(job.out, existing, job.init_from)
    return ready


def _check_skipped_stages(parts: Sequence[StageJob], *, is_fresh: bool, init_from: Path | None) -> None:
    """Raise UsageError if a stage without steps has no weights of another run to begin with."""
    skipped = [part.stage.name for part in parts if not part.settings.steps]
    if skipped and is_fresh and init_from is None:
        raise UsageError(
            f"the stage `{skipped[0]}` has 0 steps, and the stages after it need its trained weights",
            hint=f"give a run or weights that have them, `--init-from RUN`, or set `training.{skipped[0]}.steps`",
        )


def _check_stage(
    preset: Preset, number: int, stage: Stage, world: World, precision: str, sizes: np.ndarray | None
) -> StageJob:
    """The settings, micro-batches and plan of one stage; `sizes` are the pairs of each set, None if all are equal."""
    own = stages.preset_of(preset, stage.name)
    settings = own.training.config
    micro_batches = split_batch(batch=settings.batch, rank=world.rank, size=world.size, micro=settings.micro_batch)
    micro = len(micro_batches[0])
    predicted = planned_sizes.predict(own, sizes, world, precision=precision, micro=micro, stage=stage)
    return StageJob(number, stage, settings, micro_batches, predicted)


def check_resources(ready: CheckedTrainJob) -> None:
    """Raise OutOfMemory unless the run fits into memory and on the disk; a run of unknown memory is not refused.

    The disk needs space for checkpoints and for the inputs that later stages precompute.
    """
    if ready.plan.problem is not None and ready.world.is_main:
        ready.job.say(f"the memory of this run is unknown: its loss cannot be traced ({ready.plan.problem})")
    out = ready.job.out
    to_precompute = max(0, precomputed_bytes(ready) - run_folder.folder_bytes(out / precompute.FOLDER))
    largest = max((stage.plan for stage in ready.stages), key=lambda plan: plan.disk)
    checks.check_disk(largest, out, run_folder.checkpoint_bytes(out), to_precompute)
    planner, micro = planner_of_largest(ready), len(ready.micro_batches[0])
    checks.check_memory(ready.plan, ready.world, lambda free: advice.find(planner, micro, free, is_exact=False).hint())


def precomputed_bytes(ready: CheckedTrainJob) -> int:
    """Bytes of the inputs that all later stages read of earlier ones, for every training and held-out set."""
    num_sets = len(ready.loader) + len(ready.held_out or ())
    return num_sets * sum(_planner(ready, stage).precomputed_bytes for stage in ready.stages)


def build_trainer(ready: CheckedTrainJob) -> Trainer:
    """Lock the run's folder, build the model, restore the run's latest checkpoint, and record the run.

    The trainer holds the lock until the end of `Trainer.run`.

    Raises:
        UsageError: another process trains in the run's folder, or the embedder does not match the settings or the run.
        MissingError: the weights of an embedder that computes in training are absent.
        IntegrityError: a shard, the newest checkpoint or the file of initial weights is damaged.
    """
    with contextlib.ExitStack() as lock:
        if ready.world.is_main:
            lock.enter_context(run_folder.lock(ready.job.out))
            if not ready.job.overwrite:
                run_folder.check_same_step(ready.job.out, ready.existing_run)
        trainer = _build_trainer(ready)
        trainer.lock = lock.pop_all()
    return trainer


def _build_trainer(ready: CheckedTrainJob) -> Trainer:
    job, world, settings = ready.job, ready.world, ready.job.preset.training.config
    embedder = condition_features.prepare(job.preset, ready.loader, world.device)
    provenance = condition_features.provenance(job.preset, ready.loader, embedder)
    frozen = pretrained.digests(ready.pretrained)
    if ready.existing_run is not None and ready.existing_run.step is not None:
        condition_features.check_unchanged(job.out, ready.existing_run.step, provenance)
        frozen = pretrained.check_unchanged(job.out, ready.existing_run.step, frozen)
    if world.is_main and job.check_data:
        _check_shards(ready)
    process_group.init_process_group(world)
    recorded = {"classes": ready.loader.classes, "normalization": provenance}
    recorded |= {pretrained.KEY: frozen} if frozen else {}
    cameras = ready.loader.support_cameras()
    model = replace(_build(ready), metadata=recorded if cameras is None else {**recorded, support_cameras.KEY: cameras})
    if embedder is not None:
        model.method.conditioner.use(embedder)
    mark_trainable(model.method)

    def begin(
        stage: StageJob, restore: Callable[[StageRun], None] = lambda run: None, *, is_finished: bool = False
    ) -> StageRun:
        model.method.begin_stage(stage.stage.name)
        if stage.settings.steps and not is_finished:
            model.method.load_pretrained(ready.pretrained)
        data = stages.data_of(stage, ready.loader, ready.held_out)
        run = stages.start(stage, job.preset, model.method, world, precision=ready.precision, data=data)
        restore(run)
        if stage.stage.reads != SHARDS and not is_finished:
            _read_precomputed(ready, model.method, run)
        return run

    if world.is_main:
        _record(ready)  # before precomputing, so that a run that is killed there can be resumed
    process_group.barrier(world)
    counters, stage, change = _resume(ready, begin)
    best = None
    if world.is_main:
        best = periodic_eval.restore_best(ready.evaluation, job.out, counters.step)
        # A process killed right after a save has not removed the oldest checkpoint.
        checkpoint_manifest.prune(job.out, settings.keep, best.step if best else None)
    process_group.barrier(world)
    _report_start(ready, counters, change)
    return Trainer(
        job.out,
        model,
        stage,
        ready.stages,
        begin,
        ready.held_out or ready.loader,
        precision=ready.precision,
        say=job.say if world.is_main else lambda text: None,
        announce=job.announce if world.is_main else no_announcement,
        report=job.report,
        counters=counters,
        saved=ready.existing_run.step if ready.existing_run else None,
        evaluation=ready.evaluation,
        best=best,
    )


def train(job: TrainJob, environment: dict[str, str] | None = None) -> Trainer:
    """Check, build, and train to the end, or to `until`; `environment` holds the launcher's variables (rank, world size).

    Raises:
        Interrupted, Diverged: see `Trainer.run`; else see `check_job`, `check_resources` and `build_trainer`.
        OutOfMemory: a step ran out of memory; names settings that take less.
    """
    ready = check_job(job, environment or {})
    check_resources(ready)
    with explain_out_of_memory(ready, ready.existing_run.step if ready.existing_run else None):
        trainer = build_trainer(ready)
    with explain_out_of_memory(ready, trainer):
        trainer.run(ready.last)
    return trainer


def explain_out_of_memory(ready: CheckedTrainJob, saved: Trainer | int | None) -> AbstractContextManager[None]:
    """Inside the block, an out-of-memory error names settings that take less.

    `saved` is the step of the newest checkpoint, or the trainer, which knows it.
    """
    if isinstance(saved, Trainer):
        return advice.out_of_memory(planner_of_largest(ready), len(ready.micro_batches[0]), lambda: saved.saved)
    return advice.out_of_memory(planner_of_largest(ready), len(ready.micro_batches[0]), lambda: saved, in_step=False)


def planner_of_largest(ready: CheckedTrainJob) -> Planner:
    """The planner of the stage that takes the most memory."""
    return _planner(ready, ready.largest)


def _planner(ready: CheckedTrainJob, job: StageJob) -> Planner:
    own = stages.preset_of(ready.job.preset, job.stage.name)
    sizes, micro, precision = ready.loader.sizes(), len(job.micro_batches[0]), ready.precision
    return planned_sizes.planner_of_largest(own, sizes, ready.world, precision=precision, micro=micro, stage=job.stage)


def _check_shards(ready: CheckedTrainJob) -> None:
    config = ready.job.preset.data.config
    splits = [config.train] + ([config.held_out] if ready.held_out and config.held_out else [])
    if ready.evaluation is not None and ready.evaluation.split not in splits:
        splits.append(ready.evaluation.split)
    shards = ready.loader.shards
    size = sum(entry.bytes for split in splits for entry in shards.manifest.splits[split].shards)
    ready.job.say(f"checking {size / 1e6:,.1f} MB of shards against their digests")
    shards.verify(splits)


def _build(ready: CheckedTrainJob) -> models.Model:
    """The model with random weights from the preset's seed, or with the weights that the job names."""
    job = ready.job
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(job.preset.training.config.seed)
        model = models.build(job.preset)
    if ready.initial is not None:
        models.load_weights(model.method, ready.initial, _weights_of_skipped_stages(ready, model.method))
        note = note_on_average(*models.read_metadata(ready.initial), NAME_RAW_WEIGHTS)
        if note is not None and ready.world.is_main:
            job.say(f"note: the initial weights: {note}")
    if job.preset.training.config.compile:
        for module in model.method.compiled_modules():
            module.compile()
    return model


def _weights_of_skipped_stages(ready: CheckedTrainJob, method: Any) -> set[str] | None:
    """The names of the weights that stages of 0 steps would train, of which alone others can be read; None if none has."""
    skipped = [job.stage for job in ready.stages if not job.settings.steps]
    if not skipped:
        return None
    _check_trained(ready, skipped)
    names = {name for stage in skipped for own in weights_by_optimizer(method, stage).values() for name in own}
    if ready.world.is_main:
        which = ", ".join(f"`{stage.name}`" for stage in skipped)
        ready.job.say(f"the weights of the stage {which} are those of `{ready.initial}`; the others begin at random")
    return names


def _check_trained(ready: CheckedTrainJob, skipped: Sequence[Stage]) -> None:
    """Raise UsageError unless the initial weights finished these stages with the same domain and networks."""
    assert ready.initial is not None
    preset, (source, info) = ready.job.preset, models.read_metadata(ready.initial)
    trained = [name for stage in skipped for names in stage.optimizers.values() for name in names]
    parts = {f"[network.{name}]": (source.networks.get(name), preset.networks.get(name)) for name in trained}
    for table, (theirs, ours) in {"[domain]": (source.domain, preset.domain), **parts}.items():
        if (theirs and theirs.table()) != (ours and ours.table()):
            raise UsageError(
                f"`{ready.initial}` was trained with another {table} than `{preset.name}`",
                hint=f"take the same {table}, or train the stage `{skipped[0].name}` here",
            )
    names = [stage.name for stage in source.stages]
    needed = source.training.config.total_steps(names[: names.index(skipped[-1].name) + 1])
    if info.get("step", 0) < needed:
        raise UsageError(
            f"`{ready.initial}` is of step {info.get('step', 0):,}, and its stage `{skipped[-1].name}` ends at step {needed:,}",
            hint=f"finish that run first, or set `training.{skipped[0].name}.steps`",
        )


def _read_precomputed(ready: CheckedTrainJob, method: Any, run: StageRun) -> None:
    """Replace the loaders of a stage by loaders of precomputed values; compute those that the run folder lacks."""
    settings, world = run.job.settings, ready.world
    loaders = {precompute.TRAIN: run.loader} | ({} if run.held_out is None else {precompute.HELD_OUT: run.held_out})
    job = PrecomputeJob(
        method,
        run.job.stage,
        loaders,
        ready.job.out,
        ready.data,
        ready.loader.seed,
        world,
        torch.autocast(world.device.type, torch.bfloat16, enabled=ready.precision == "bf16"),
        min(precompute.SETS_AT_ONCE, settings.micro_batch or settings.batch),
        ready.job.say if world.is_main else lambda text: None,
    )
    run.precomputed = job.folder
    opened = precompute.open_precomputed(job)
    run.loader, run.held_out = opened[precompute.TRAIN], opened.get(precompute.HELD_OUT)


def _resume(ready: CheckedTrainJob, begin: Callable[..., StageRun]) -> tuple[Counters, StageRun, str | None]:
    """Counters and stage, restored from the newest checkpoint, and as text how the parallel layout changed since.

    Raises:
        UsageError: the processes find different checkpoints in the run's folder, which all must share.
        IntegrityError: the newest checkpoint is damaged.
    """
    out, step, world = ready.job.out, ready.existing_run.step if ready.existing_run else None, ready.world
    seen = -1.0 if step is None else float(step)
    total, squares = process_group.all_reduce_sum(world, seen, seen**2)
    if squares * world.size != total * total:  # both rounded alike, which `**` does not promise
        raise UsageError(
            f"the processes do not see the same run in `{out}`: some find another newest checkpoint, or none",
            hint="give a place with `--out` that all machines share",
        )
    if step is None:
        return Counters(), begin(ready.stages[0]), None
    source = checkpoint_manifest.checkpoint_folder(out, step)
    counters = checkpoint.read_counters(source, world)

    def restore(stage: StageRun) -> None:
        checkpoint.load(source, stage.engines, stage.averages, counters)

    job = ready.stages[counters.stage]
    stage = begin(job, restore, is_finished=counters.step_in_stage >= job.settings.steps)
    was = checkpoint.layout_at_save(source)
    return counters, stage, None if was is None else was.change(checkpoint.current_layout(stage.engine))


def _record(ready: CheckedTrainJob) -> None:
    job = ready.job
    if job.overwrite:
        run_folder.clear(job.out)
    init_from = ready.existing_run.init_from if ready.existing_run else None
    if ready.initial is not None:
        init_from = plain_file.file_digest(ready.initial)
    recorded = ready.existing_run.shards if ready.existing_run else None
    shards = recorded if job.data is None else run_folder.recorded_path(job.data, job.out)
    facts: dict[str, Any] = run_folder.environment(
        ready.world, precision=ready.precision, data=ready.data, init_from=init_from, shards=shards
    )
    job.out.mkdir(parents=True, exist_ok=True)
    run_folder.write(job.out, job.preset, facts)


def _report_start(ready: CheckedTrainJob, counters: Counters, change: str | None) -> None:
    if not ready.world.is_main:
        return
    job = ready.job
    on = f"{ready.world.size} x {ready.world.device}, {ready.precision}"
    is_finished = counters.step >= sum(stage.settings.steps for stage in ready.stages)
    if is_finished:
        job.say(f"the run `{job.out}` is finished: step {counters.step:,}")
    elif ready.existing_run is None:
        job.say(f"training `{job.preset.name}` in `{job.out}` on {on}")
    else:
        job.say(f"resuming the run `{job.out}` after step {counters.step:,} on {on}")
        if change is not None:
            job.say(f"{change}: weights, averages and the optimizer's moments were carried over exactly")
    if ready.evaluation is not None and not is_finished:
        names = ", ".join(metric.full for metric in ready.evaluation.metrics)
        job.say(
            f"{names} every {ready.evaluation.config.every:,} steps: about {ready.eval_seconds:,.0f} s the first time"
        )
