"""How long a run takes: by its plan, by its steps, without the pauses between them, and what needs consent."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from inrflow_core.errors import UsageError
from inrflow_core.methods._contract import Stage
from inrflow_core.planning.plan import Plan
from inrflow_core.runtime import distributed
from inrflow_core.training import setup, time_estimate
from inrflow_core.training.loader import Stream
from inrflow_core.training.stages import StageJob
from inrflow_core.training.step_metrics import OptimizerStep, StepMeter
from inrflow_core.training.time_estimate import StepProgress
from tests.training import small

ALONE = distributed.find({}, "cpu")
DAY = 86_400.0


class Clock:
    """A clock that moves only when it is set."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


class Batches(Stream):
    """Batches that are always there."""

    def __init__(self) -> None:
        self.seconds_blocked = 0.0


def jobs(*stages: tuple[int, float]) -> list[StageJob]:
    """Stages of (steps, FLOPs of a step)."""
    found = []
    for number, (steps, flops) in enumerate(stages):
        plan = Plan({}, {}, {}, 0, 0, {"trunk": flops}, {}, 0.0)
        settings = small.preset(training={"steps": steps}).training.config
        found.append(StageJob(number, Stage(f"stage-{number}"), settings, [range(4)], plan))
    return found


def test_a_resumed_call_has_the_steps_of_each_stage_that_are_left():
    stages = jobs((10, 1.0), (20, 1.0))
    assert time_estimate.remaining_steps(stages, 0, 30) == [10, 20]
    assert time_estimate.remaining_steps(stages, 4, 12) == [6, 2]
    assert time_estimate.remaining_steps(stages, 12, 30) == [0, 18]
    assert time_estimate.remaining_steps(stages, 30, 30) == [0, 0]


def test_the_time_of_a_plan_is_flops_over_rate_and_that_of_steps_follows_the_flops_of_other_stages():
    stages = jobs((10, 4e9), (20, 1e9))
    assert time_estimate.seconds_by_plan(stages, [10, 20], lambda precision: 2e9, "fp32", 2) == 10 * 1 + 20 * 0.25
    assert time_estimate.seconds_by_steps(stages, [6, 20], 0, 3.0) == pytest.approx(6 * 3 + 20 * 3 / 4)
    assert time_estimate.seconds_by_steps(stages, [0, 18], 1, 0.5) == pytest.approx(9)


def test_more_than_three_days_on_a_cpu_need_consent_and_a_gpu_does_not():
    time_estimate.check_time(2.9 * DAY, 100, ALONE, is_accepted=False)
    time_estimate.check_time(9 * DAY, 100, ALONE, is_accepted=True)
    time_estimate.check_time(None, 100, ALONE, is_accepted=False)
    gpu = distributed.World(0, 1, 0, torch.device("cuda"), False)
    time_estimate.check_time(9 * DAY, 100, gpu, is_accepted=False)
    with pytest.raises(UsageError, match="100 steps take at least 3 d 2 h") as caught:
        time_estimate.check_time(3.1 * DAY, 100, ALONE, is_accepted=False)
    assert caught.value.hint is not None and "`--yes`" in caught.value.hint


def test_evaluations_previews_and_checkpoints_do_not_count_to_the_rate():
    clock = Clock()
    meter = StepMeter(Batches(), clock)

    def step(seconds: float) -> None:
        clock.now += seconds
        meter.count({"main": OptimizerStep(torch.tensor(2.0), torch.tensor(1.0))}, {}, 4)

    step(1.0)
    with meter.paused():
        clock.now += 500.0
    step(3.0)
    assert meter.peek() == (2.0, 2.0)
    means = meter.take()
    assert (means.seconds, means.samples) == (4.0, 8)
    step(2.0)
    assert meter.take().seconds == 2.0


def test_the_first_step_is_reported_at_once_and_slow_ones_by_time(tmp_path):
    data, clock, reports = small.images(tmp_path / "shards"), Clock(), list[StepProgress]()
    job = small.job(data, tmp_path / "run", steps=12, log_every=100)
    trainer = setup.build_trainer(setup.check_job(job, {}))
    trainer.clock, trainer.progress = clock, reports.append
    advance = trainer.advance

    def slow_step(batches: Any) -> None:
        advance(batches)
        clock.now += time_estimate.REPORT_EVERY / 4

    trainer.advance = slow_step  # pyright: ignore[reportAttributeAccessIssue]
    trainer.run(12)
    assert [each.step for each in reports] == [1, 5, 9]
    assert [each.seconds_per_step for each in reports] == [time_estimate.REPORT_EVERY / 4] * 3
    assert len(small.losses(tmp_path / "run")) == 1  # the log has its own lines alone
