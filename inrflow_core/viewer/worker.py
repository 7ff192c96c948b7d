"""The one thread that samples: jobs wait in a queue, and a job whose client has left ends at its next solver step."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch

from inrflow_core.errors import InrflowError
from inrflow_core.runtime.progress import Progress

MOST_WAITING = 512
"""Jobs that may wait: a page has at most a few dozen tiles under way."""


class CancelledJob(Exception):
    """The client has left, or the server stops."""


class BusyError(InrflowError):
    """Too many requests wait."""


class Job:
    """A piece of work for the thread; `future` has its result, `waited` the seconds in the queue."""

    def __init__(self, work: Callable[[Progress], Any], is_stopping: threading.Event) -> None:
        self.future: Future[Any] = Future()
        self.waited = 0.0
        self._work, self._is_stopping = work, is_stopping
        self._is_cancelled = threading.Event()
        self._submitted = time.perf_counter()

    def cancel(self) -> None:
        """Leave the queue; work under way ends at its next step."""
        self._is_cancelled.set()
        self.future.cancel()

    def check(self, done: int = 0, total: int = 0) -> None:
        """Raise CancelledJob if the job is cancelled; called with the progress of the work."""
        if self._is_cancelled.is_set() or self._is_stopping.is_set():
            raise CancelledJob

    def run(self) -> None:
        """Do the work, unless the job was cancelled in the queue."""
        if not self.future.set_running_or_notify_cancel():
            return
        self.waited = time.perf_counter() - self._submitted
        try:
            self.check()
            self.future.set_result(self._work(self.check))
        except BaseException as error:  # it reaches whoever awaits the future
            self.future.set_exception(error)


class Worker:
    """A queue of jobs and the thread that does them one after the other, with `threads` CPU threads for torch."""

    def __init__(self, threads: int | None = None) -> None:
        count = threads or torch.get_num_threads()  # the number is that of a thread, and not of the process
        self._executor = ThreadPoolExecutor(1, "sampling", torch.set_num_threads, (count,))
        self._is_stopping = threading.Event()
        self._unfinished: set[Job] = set()
        self._lock = threading.Lock()

    def submit(self, work: Callable[[Progress], Any]) -> Job:
        """Queue work, which gets a callback that it calls with its progress.

        Raises:
            BusyError: `MOST_WAITING` jobs wait already.
        """
        job = Job(work, self._is_stopping)
        with self._lock:
            if len(self._unfinished) >= MOST_WAITING:
                raise BusyError(
                    f"{MOST_WAITING} requests wait already", hint="wait, or close other windows of the page"
                )
            self._unfinished.add(job)
        job.future.add_done_callback(lambda _: self._finish(job))
        self._executor.submit(job.run)
        return job

    def stop(self) -> None:
        """End the job under way at its next step, and all others before they begin; waits for none, so a signal may call it."""
        self._is_stopping.set()

    def close(self) -> None:
        """Cancel all jobs and end the thread."""
        self.stop()
        with self._lock:
            jobs = list(self._unfinished)
        for job in jobs:
            job.cancel()
        self._executor.shutdown(wait=True, cancel_futures=True)

    def _finish(self, job: Job) -> None:
        with self._lock:
            self._unfinished.discard(job)
