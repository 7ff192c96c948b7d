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


@contextmanager
def announced(text: str, log: Log | None) -> Iterator[Progress]:
    """Log a text if the work inside takes longer than `SLOW` seconds, and then a line every `REPEAT` seconds; not without `log`.

    Yields:
        A callback for work that counts its units: lines after the first then say how many are done and the time left, the
        others the time so far.
    """
    if log is None:
        yield no_report
        return
    say, started = log, time.monotonic()
    counts = (0, 0)
    has_ended = threading.Event()

    def report(done: int, total: int) -> None:
        nonlocal counts
        counts = done, total

    def announce() -> None:
        if has_ended.wait(SLOW):
            return
        say(text)
        while not has_ended.wait(REPEAT):
            say(f"{text}: {_so_far(*counts, time.monotonic() - started)}")

    thread = threading.Thread(target=announce, daemon=True)
    thread.start()
    try:
        yield report
    finally:
        has_ended.set()
        thread.join()


def _so_far(done: int, total: int, seconds: float) -> str:
    if not total:
        return f"{format_duration(seconds)} so far"
    left = f"{format_duration((total - done) / done * seconds)} left" if done else f"{format_duration(seconds)} so far"
    return f"{done:,} of {total:,}, {left}"
