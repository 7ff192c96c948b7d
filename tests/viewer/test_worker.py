"""The worker: one job after the other, in its thread; what is cancelled ends or never begins."""

from __future__ import annotations

import threading
from concurrent.futures import CancelledError

import pytest

from inrflow_core.viewer import worker as module
from inrflow_core.viewer.byte_cache import ByteCache
from inrflow_core.viewer.worker import BusyError, CancelledJob, Worker


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
