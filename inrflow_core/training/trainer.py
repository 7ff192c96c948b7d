"""Training: stage after stage, step after step, to the last one or until it is interrupted.

Everything random in a step is keyed by (seed, step, position in the global batch), and the checkpoint has all state: a
resumed run equals an unbroken one, to the bit on one CPU.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import resource
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from inrflow_core import __version__, models
from inrflow_core.config.training import Config
from inrflow_core.errors import Diverged, Interrupted, MissingError
from inrflow_core.models import Model
from inrflow_core.runs import checkpoint_manifest
from inrflow_core.runs.best import Best, record_best
from inrflow_core.runtime.progress import Announce, no_announcement
from inrflow_core.sampling import sample, support_cameras
from inrflow_core.sets import CLASS_LABEL, Condition, TrainBatch
from inrflow_core.storage import atomic_write
from inrflow_core.training import checkpoint, precompute
from inrflow_core.training.checkpoint import Counters
from inrflow_core.training.ema import EMA
from inrflow_core.training.engine import Engine, MeanLoss
from inrflow_core.training.interruption import StopRequested, StopSignal
from inrflow_core.training.loader import Loader, Stream
from inrflow_core.training.metrics_log import Log, LogRecord
from inrflow_core.training.periodic_eval import Evaluation
from inrflow_core.training.run_folder import OpenFolder
from inrflow_core.training.stages import StageJob, StageRun
from inrflow_core.training.step_metrics import LOOK_EVERY, OptimizerStep, SkippedStepCounter, StepMeter
from inrflow_core.training.time_estimate import REPORT_EVERY, StepProgress


@dataclass
class Trainer:
    """A run in progress."""

    out: Path
    model: Model
    stage: StageRun
    """The current stage."""
    jobs: Sequence[StageJob]
    """All stages, in order."""
    begin_stage: Callable[[StageJob], StageRun]
    """Builds the optimizers, averages and data of a stage."""
    shown: Loader
    """The sets whose conditions previews use."""
    precision: str
    say: Callable[[str], None]
    report: Callable[[LogRecord], None]
    counters: Counters = field(default_factory=Counters)
    announce: Announce = no_announcement
    saved: int | None = None
    """Step of the newest checkpoint."""
    evaluation: Evaluation | None = None
    best: Best | None = None
    """The checkpoint with the best metric so far; None on all but the main process."""
    progress: Callable[[StepProgress], None] | None = None
    """Called on the main process after the first step, and every `REPORT_EVERY` seconds without a line of the log."""
    lock: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)
    """Holds the lock of the run's folder, on the main process."""
    meter: StepMeter = field(init=False)
    clock: Callable[[], float] = time.perf_counter

    def __post_init__(self) -> None:
        self.world = self.engine.world
        counters = self.counters
        self.skipped_steps = SkippedStepCounter(
            self.world.device, total=counters.skipped, in_a_row=counters.skipped_in_a_row, step=counters.step
        )
        self.log = Log(self.out, self.counters.step) if self.world.is_main else None
        self.folder = OpenFolder(self.out) if self.world.is_main else None
        self._reported: float | None = None

    @property
    def settings(self) -> Config:
        """The settings of this stage."""
        return self.stage.job.settings

    @property
    def engine(self) -> Engine:
        """The first optimizer of this stage."""
        return self.stage.engine

    @property
    def averages(self) -> Sequence[EMA]:
        """The averages of this stage."""
        return self.stage.averages

    @property
    def loader(self) -> Loader:
        """The training sets of this stage."""
        return self.stage.loader

    @property
    def held_out(self) -> Loader | None:
        """The sets of this stage's held-out loss."""
        return self.stage.held_out

    @property
    def micro_batches(self) -> Sequence[range]:
        """This process's micro-batches, as positions in the global batch."""
        return self.stage.job.micro_batches

    @property
    def total_steps(self) -> int:
        """Steps of all stages together."""
        return sum(job.settings.steps for job in self.jobs)

    def run(self, until: int) -> Counters:
        """Train up to step `until`, through as many stages as that takes.

        Raises:
            Interrupted: Ctrl-C or SIGTERM was received; the step was finished and saved.
            Diverged: too many steps in a row, or all, had no finite gradient; `_check_skipped_steps` detects the former.
            MissingError: the run's folder was removed. If it was moved, training follows, saves there and is interrupted.
        """
        first = self.counters.step
        try:
            while True:
                left = self.settings.steps - self.counters.step_in_stage
                self._run_stage(first, until, min(until, self.counters.step + max(0, left)))
                if self.counters.step >= until or self.counters.stage + 1 == len(self.jobs):
                    self._check_any_applied()
                    return self.counters
                self._next_stage()
        finally:
            if self.log is not None and self.folder is not None:
                self.log.close()
                self.folder.close()
            self.lock.close()

    def _run_stage(self, first: int, until: int, end: int) -> None:
        """Train up to step `end` of the run, which this stage contains; `first` is the step at which the call began."""
        counters, offset = self.counters, self.counters.step - self.counters.step_in_stage
        positions_by_step = (
            (step - offset, positions) for step in range(counters.step, end) for positions in self.micro_batches
        )
        prefetch = self.model.preset.data.config.prefetch
        batches = self.loader.stream(
            positions_by_step,
            self.world.device,
            prefetch,
            prepare=self.model.method.prepare_batch,
            num_in_use=self._num_batches_in_use,
        )
        self.model.method.train()
        self.meter = StepMeter(batches, self.clock)
        try:
            with StopSignal(self.say, self.world) as stop_signal:
                while counters.step < end and not stop_signal.is_stop_requested():
                    self.advance(batches)
                    if self._has_moved():
                        stop_signal.request()
                    self._run_scheduled_work(stop_signal, is_last=counters.step == end)
                if counters.step < end:
                    self._stop(first)
        finally:
            batches.close()

    def _next_stage(self) -> None:
        """Close the finished stage, whose last step is saved, and start the next with new optimizers and averages."""
        job = self.jobs[self.counters.stage + 1]
        self.stage.close()
        self.say(f"stage {job.number + 1} of {len(self.jobs)}: {job.stage.name}, {job.settings.steps:,} steps")
        self.stage = self.begin_stage(job)
        self.counters.stage, self.counters.step_in_stage = job.number, 0

    @property
    def _num_batches_in_use(self) -> int:
        """Micro-batches that a step needs at the same time: all of them if several optimizers learn from each."""
        return 1 if len(self.stage.engines) == 1 else len(self.micro_batches)

    def advance(self, batches: Stream) -> None:
        """One step of each optimizer, without a device synchronization."""
        counters, stage, num = self.counters, self.stage, len(self.micro_batches)
        state = stage.state(counters.step_in_stage)
        micro: Iterable[TrainBatch] = itertools.islice(batches, num)
        if len(stage.engines) > 1:
            micro = list(micro)
        results: dict[str, OptimizerStep] = {}
        terms: dict[str, Any] = {}
        for name, engine in stage.engines.items():
            if len(stage.engines) > 1:
                engine.select()
            loss = torch.zeros((), device=self.world.device)
            for batch in micro:
                loss += engine.backward(batch, state) / num
                if engine is stage.engine:
                    for term, mean in self.model.method.loss_terms().items():
                        terms[term] = terms.get(term, 0.0) + mean / num
            results[name] = OptimizerStep(loss, engine.step(stage.rates[name].rate(state.step)))
        is_finite = functools.reduce(torch.logical_and, [result.norm.isfinite() for result in results.values()])
        with torch.no_grad():
            self.model.method.after_step(state)
        for average in stage.averages:
            average.update(is_finite, counters.step_in_stage)
        counters.step += 1
        counters.step_in_stage += 1
        counters.samples_seen += self.settings.batch
        counters.flops += stage.job.plan.total_flops
        self.skipped_steps.count(is_finite, counters.step)
        self.meter.count(results, terms, self.settings.batch)

    def save(self) -> None:
        """Save a checkpoint of this step."""
        self._check_skipped_steps()
        first, *others = self.stage.engines.items()
        self.counters.updates = first[1].num_updates
        self.counters.other_updates = {name: engine.num_updates for name, engine in others}
        info = {
            "version": __version__,
            **self.model.metadata,
            "precision": self.precision,
        }
        if self.log is not None:
            self.log.flush()
        checkpoint.save(self.out, self.stage.engines, self.averages, self.model.preset, self.counters, info=info)
        self.saved = self.counters.step
        if self.world.is_main:
            if self.best is not None and self.best.step == self.counters.step:
                record_best(self.out, self.best)
            checkpoint_manifest.prune(self.out, self.settings.keep, self.best.step if self.best else None)
            if self.stage.precomputed is not None:
                precompute.prune(self.stage.precomputed)

    def held_out_loss(self) -> float | None:
        """The mean loss of the EMA weights on the held-out split, with fixed noise; None on all but the main process."""
        assert self.held_out is not None
        count, state = self.held_out.batch_size, self.stage.state(self.counters.step_in_stage)
        share = len(self.micro_batches[0])
        with self._averaged_method() as method, torch.no_grad():
            if method is None:
                return None
            total = 0.0
            objective = MeanLoss(method, self.precision, self.world.device)
            with self.announce("computing the held-out loss", "sets") as progress:
                for start in range(0, count, share):
                    positions = range(start, min(start + share, count))
                    sets = self.held_out.batch(0, positions, augment=False)
                    batch = self.model.method.prepare_batch(self.held_out.train_batch(sets)).to(self.world.device)
                    total += float(objective(batch, state, self.engine.optimizer)) * len(positions)
                    progress(positions.stop, count)
            return total / count

    def evaluate(self) -> bool:
        """Score samples of the EMA weights and log the result; returns on every process whether it is the best so far."""
        assert self.evaluation is not None
        before, result = self.best, None
        with self._averaged_method() as method:
            if method is not None:
                with self.announce("evaluating samples"):
                    result = self.evaluation.find(replace(self.model, method=method, metadata=self._sampling_metadata))
        if result is not None:
            self.best = self.evaluation.better(self.counters.step, result, before)
            self._write_record(
                {"step": self.counters.step, **self.evaluation.record(result, self._averaged_weights, self.best)}
            )
        return self.engine.all_reduce_sum(float(self.best is not before))[0] > 0

    @property
    def _sampling_metadata(self) -> dict[str, Any]:
        """What samples depend on of the model's metadata: the names of classes, and the cameras of drawn scenes."""
        return {name: value for name, value in self.model.metadata.items() if name in ("classes", support_cameras.KEY)}

    def draw_samples(self, stop_signal: StopSignal) -> None:
        """Save an image of samples of the EMA weights, with fixed seeds; TensorBoard shows it too. A signal to the main process leaves it
        out."""
        path = self.out / "samples" / f"{self.counters.step:08d}.png"
        with self._averaged_method() as method:
            if method is None:
                return
            model = replace(self.model, method=method, metadata=self._sampling_metadata)
            try:
                with atomic_write.atomic_write(path) as beside, self.announce("drawing samples", "steps") as progress:
                    progress = stop_signal.ending(progress)
                    image = sample.preview(model, self.settings.samples, self._preview_condition, progress)
                    image.save(beside, format="png")
            except StopRequested:
                self.say(
                    f"the image of samples of step {self.counters.step:,} is left out: `inrflow sample --run` draws samples"
                )
                return
            if self.log is not None:
                self.log.write_image(self.counters.step, path)

    def _run_scheduled_work(self, stop_signal: StopSignal, *, is_last: bool) -> None:
        """After a step: log, compute the held-out loss, evaluate, save and draw previews, as scheduled."""
        settings = self.settings

        def is_due(every: int | None) -> bool:
            return every is not None and (is_last or self.counters.step % every == 0)

        if is_due(settings.log_every) or is_due(LOOK_EVERY):
            self._check_skipped_steps()
        self._report_progress()
        if is_due(settings.log_every):
            self._write_record(self._record())
        with self.meter.paused():
            if self.held_out is not None and is_due(settings.held_out_every):
                weights = self._averaged_weights
                self._write_record(
                    {"step": self.counters.step, "held_out_loss": self.held_out_loss(), "held_out_of": weights}
                )
            # Evaluations do not depend on the step at which a call ends: a resumed run logs the same as an unbroken one.
            is_evaluated = self.evaluation is not None and self.evaluation.is_due(self.counters.step, self.total_steps)
            is_best = is_evaluated and self.evaluate()
            if is_best or is_due(settings.save_every):
                self.save()
            # After saving: previews may take longer than steps, and a kill then loses only them.
            if is_due(settings.samples_every):
                self.draw_samples(stop_signal)

    def _report_progress(self) -> None:
        """Report the first step of this call at once, and later ones by time: steps may be slow."""
        if self.progress is None:
            return
        now = self.clock()
        if self._reported is None or now - self._reported >= REPORT_EVERY:
            self._reported = now
            self.progress(StepProgress(self.counters.step, *self.meter.peek()))

    def _check_skipped_steps(self) -> None:
        """Read the device's count of skipped steps, which waits for the device.

        Called for every line of the log, before every checkpoint, and every `LOOK_EVERY` steps.

        Raises:
            Diverged: too many steps in a row had no finite gradient.
        """
        skipped = self.skipped_steps.read()
        self.counters.skipped, self.counters.skipped_in_a_row = skipped.total, skipped.in_a_row
        if skipped.longest > self.settings.max_skipped:
            raise Diverged(
                f"{skipped.longest} steps in a row had no finite gradient, the last is step {skipped.longest_end}",
                hint=self._remedy(),
            )

    def _check_any_applied(self) -> None:
        """Raise Diverged if no step of the run changed the weights."""
        if 0 < self.counters.step == self.counters.skipped:
            raise Diverged(
                f"none of the {self.counters.step:,} steps had a finite gradient: the weights are still the initial ones",
                hint="start it again with a lower rate: `--overwrite` and `--set training.learning_rate=...`",
            )

    def _has_moved(self) -> bool:
        """Whether the run's folder is elsewhere since the last step; `out` then becomes its new place."""
        if self.folder is None or self.folder.is_at(self.out):
            return False
        path = self.folder.path()
        if path is None:
            raise MissingError(
                f"the folder `{self.out}` was removed while the run trained there", hint="train again, or restore it"
            )
        self.say(f"the folder `{self.out}` was moved to `{path}`: resume there with `--out {path}`")
        self.out = path
        return True

    def _stop(self, first: int) -> None:
        if self.counters.step == first:
            raise Interrupted("interrupted before the first step", hint=None)
        if self.saved != self.counters.step:
            self.save()
        raise Interrupted(
            f"interrupted after step {self.counters.step}, which is saved in `{self.out}`",
            hint="run the same command again to resume from there",
        )

    def _record(self) -> LogRecord:
        """The log line of this step, with means since the last line."""
        means = self.meter.take()
        samples, seconds = means.samples, means.seconds
        names, size = list(means.losses), self.world.size
        sums = self.engine.all_reduce_sum(*means.losses.values(), *means.terms.values(), means.waited / seconds)
        losses, terms, waited = sums[: len(names)], sums[len(names) : -1], sums[-1]
        left_in_stage = (self.settings.steps - self.counters.step_in_stage) * self.settings.batch
        others = {f"loss_{name}": loss / size for name, loss in zip(names[1:], losses[1:], strict=True)}
        others |= {name: term / size for name, term in zip(means.terms, terms, strict=True)}
        others |= {f"gradient_norm_{name}": means.norms[name] for name in names[1:]}
        return {
            "step": self.counters.step,
            "loss": losses[0] / size,
            "gradient_norm": means.norms[names[0]],
            **others,
            "learning_rate": self.stage.rates[names[0]].rate(self.counters.step_in_stage - 1),
            "samples_per_second": samples / seconds,
            "samples_seen": self.counters.samples_seen,
            "flops": self.counters.flops,
            "data_wait": waited / size,
            "memory": memory_used(self.world.device),
            "skipped": self.counters.skipped,
            "seconds_left": left_in_stage * seconds / samples,
        }

    def _write_record(self, record: LogRecord) -> None:
        if len(self.jobs) > 1:
            record = {"step": record["step"], "stage": self.stage.job.stage.name, **record}
        if self.log is not None:
            self.log.write(record)
            self.report(record)
            if "loss" in record:
                self._reported = self.clock()

    @functools.cached_property
    def _preview_condition(self) -> Condition:
        """The conditions of previews: of the contexts of held-out sets if there are any, else of training sets."""
        count = self.settings.samples
        condition = self.shown.train_batch(self.shown.batch(0, range(count), augment=False)).context.condition
        return {name: value for name, value in condition.items() if name != CLASS_LABEL}

    @property
    def _averaged_weights(self) -> str:
        """The name of the weights that previews and evaluations use."""
        return f"ema {self.averages[0].decay}" if self.averages else "weights"

    @contextlib.contextmanager
    def _averaged_method(self) -> Iterator[nn.Module | None]:
        """The method with the weights of the first average, in evaluation mode, on the main process; None elsewhere."""
        average = self.averages[0] if self.averages else None
        if self.engine.stage == 3:
            yield self._copy_with_whole_weights(None if average is None else average.values)
        elif self.world.is_main:
            self.model.method.eval()
            with contextlib.nullcontext() if average is None else average.in_place():
                yield self.model.method
            self.model.method.train()
        else:
            yield None
        self.engine.barrier()

    def _copy_with_whole_weights(self, own: list[torch.Tensor] | None) -> nn.Module | None:
        """A copy of the method with whole weights on the main process, for ZeRO stage 3; None elsewhere."""
        values = zip(self.engine.layout(), self.engine.weights(own), strict=True)
        if not self.world.is_main:
            for _ in values:
                pass
            return None
        method = models.build(self.model.preset).method.to(self.world.device).eval().requires_grad_(False)
        state = method.state_dict()
        for name, value in values:
            state[name].copy_(value)
        return method

    def _remedy(self) -> str:
        """The hint for a run that diverged."""
        rate = "`--set training.learning_rate=...`"
        if self.saved is None:
            return f"start it again with a lower rate: `--overwrite` and {rate}"
        return f"begin another run with a lower rate from step {self.saved} of this one: `--init-from {self.out}` and {rate}"


def memory_used(device: torch.device) -> int:
    """The peak memory of this process in bytes: of the GPU if it trains on one, else of the host."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
