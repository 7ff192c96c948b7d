"""Training: one step after the other, until the last one or until somebody asks to stop.

Everything random in a step is keyed by (seed, step, place in the global batch), and everything that counts is in the
checkpoint, so that a run that was stopped and resumed equals one that never was, to the bit on one CPU.
"""

from __future__ import annotations

import contextlib
import functools
import resource
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import nn

from inrflow_core import __version__, generate, models, outputs, runs
from inrflow_core.errors import Diverged, Interrupted
from inrflow_core.models import Model
from inrflow_core.runs import Best
from inrflow_core.sets import Condition
from inrflow_core.training import checkpoint
from inrflow_core.training.checkpoint import Counters
from inrflow_core.training.ema import Average
from inrflow_core.training.engine import Engine, Objective
from inrflow_core.training.evaluation import Evaluation
from inrflow_core.training.loader import Loader, Stream
from inrflow_core.training.log import Log, Record
from inrflow_core.training.tally import LOOK_EVERY, Meter, Tally
from inrflow_core.training.world import World


@dataclass
class Trainer:
    """A run that is set up and under way."""

    out: Path
    model: Model
    engine: Engine
    averages: Sequence[Average]
    loader: Loader
    held_out: Loader | None
    places: Sequence[range]
    """This process's micro-batches, as places in the global batch."""
    flops: float
    """Operations of one step, over all processes."""
    precision: str
    say: Callable[[str], None]
    report: Callable[[Record], None]
    counters: Counters = field(default_factory=Counters)
    saved: int | None = None
    """Step of the newest checkpoint."""
    evaluation: Evaluation | None = None
    best: Best | None = None
    """The checkpoint that scored best; the leading process alone knows it."""
    meter: Meter = field(init=False)

    def __post_init__(self) -> None:
        self.settings = self.model.preset.training.config
        self.world = self.engine.world
        counters = self.counters
        self.tally = Tally(
            self.world.device, total=counters.skipped, in_a_row=counters.skipped_in_a_row, step=counters.step
        )
        self.log = Log(self.out, self.counters.step) if self.world.leads else None

    def run(self, until: int) -> Counters:
        """Train up to step `until`.

        Raises:
            Interrupted: Ctrl-C or SIGTERM came; the step was finished and saved.
            Diverged: too many steps in a row had no finite gradient; told when it is looked at, see `_look`.
        """
        first = self.counters.step
        wanted = ((step, places) for step in range(first, until) for places in self.places)
        batches = self.loader.stream(wanted, self.world.device, self.model.preset.data.config.prefetch)
        self.model.method.train()
        self.meter = Meter(batches)
        try:
            with Interruption(self.say, self.world) as interruption:
                while self.counters.step < until and not interruption.is_asked():
                    self.advance(batches)
                    self._attend(is_last=self.counters.step == until)
                if self.counters.step < until:
                    self._stop(first)
        finally:
            batches.close()
            if self.log is not None:
                self.log.close()
        return self.counters

    def advance(self, batches: Stream) -> None:
        """One optimiser step, which is handed to the device: nothing here waits for it, not even for its norm."""
        counters, settings = self.counters, self.settings
        loss = torch.zeros((), device=self.world.device)
        for _ in self.places:
            loss += self.engine.backward(next(batches)) / len(self.places)
        norm = self.engine.step(settings.rate(counters.step))
        is_finite = norm.isfinite()
        for average in self.averages:
            average.update(is_finite)
        counters.step += 1
        counters.samples_seen += settings.batch
        counters.flops += self.flops
        self.tally.count(is_finite, counters.step)
        self.meter.count(loss, norm, settings.batch)

    def save(self) -> None:
        """Keep the present step as a checkpoint."""
        self._look()
        self.counters.updates = self.engine.updates
        info = {
            "version": __version__,
            **self.model.info,
            "precision": self.precision,
        }
        if self.log is not None:
            self.log.flush()
        checkpoint.save(self.out, self.engine, self.averages, self.model.preset, self.counters, info=info)
        self.saved = self.counters.step
        if self.world.leads:
            if self.best is not None and self.best.step == self.counters.step:
                runs.keep_best(self.out, self.best)
            checkpoint.prune(self.out, self.settings.keep, self.best.step if self.best else None)

    def held_out_loss(self) -> float | None:
        """The mean loss of the average's weights on the held-out split, always with the same noise; on one process."""
        assert self.held_out is not None
        count = self.held_out.batch_size
        share = len(self.places[0])
        with self._averaged() as method, torch.no_grad():
            if method is None:
                return None
            total = 0.0
            objective = Objective(method, self.precision, self.world.device)
            for start in range(0, count, share):
                places = range(start, min(start + share, count))
                sets = self.held_out.batch(0, places, augment=False).to(self.world.device)
                total += float(objective(sets)) * len(places)
            return total / count

    def evaluate(self) -> bool:
        """Score samples of the average's weights and tell; whether they are the best so far, on every process."""
        assert self.evaluation is not None
        before, found = self.best, None
        with self._averaged() as method:
            if method is not None:
                found = self.evaluation.find(Model(self.model.preset, self.model.domain, method, {}))
        if found is not None:
            self.best = self.evaluation.better(self.counters.step, found, before)
            self._tell({"step": self.counters.step, **self.evaluation.told(found, self._drawn_by, self.best)})
        return self.engine.together(float(self.best is not before))[0] > 0

    def draw_samples(self) -> None:
        """A picture of samples with fixed seeds, drawn by the average's weights."""
        path = self.out / "samples" / f"{self.counters.step:08d}.png"
        with self._averaged() as method:
            if method is None:
                return
            model = Model(self.model.preset, self.model.domain, method, {})
            with outputs.written(path) as beside:
                generate.preview(model, self.settings.samples, condition=self._preview_condition).save(
                    beside, format="png"
                )

    def _attend(self, *, is_last: bool) -> None:
        """What is due after this step: a line, the held-out loss, a picture, metrics, a checkpoint."""
        settings = self.settings

        def is_due(every: int | None) -> bool:
            return every is not None and (is_last or self.counters.step % every == 0)

        if is_due(settings.log_every) or is_due(LOOK_EVERY):
            self._look()
        if is_due(settings.log_every):
            self._tell(self._record())
        if self.held_out is not None and is_due(settings.held_out_every):
            of = self._drawn_by
            self._tell({"step": self.counters.step, "held_out_loss": self.held_out_loss(), "held_out_of": of})
        if is_due(settings.samples_every):
            self.draw_samples()
        # What is evaluated is never a matter of where a call ends, so that a resumed run tells what an unbroken one does.
        is_evaluated = self.evaluation is not None and self.evaluation.is_due(self.counters.step, settings.steps)
        is_best = is_evaluated and self.evaluate()
        if is_best or is_due(settings.save_every):
            self.save()

    def _look(self) -> None:
        """Take over what the device has counted of skipped steps.

        This is where the host waits for the device: at every line, before every checkpoint, and every `LOOK_EVERY` steps.

        Raises:
            Diverged: too many steps in a row had no finite gradient.
        """
        found = self.tally.read()
        self.counters.skipped, self.counters.skipped_in_a_row = found.total, found.in_a_row
        if found.longest > self.settings.max_skipped:
            raise Diverged(
                f"{found.longest} steps in a row had no finite gradient, the last is step {found.longest_end}",
                hint=self._remedy(),
            )

    def _stop(self, first: int) -> None:
        if self.counters.step == first:
            raise Interrupted("interrupted before the first step", hint=None)
        if self.saved != self.counters.step:
            self.save()
        raise Interrupted(
            f"interrupted after step {self.counters.step}, which is saved in `{self.out}`",
            hint="the same command goes on from there",
        )

    def _record(self) -> Record:
        """The line of this step: means since the last line."""
        loss, norm, samples, seconds, waited = self.meter.take()
        loss, waited = self.engine.together(loss, waited / seconds)
        size = self.world.size
        left = self.settings.steps - self.counters.step
        return {
            "step": self.counters.step,
            "loss": loss / size,
            "gradient_norm": norm,
            "learning_rate": self.settings.rate(self.counters.step - 1),
            "samples_per_second": samples / seconds,
            "samples_seen": self.counters.samples_seen,
            "flops": self.counters.flops,
            "data_wait": waited / size,
            "memory": memory_used(self.world.device),
            "skipped": self.counters.skipped,
            "seconds_left": left * self.settings.batch * seconds / samples,
        }

    def _tell(self, record: Record) -> None:
        if self.log is not None:
            self.log.write(record)
            self.report(record)

    @functools.cached_property
    def _preview_condition(self) -> Condition:
        """What samples are drawn under while the model trains: conditions of the held-out sets, where there are some."""
        loader = self.held_out or self.loader
        count = self.settings.samples
        condition = loader.batch(0, range(count), augment=False).condition
        return {name: value for name, value in condition.items() if name != "label"}

    @property
    def _drawn_by(self) -> str:
        """Which weights are looked at."""
        return f"ema {self.averages[0].decay}" if self.averages else "weights"

    @contextlib.contextmanager
    def _averaged(self) -> Iterator[nn.Module | None]:
        """The method with the first average's weights, in evaluation mode, on the leading process; None elsewhere."""
        leads, average = self.world.leads, self.averages[0] if self.averages else None
        if self.engine.stage == 3:
            yield self._whole_copy(None if average is None else average.values)
        elif leads:
            self.model.method.eval()
            with contextlib.nullcontext() if average is None else average.in_place():
                yield self.model.method
            self.model.method.train()
        else:
            yield None
        self.engine.wait()

    def _whole_copy(self, own: list[torch.Tensor] | None) -> nn.Module | None:
        """A second model on the leading process, for weights that are shared out."""
        values = zip(self.engine.layout(), self.engine.weights(own), strict=True)
        if not self.world.leads:
            for _ in values:
                pass
            return None
        method = models.build(self.model.preset).method.to(self.world.device).eval().requires_grad_(False)
        state = method.state_dict()
        for name, value in values:
            state[name].copy_(value)
        return method

    def _remedy(self) -> str:
        """What to do about a run that diverged."""
        rate = "`--set training.learning_rate=...`"
        if self.saved is None:
            return f"start it again with a lower rate: `--overwrite` and {rate}"
        return f"begin another run with a lower rate from step {self.saved} of this one: `--init-from {self.out}` and {rate}"


class Interruption:
    """Turns Ctrl-C and SIGTERM into a question that is asked between two steps.

    A second one stops at once, but not under a launcher: that sends its own after the terminal's, and kills those who
    take too long.
    """

    def __init__(self, say: Callable[[str], None], world: World) -> None:
        self._say, self._world = say, world
        self._came = False
        self._question: Question | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interruption:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._take)
        return self

    def __exit__(self, error: object, *_: object) -> None:
        if self._question is not None and error is None:
            self._question.answer()  # so that no message is under way when others follow
        if error is not None and self._world.is_launched:
            # The launcher ends the fellows of a process that failed, and would cut them off while they tell why they stop.
            self._before = dict.fromkeys(self._before, signal.SIG_IGN)
        self._restore()

    def is_asked(self) -> bool:
        """Whether any process was asked to stop; all of them hear the same.

        Alone that is known at once. Several processes hear it one step later: the question travels beside the step.
        """
        if self._world.size == 1:
            return self._came
        asked = self._question is not None and self._question.answer()
        self._question = Question(self._came, self._world.device)
        return asked

    def _take(self, number: int, frame: FrameType | None) -> None:
        if not self._came:
            self._say(
                "finishing the step and saving"
                + ("" if self._world.is_launched else "; interrupt again to stop at once")
            )
        self._came = True
        if not self._world.is_launched:
            self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()


class Question:
    """Whether any process says yes, asked of all while they compute.

    On a GPU the answer is copied into memory that the GPU writes by itself, behind the work that was queued before: who
    fetches it a step later waits for the step before, while the next one is already queued.
    """

    def __init__(self, mine: bool, device: torch.device) -> None:
        self._flag = torch.full((), float(mine), device=device)
        self._work = torch.distributed.all_reduce(self._flag, torch.distributed.ReduceOp.MAX, async_op=True)
        self._event: Any = None
        if device.type == "cuda":
            self._wait()
            self._flag = torch.empty((), pin_memory=True).copy_(self._flag, non_blocking=True)
            self._event = torch.cuda.Event()
            self._event.record()

    def answer(self) -> bool:
        """What all agree on."""
        self._wait() if self._event is None else self._event.synchronize()
        return bool(self._flag)

    def _wait(self) -> None:
        assert self._work is not None
        self._work.wait()


def memory_used(device: torch.device) -> int:
    """The most bytes that this process has taken so far, on the GPU where it computes there."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
