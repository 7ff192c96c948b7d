"""Progress and messages of long work: callbacks of a caller, such as a console."""

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
    return contextlib.nullcontext(lambda done, total: None)


def no_log(text: str) -> None:
    """Print nothing."""


@dataclass(frozen=True)
class Reporter:
    """The callbacks of long work; by default none."""

    log: Log = no_log
    """Called with results."""
    warn: Log = no_log
    """Called with problems after which the work continues."""
    progress: TrackProgress = no_progress


SILENT = Reporter()
