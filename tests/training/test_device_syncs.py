"""No step asks the device for anything: a host that waits for an answer leaves a GPU without work.

On a CPU every answer is there at once, so that waiting cannot be measured; what can be seen is every operation that
would wait on a GPU: a number read back, a shape that depends on the data, a host's number brought over.
"""

from __future__ import annotations

import threading
import traceback
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from inrflow_core.errors import Diverged
from inrflow_core.training import setup
from inrflow_core.training.ema import EMA
from inrflow_core.training.setup import TrainJob
from inrflow_core.training.step_metrics import LOOK_EVERY, SkippedStepCounter, SkippedSteps, StepMeter
from inrflow_core.training.trainer import Trainer
from tests import tiny
from tests.training import conditioned_runs, small

ASKS = {"_local_scalar_dense", "nonzero", "masked_select", "_unique2", "unique_dim", "unique_consecutive", "equal"}
"""Operations whose answer, or whose answer's shape, the host must know."""
READS = ("tolist", "numpy", "cpu", "__array__")
"""Ways to read a tensor that on a CPU are no operation."""


class SyncCalls(TorchDispatchMode):
    """What was requested of the device while this is on, as lines of our own code."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__()
        self.found: list[str] = []
        thread = threading.current_thread()
        for name in READS:
            read = getattr(torch.Tensor, name)

            def noted(tensor, *rest, _read=read, _name=name, **named):
                if threading.current_thread() is thread:
                    self._note(_name)
                return _read(tensor, *rest, **named)

            monkeypatch.setattr(torch.Tensor, name, noted)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        picks = name in ("index", "index_put", "index_put_", "_index_put_impl_") and any(
            index is not None and index.dtype == torch.bool for index in args[1]
        )
        if name in ASKS or name == "lift_fresh" or picks:
            self._note(name)
        return func(*args, **(kwargs or {}))

    def _note(self, name: str) -> None:
        indices = [
            f for f in traceback.extract_stack() if "/inrflow_core/" in f.filename or "/deepspeed/" in f.filename
        ]
        where = indices[-1] if indices else None
        if where is not None and "pin_memory" in (where.line or ""):
            return  # what lies in pinned memory is carried over without waiting
        self.found.append(f"{name}: {where.filename.rpartition('/')[2]}:{where.lineno} {where.line}" if where else name)


def trainer(kind: str, tmp_path: Path, **training) -> Trainer:
    """A trainer before its first step, on images (perhaps queried between pixels), points (perhaps coupled with their noise) or chains;
    of images with Muon too."""
    training = {"log_every": 1000, **training}
    if kind == "image-anywhere":
        preset = small.preset(training=training, method={"query_positions": "anywhere", "num_queries": 9})
        data = small.images(tmp_path / "shards")
        return setup.build_trainer(
            setup.check_job(TrainJob(preset, tmp_path / "run", data=data, device="cpu", threads=1), {})
        )
    if kind == "muon":
        preset = small.preset(training={**training, "optimizer": "muon", "weight_decay": 0.1}, network={"width": 32})
        job = TrainJob(preset, tmp_path / "run", data=small.images(tmp_path / "shards"), device="cpu", threads=1)
    elif kind == "protein":
        job = conditioned_runs.job(
            conditioned_runs.folded(tmp_path / "shards", None), tmp_path / "run", tiny.PROTEIN, training=training
        )
    else:
        make = small.images if kind == "image" else small.clouds
        sets = {"image": tiny.IMAGE, "points": tiny.POINTS, "coupled": tiny.COUPLED_POINTS}[kind]
        job = small.job(make(tmp_path / "shards"), tmp_path / "run", kind=sets, **training)
    return setup.build_trainer(setup.check_job(job, {}))


def steps(it: Trainer, count: int, calls: SyncCalls | None = None) -> list[str]:
    """What some steps ask."""
    expected = (
        (step, indices) for step in range(it.counters.step, it.counters.step + count) for indices in it.micro_batches
    )
    batches = it.loader.stream(expected, it.world.device, 2, prepare=it.model.method.prepare_batch)
    it.model.method.train()
    it.meter = StepMeter(batches)
    if calls is None:
        for _ in range(count):
            it.advance(batches)
    else:
        with calls:
            for _ in range(count):
                it.advance(batches)
    batches.close()
    return [] if calls is None else calls.found


@pytest.mark.parametrize("stage", [0, 1, 2])
@pytest.mark.parametrize("kind", ["image", "image-anywhere", "points", "coupled", "protein", "muon"])
def test_a_step_asks_the_device_for_nothing(kind, stage, tmp_path, monkeypatch):
    it = trainer(kind, tmp_path, zero_stage=stage, micro_batch=2)
    steps(it, 2)  # the first steps set things up
    assert steps(it, 2, SyncCalls(monkeypatch)) == []
    assert it.skipped_steps.read().total == 0


def test_a_run_that_diverges_between_two_lines_is_stopped_and_the_row_is_reported(tmp_path):
    data = small.clouds(tmp_path / "shards", bad=slice(None))
    job = small.job(data, tmp_path / "run", kind=tiny.POINTS, steps=100, log_every=40, save_every=100, max_skipped=2)
    with pytest.raises(
        Diverged, match=f"{LOOK_EVERY} steps in a row had no finite gradient, the last is step {LOOK_EVERY}"
    ):
        setup.train(job)


def test_rows_of_skipped_steps_are_counted_on_the_device():
    counter = SkippedStepCounter(torch.device("cpu"), total=5, in_a_row=2, step=10)
    for step, is_finite in enumerate([False, True, False, False, False, True, False], 11):
        counter.count(torch.tensor(is_finite), step)
    assert counter.read() == SkippedSteps(total=10, in_a_row=1, longest=3, longest_end=15)
    assert SkippedStepCounter(torch.device("cpu"), total=5, in_a_row=2, step=10).read() == SkippedSteps(5, 2, 2, 10)


def test_an_average_takes_in_no_step_that_was_not_applied():
    weight = torch.nn.Parameter(torch.ones(3))
    average = EMA(0.9, [weight])
    with torch.no_grad():
        weight.fill_(2.0)
    average.update(torch.tensor(False))
    assert torch.equal(average.values[0], torch.ones(3))
    average.update(torch.tensor(True))
    reported = EMA(0.9, [weight])
    reported.values = [torch.ones(3)]
    reported.update()
    assert torch.equal(average.values[0], reported.values[0])
    torch.testing.assert_close(reported.values[0], torch.full((3,), 1.1))


def test_what_would_wait_is_seen(monkeypatch):
    x = torch.arange(4.0)
    with SyncCalls(monkeypatch) as requested:
        float(x.sum())
        x[x > 1]
        torch.tensor([1.0, 2.0])
        x.tolist()
        bool((x > 1).any())
        x.nonzero()
    assert [line.partition(":")[0] for line in requested.found] == [
        "_local_scalar_dense", "index", "lift_fresh", "tolist", "_local_scalar_dense", "nonzero",
    ]  # fmt: skip
