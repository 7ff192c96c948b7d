"""A piece of work for a thread, which ends at its next step once it is cancelled."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from inrflow_core.runtime.progress import Progress


class CancelledJob(Exception):
    """The client has left, or the server stops."""


class Job:
    """A piece of work for a thread; `future` has its result, `waited` the seconds in the queue.

    `is_short` is called by the sampling thread: while it is true, the work may be done between two steps of another job.
    """

    def __init__(
        self, work: Callable[[Progress], Any], is_stopping: threading.Event, is_short: Callable[[], bool]
    ) -> None:
        self.future: Future[Any] = Future()
        self.waited = 0.0
        self.is_short = is_short
        self._work, self._is_stopping = work, is_stopping
        self._is_cancelled = threading.Event()
        self._submitted = time.perf_counter()

    def cancel(self) -> None:
        """Leave the queue; work under way ends at its next step."""
        self._is_cancelled.set()
        self.future.cancel()

    def check(self) -> None:
        """Raise CancelledJob if the job is cancelled."""
        if self._is_cancelled.is_set() or self._is_stopping.is_set():
            raise CancelledJob

    def run(self, between: Callable[[], None] | None = None) -> None:
        """Do the work, unless the job was cancelled in the queue; `between` is called at each of its steps."""
        if not self.future.set_running_or_notify_cancel():
            return
        self.waited = time.perf_counter() - self._submitted

        def progress(done: int, total: int) -> None:
            self.check()
            if between is not None:
                between()

        try:
            self.check()
            self.future.set_result(self._work(progress))
        except BaseException as error:  # it reaches whoever awaits the future
            self.future.set_exception(error)
