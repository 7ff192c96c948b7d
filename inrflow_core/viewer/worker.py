"""The one thread that samples, and one beside it for what needs no model: jobs wait in a queue, and a job whose client has left ends
at its next solver step.

At each of its steps a long job answers the jobs that need no step of a recording: they wait for one step, and for those of their
kind before them.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch

from inrflow_core.errors import InrflowError
from inrflow_core.runtime.progress import Progress
from inrflow_core.viewer.job import Job

MOST_WAITING = 512
"""Jobs that may wait: a page has at most a few dozen tiles under way."""


class BusyError(InrflowError):
    """Too many requests wait."""


class Worker:
    """A queue of jobs and the thread that does them one after the other, with `threads` CPU threads for torch; and a thread for
    jobs that need no model."""

    def __init__(self, threads: int | None = None) -> None:
        count = threads or torch.get_num_threads()  # the number is that of a thread, and not of the process
        self._sampling = ThreadPoolExecutor(1, "sampling", torch.set_num_threads, (count,))
        self._reading = ThreadPoolExecutor(1, "reading")
        self._is_stopping = threading.Event()
        self._queue: deque[Job] = deque()
        self._unfinished: set[Job] = set()
        self._lock = threading.Lock()

    def submit(
        self,
        work: Callable[[Progress], Any],
        *,
        is_short: Callable[[], bool] = lambda: False,
        needs_model: bool = True,
    ) -> Job:
        """Queue work, which gets a callback that it calls with its progress.

        `is_short` is called by the sampling thread, before the work and between the steps of other jobs: once it is true, the
        work is done there. Work without `needs_model` never waits for work with it.

        Raises:
            BusyError: `MOST_WAITING` jobs wait already.
        """
        job = Job(work, self._is_stopping, is_short)
        with self._lock:
            if len(self._unfinished) >= MOST_WAITING:
                raise BusyError(
                    f"{MOST_WAITING} requests wait already", hint="wait, or close other windows of the page"
                )
            self._unfinished.add(job)
            if needs_model:
                self._queue.append(job)
        job.future.add_done_callback(lambda _: self._finish(job))
        if needs_model:
            self._sampling.submit(self._run_next)
        else:
            self._reading.submit(job.run)
        return job

    def stop(self) -> None:
        """End the job under way at its next step, and all others before they begin; waits for none, so a signal may call it."""
        self._is_stopping.set()

    def close(self) -> None:
        """Cancel all jobs and end the threads."""
        self.stop()
        with self._lock:
            jobs = list(self._unfinished)
        for job in jobs:
            job.cancel()
        for executor in (self._sampling, self._reading):
            executor.shutdown(wait=True, cancel_futures=True)

    def _run_next(self) -> None:
        """Do the short jobs, then the first of the others; called once for each job, of which some are done by then."""
        self._run_short()
        with self._lock:
            job = self._queue.popleft() if self._queue else None
        if job is not None:
            job.run(self._run_short)

    def _run_short(self) -> None:
        """Do the short jobs that wait now: later ones wait for the next step, so that the job under way advances."""
        with self._lock:
            short = [job for job in self._queue if job.is_short()]
            for job in short:
                self._queue.remove(job)
        for job in short:
            job.run()

    def _finish(self, job: Job) -> None:
        with self._lock:
            self._unfinished.discard(job)
            with contextlib.suppress(ValueError):  # it left the queue when it began
                self._queue.remove(job)
