"""Lines about work that takes long and shows no progress of its own."""

from __future__ import annotations

import time

from inrflow_core.runtime.progress import format_duration

SLOW = 4.0
"""Seconds after which imports are announced."""
REPEAT = 5.0
"""Most seconds between two lines while work is shown or announced."""


class Announcement:
    """The lines about some work, which may count its units.

    Whoever prints them decides when: the command line after `REPEAT` seconds without another line.
    """

    def __init__(self, text: str, unit: str = "") -> None:
        """`unit` is the plural noun of the units."""
        self._text, self._unit = text, unit
        self._started = time.monotonic()
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
        count = f"{done:,} of {total:,} {self._unit}, " if total else ""
        left = (
            f"{format_duration((total - done) / done * seconds)} left" if done else f"{format_duration(seconds)} so far"
        )
        return f"{self._text}: {count}{left}"
