"""Progress and messages of long work: callbacks of a caller, such as a console, and numbers as text for messages."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

Progress = Callable[[int, int], None]
"""Called with the units of work done and their total."""
Log = Callable[[str], None]
"""Called with one line of text for a person."""


@runtime_checkable
class TrackProgress(Protocol):
    """Shows the progress of a piece of work while its context is open."""

    def __call__(self, title: str, unit: str, total: int | None = None) -> AbstractContextManager[Progress]:
        """Enter to get the callback. `unit` is a plural noun; `total` is None if the work reports it later."""
        ...


def no_progress(title: str, unit: str, total: int | None = None) -> AbstractContextManager[Progress]:
    """Show nothing."""
    return contextlib.nullcontext(no_report)


@runtime_checkable
class Announce(Protocol):
    """Names a piece of work that shows no progress of its own, if it takes long."""

    def __call__(self, text: str, unit: str = "") -> AbstractContextManager[Progress]:
        """Enter before the work; it may count its units, of which `unit` is the plural noun, by the callback."""
        ...


def no_announcement(text: str, unit: str = "") -> AbstractContextManager[Progress]:
    """Say nothing."""
    return contextlib.nullcontext(no_report)


def no_report(done: int, total: int) -> None:
    """Report nothing."""


def no_log(text: str) -> None:
    """Print nothing."""


class RepeatableProgress:
    """A callback that work within a step, or after the last one, calls again with the same numbers, so that whoever gets them
    can end it."""

    def __init__(self, progress: Progress | None, first: tuple[int, int] = (1, 1)) -> None:
        """`first` is what is repeated before the first report."""
        self._progress, self._last = progress, first

    def __call__(self, done: int, total: int) -> None:
        """Report progress."""
        self._last = done, total
        self.repeat()

    def repeat(self) -> None:
        """Report the last progress again."""
        if self._progress is not None:
            self._progress(*self._last)


@dataclass(frozen=True)
class Reporter:
    """The callbacks of long work; by default none."""

    log: Log = no_log
    """Called with results."""
    warn: Log = no_log
    """Called with problems after which the work continues."""
    progress: TrackProgress = no_progress
    announce: Announce = no_announcement


SILENT = Reporter()


def format_bytes(num_bytes: float) -> str:
    """Bytes in powers of 1000 with three significant digits: 812 B, 4.1 MB, 2.6 GB."""
    for unit in ("B", "kB", "MB", "GB"):
        if num_bytes < 999.5:
            return f"{num_bytes:.3g} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:.3g} TB"


def format_gigabytes(num_bytes: float) -> str:
    """Bytes in GB with two decimals, so that numbers side by side can be subtracted: 12.05 GB."""
    return f"{num_bytes / 1e9:,.2f} GB"


def format_duration(seconds: float) -> str:
    """Seconds in the two largest units: 8.2 s, 3 min 20 s, 2 h 5 min, 3 d 4 h."""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, hours = int(seconds) // 60, int(seconds) // 3600
    if minutes < 60:
        return f"{minutes} min {int(seconds) % 60} s"
    return f"{hours} h {minutes % 60} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"


def first_line(error: BaseException) -> str:
    """The first line of an error's text, at most 200 characters; its class where it has no text."""
    return str(error).strip().partition("\n")[0][:200] or type(error).__name__
