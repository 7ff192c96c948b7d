"""The worker: one job after the other, in its thread; short ones between the steps of a long one, those without a model beside it;
what is cancelled ends or never begins."""

from __future__ import annotations

import threading
from concurrent.futures import CancelledError

import pytest

from inrflow_core.runtime.progress import Progress
from inrflow_core.viewer import worker as module
from inrflow_core.viewer.byte_cache import ByteCache
from inrflow_core.viewer.job import CancelledJob
from inrflow_core.viewer.worker import BusyError, Worker


@pytest.fixture
def worker():
    worker = Worker(1)
    yield worker
    worker.close()


def test_jobs_are_done_in_order_by_one_thread(worker: Worker):
    threads: list[tuple[int, int]] = []
    jobs = [worker.submit(lambda progress, i=i: threads.append((i, threading.get_ident()))) for i in range(20)]
    for job in jobs:
        job.future.result(10)
    assert [index for index, _ in threads] == list(range(20))
    assert len({thread for _, thread in threads} - {threading.get_ident()}) == 1


def test_a_cancelled_job_ends_at_its_next_step_and_one_in_the_queue_never_begins(worker: Worker):
    is_started, may_go = threading.Event(), threading.Event()
    done: list[int] = []

    def long(progress):
        for step in range(100):
            is_started.set()
            may_go.wait(10)
            progress(step, 100)
            done.append(step)

    first, second = worker.submit(long), worker.submit(lambda progress: done.append(-1))
    third = worker.submit(lambda progress: "the next")
    assert is_started.wait(10)
    second.cancel()
    first.cancel()
    may_go.set()
    with pytest.raises(CancelledJob):
        first.future.result(10)
    with pytest.raises(CancelledError):
        second.future.result(10)
    assert third.future.result(10) == "the next"
    assert done == [] and not worker._unfinished


class LongJob:
    """Work of `steps` steps, which begins each of them once it may; `order` gets what is done."""

    def __init__(self, order: list[str], steps: int = 3) -> None:
        self.order, self.is_started = order, threading.Event()
        self._may_begin = [threading.Event() for _ in range(steps)]

    def go(self, *steps: int) -> None:
        for step in steps:
            self._may_begin[step].set()

    def __call__(self, progress: Progress) -> str:
        for step, may_begin in enumerate(self._may_begin):
            self.is_started.set()
            assert may_begin.wait(10)
            progress(step, len(self._may_begin))
            self.order.append(f"step {step}")
        return "recorded"


def test_work_without_a_model_is_done_while_a_recording_is_blocked(worker: Worker):
    long = LongJob([])
    recording = worker.submit(long)
    assert long.is_started.wait(10)
    names = [worker.submit(lambda progress, i=i: (i, threading.get_ident()), needs_model=False) for i in range(3)]
    done = [job.future.result(10) for job in names]
    assert [index for index, _ in done] == [0, 1, 2] and len({thread for _, thread in done}) == 1
    assert long.order == [] and not recording.future.done()
    long.go(0, 1, 2)
    assert recording.future.result(10) == "recorded"


def test_short_jobs_are_done_at_the_next_step_in_order_and_long_ones_after_the_recording(worker: Worker):
    order: list[str] = []
    long = LongJob(order)
    jobs = [worker.submit(long)]
    assert long.is_started.wait(10)
    jobs += [worker.submit(lambda progress: order.append("another recording"))]
    short = [worker.submit(lambda progress, i=i: order.append(f"tile {i}"), is_short=lambda: True) for i in range(2)]
    long.go(0)
    for job in short:
        job.future.result(10)
    assert order[:2] == ["tile 0", "tile 1"]
    long.go(1, 2)
    for job in jobs:
        job.future.result(10)
    assert order == ["tile 0", "tile 1", "step 0", "step 1", "step 2", "another recording"]
    assert not worker._queue and not worker._unfinished


def test_a_job_is_short_as_soon_as_its_function_is_recorded(worker: Worker):
    order: list[str] = []
    first, second = LongJob(order, 1), LongJob(order, 2)
    worker.submit(first)
    assert first.is_started.wait(10)
    other = worker.submit(second)
    tile = worker.submit(lambda progress: order.append("tile"), is_short=lambda: "step 0" in order)
    first.go(0)
    tile.future.result(10)
    assert order == ["step 0", "tile"], "before the other recording begins, which waited longer"
    second.go(0, 1)
    other.future.result(10)


def test_short_jobs_that_never_end_leave_a_recording_its_steps(worker: Worker):
    order: list[str] = []
    long = LongJob(order)

    def follow(progress: Progress) -> None:
        order.append("tile")
        if len(order) < 20:
            worker.submit(follow, is_short=lambda: True)
        progress(1, 1)  # it does not begin the next one

    recording = worker.submit(long)
    assert long.is_started.wait(10)
    worker.submit(follow, is_short=lambda: True)
    long.go(0, 1, 2)
    recording.future.result(10)
    assert order[:6] == ["tile", "step 0", "tile", "step 1", "tile", "step 2"]


def test_a_recording_that_is_cancelled_does_no_more_short_jobs_and_a_cancelled_short_job_never_begins(worker: Worker):
    order: list[str] = []
    long = LongJob(order)
    recording = worker.submit(long)
    assert long.is_started.wait(10)
    left, stays = [
        worker.submit(lambda progress, i=i: order.append(f"tile {i}"), is_short=lambda: True) for i in range(2)
    ]
    left.cancel()
    recording.cancel()
    long.go(0)
    stays.future.result(10)
    with pytest.raises(CancelledJob):
        recording.future.result(10)
    assert order == ["tile 1"] and not worker._unfinished and not worker._queue


def test_an_error_of_a_short_job_does_not_reach_the_recording(worker: Worker):
    long = LongJob([], 1)
    recording = worker.submit(long)
    assert long.is_started.wait(10)
    failing = worker.submit(lambda progress: 1 / 0, is_short=lambda: True)
    long.go(0)
    with pytest.raises(ZeroDivisionError):
        failing.future.result(10)
    assert recording.future.result(10) == "recorded"


def test_closing_ends_the_job_under_way_and_those_that_wait():
    worker, is_started = Worker(1), threading.Event()

    def endless(progress):
        while True:
            is_started.set()
            progress(0, 1)

    jobs = [worker.submit(endless) for _ in range(3)]
    assert is_started.wait(10)
    worker.close()
    assert all(job.future.done() for job in jobs) and not worker._unfinished


def test_an_error_reaches_who_waits_and_the_thread_lives_on(worker: Worker):
    failing = worker.submit(lambda progress: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        failing.future.result(10)
    assert worker.submit(lambda progress: 3).future.result(10) == 3


def test_a_full_queue_is_refused(worker: Worker, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "MOST_WAITING", 2)
    may_go = threading.Event()
    jobs = [worker.submit(lambda progress: may_go.wait(10)) for _ in range(2)]
    with pytest.raises(BusyError, match="2 requests wait"):
        worker.submit(lambda progress: None)
    may_go.set()
    for job in jobs:
        job.future.result(10)
    assert worker.submit(lambda progress: 1).future.result(10) == 1


def test_the_cache_drops_what_was_not_used_for_the_longest_time():
    cache: ByteCache[str] = ByteCache(10, len)
    for key in "abc":
        cache.add(key, key * 3)
    assert cache.get("a") == "aaa"
    cache.add("d", "dddd")
    assert [key in cache for key in "abcd"] == [True, False, True, True]
    cache.add("e", "e" * 50)
    assert (len(cache), cache.num_bytes, cache.get("e")) == (1, 50, "e" * 50)
    cache.add("e", "e")
    assert cache.num_bytes == 1 and cache.get("b") is None
    cache.drop(lambda value: value == "e")
    assert len(cache) == 0
