"""Lines about work that takes long and shows no progress of its own."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from inrflow_core.runtime.progress import Log, Progress, format_duration, no_report

SLOW = 4.0
"""Seconds after which work without a progress line is announced."""
REPEAT = 5.0
"""Most seconds between two lines of long work where no bar shows its progress."""


class Announcement:
    """The lines about some work, which may count its units."""

    def __init__(self, text: str) -> None:
        self._text, self._started = text, time.monotonic()
        self._counts = (0, 0)
        self._is_first = True

    def report(self, done: int, total: int) -> None:
        """Count the units that are done."""
        self._counts = done, total

    def line(self) -> str:
        """The text; from the second line on also the units that are done and the time left, or the time so far."""
        if self._is_first:
            self._is_first = False
            return self._text
        (done, total), seconds = self._counts, time.monotonic() - self._started
        count = f"{done:,} of {total:,}, " if total else ""
        left = (
            f"{format_duration((total - done) / done * seconds)} left" if done else f"{format_duration(seconds)} so far"
        )
        return f"{self._text}: {count}{left}"


@contextmanager
def announced(text: str, log: Log | None) -> Iterator[Progress]:
    """Log a text if the work inside takes longer than `SLOW` seconds, and then a line every `REPEAT` seconds; not without `log`.

    Yields:
        A callback for work that counts its units.
    """
    if log is None:
        yield no_report
        return
    say, work = log, Announcement(text)
    has_ended = threading.Event()

    def announce() -> None:
        wait = SLOW
        while not has_ended.wait(wait):
            say(work.line())
            wait = REPEAT

    thread = threading.Thread(target=announce, daemon=True)
    thread.start()
    try:
        yield work.report
    finally:
        has_ended.set()
        thread.join()
