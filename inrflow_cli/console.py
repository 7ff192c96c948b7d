"""Results on stdout: tables and lists. Progress, notes, hints and errors on stderr. With `--json`, stdout holds one JSON object.

A terminal shows them by Rich; elsewhere (a log file, a pipe, CI) progress is a plain line every five seconds, and tables have their
full width. `NO_COLOR` is obeyed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast

from inrflow_core.runtime.announcement import REPEAT, Announcement
from inrflow_core.runtime.progress import Progress as Callback
from inrflow_core.runtime.progress import Reporter, format_duration, no_report
from inrflow_core.storage import typed_json

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import ProgressColumn
    from rich.table import Table
    from rich.text import Text

    from inrflow_core.errors import InrflowError

NARROW = 110
"""Columns of a terminal from which the bar has its full length."""
UNBOUNDED = 100_000
"""Columns of what is not a terminal: more than any table has."""
SHORTEST = 0.01
"""Least seconds between two looks at whether a line is due."""
READABLE = 200
"""Columns up to which a line in a pipe or a file is read well; tables that have another form take it where they are wider."""
_stdout_is_reserved = False
_last_line = time.monotonic()
"""When the last line was printed on stderr, or the command began (`time.monotonic`)."""
_in_progress: list[Callable[[], str]] = []
"""The plain lines of work in progress, that of the innermost last."""


class LossyStderr:
    """stderr for messages: those without a reader (a closed pipe or terminal, a full disk) are dropped, and work continues."""

    encoding = "utf-8"

    def write(self, text: str) -> int:
        """Write a text, or drop it and all that follow."""
        self._attempt(lambda stream: stream.write(text))
        return len(text)

    def flush(self) -> None:
        """Flush what was written."""
        self._attempt(lambda stream: stream.flush())

    def isatty(self) -> bool:
        """Whether stderr is a terminal."""
        return sys.stderr is not None and not sys.stderr.closed and sys.stderr.isatty()

    @staticmethod
    def _attempt(action: Callable[[Any], Any]) -> None:
        if sys.stderr is None or sys.stderr.closed:
            return
        # While a bar is shown Rich replaces sys.stderr by a proxy that prints through this console, which would not end.
        stream = getattr(sys.stderr, "rich_proxied_file", sys.stderr)
        try:
            action(stream)
        except OSError:
            drop(stream)


def drop(stream: Any) -> None:
    """Lead the file descriptor of a stream to nowhere, so that what it still holds causes no error at the end."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


class LossyStdout:
    """stdout for tables: what has no reader is dropped, as by `print_stdout`."""

    encoding = "utf-8"

    def write(self, text: str) -> int:
        """Write a text, or drop it."""
        print_stdout(text)
        return len(text)

    def flush(self) -> None:
        """Nothing: each text is flushed as it is written."""

    def isatty(self) -> bool:
        """Whether stdout is a terminal."""
        return sys.stdout is not None and not sys.stdout.closed and sys.stdout.isatty()


@cache
def stderr() -> Console:
    """The console on stderr, created at the first use."""
    return _console(LossyStderr())


def begin() -> None:
    """A command begins: silence counts from here."""
    global _last_line
    _last_line = time.monotonic()


def is_first_process() -> bool:
    """Whether this is the first process, or the only one, that a launcher started."""
    return os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0")) == "0"


def has_begun() -> bool:
    """Whether something was printed on stderr."""
    return stderr.cache_info().currsize > 0


def stdout() -> Console:
    """The console on stdout."""
    return _console(LossyStdout())


def _console(file: LossyStderr | LossyStdout) -> Console:
    from rich.console import Console

    width = None if file.isatty() or "COLUMNS" in os.environ else UNBOUNDED
    return Console(  # `mmd:cd:inrflow` is a name
        file=cast(IO[str], file), width=width, highlight=False, soft_wrap=True, emoji=False
    )


def reserve_stdout(is_reserved: bool = True) -> None:
    """Leave stdout to the text of a program, such as a JSON object: results for a person go to stderr."""
    global _stdout_is_reserved
    _stdout_is_reserved = is_reserved


def results() -> Console:
    """The console for results: stdout, or stderr where stdout is reserved."""
    return stderr() if _stdout_is_reserved else stdout()


def result(text: str) -> None:
    """Print one line of the result of a command, without markup and wrapping."""
    results().print(text, markup=False)


def info(text: str) -> None:
    """Print one line on stderr, without markup and wrapping."""
    _print(text, markup=False)


def warn(text: str) -> None:
    """Print a line on stderr, marked as a note."""
    _headed("note", "bold yellow", text)


def error(problem: InrflowError, *, as_json: bool = False) -> None:
    """Print `error: ...`, a blank line and `hint: ...` on stderr; with `--json` also as one object on stdout."""
    _headed("error", "bold red", problem.message)
    if problem.hint:
        info("")
        _headed("hint", "bold cyan", problem.hint)
    print_json({"error": problem.message, "hint": problem.hint, "code": int(problem.code)}, as_json=as_json)


def print_json(answer: Any, *, as_json: bool) -> None:
    """Print the result of a command as one JSON object on stdout, if `as_json`."""
    if as_json:
        print_stdout(json.dumps(answer, default=_plain) + "\n")


def print_stdout(text: str) -> None:
    """Write a text to stdout. One that cannot be written is lost, with a note unless its reader has left."""
    problem = "it is closed"
    if sys.stdout is not None and not sys.stdout.closed:
        try:
            sys.stdout.write(text)
            sys.stdout.flush()
            return
        except UnicodeEncodeError as failure:
            print_stdout(text.encode(failure.encoding, "replace").decode(failure.encoding))
            return
        except OSError as failure:
            drop(sys.stdout)
            if isinstance(failure, BrokenPipeError):
                return
            problem = str(failure.strerror)
    _note_loss(problem)


@cache
def _note_loss(problem: str) -> None:
    """Say once that stdout cannot be written."""
    warn(f"nothing could be written to stdout: {problem}")


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Print a table as a result; columns of numbers are aligned to the right, and names in the first are not broken."""
    results().print(_table(columns, rows), soft_wrap=False)


def fits(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> bool:
    """Whether a table is narrow enough to be read: printed without broken cells in a terminal, of at most `READABLE` columns elsewhere."""
    width = results().measure(_table(columns, rows), options=results().options.update(width=UNBOUNDED)).maximum
    return width <= (READABLE if results().width == UNBOUNDED else results().width)


def _table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    rows = [list(row) for row in rows]
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for index, name in enumerate(columns):
        numbers = bool(rows) and all(isinstance(row[index], int | float) for row in rows)
        is_whole = index == 0 and max(len(str(row[0])) for row in [columns, *rows]) <= results().width // 2
        table.add_column(name, justify="right" if numbers else "left", overflow="fold", no_wrap=is_whole)
    for row in rows:
        table.add_row(*(Text(f"{cell:,}" if isinstance(cell, int) else str(cell)) for cell in row))
    return table


class Progress:
    """Progress of some work, which calls `advance`."""

    def __init__(self, total: int | None, unit: str, title: str, draw: Callable[[Progress], None]) -> None:
        self.total, self.unit, self.title = total, unit, title
        self.done, self.note = 0, ""
        self.is_open = True
        self.started = time.monotonic()
        self.measured_rate: float | None = None
        self.measured_left: float | None = None
        self._draw = draw

    def advance(
        self, count: int = 1, *, note: str = "", rate: float | None = None, seconds_left: float | None = None
    ) -> None:
        """Add `count` to what is done; `note` (a loss, a name) is shown at the end of the line.

        `rate` and `seconds_left` are shown in place of those by the whole time so far, if the work measures better ones.
        """
        self.done += count
        self.note = note or self.note
        self.measured_rate, self.measured_left = rate or self.measured_rate, seconds_left
        self._draw(self)

    @property
    def is_finishing(self) -> bool:
        """Whether all units are done and the work continues: what was sampled becomes meshes, or is written."""
        return self.is_open and self.total is not None and 0 < self.total <= self.done

    @property
    def rate(self) -> float:
        """Units per second."""
        return self.measured_rate or self.done / max(time.monotonic() - self.started, 1e-9)

    def line(self) -> str:
        """One plain line: count and total, the rate, the time left."""
        if self.total and not self.done:
            return f"{self.title}: first of {self.total:,} {self.unit}"
        if self.is_finishing:
            seconds = format_duration(time.monotonic() - self.started)
            return f"{self.title}: {self.done:,} of {self.total:,} {self.unit}, finishing, {seconds} so far"
        rate = self.rate
        parts = [f"{self.done:,}{f' of {self.total:,}' if self.total else ''} {self.unit}", f"{_rate(rate)}/s"]
        if self.total and self.done < self.total:
            left = self.measured_left
            left = (self.total - self.done) / rate if left is None else left
            parts.append(f"{format_duration(left)} left")
        else:
            parts.append(f"in {format_duration(max(time.monotonic() - self.started, 1e-9))}")
        parts += [self.note] if self.note else []
        return f"{self.title}: " + ", ".join(parts)


@contextmanager
def progress(total: int | None, unit: str, *, title: str = "done") -> Iterator[Progress]:
    """Show the progress of the work inside: a bar with rate and time left on a terminal, plain lines elsewhere.

    `total` is None if it is not known. `unit` is a plural word ("images").
    """
    if stderr().is_terminal:
        with _bar(total, unit, title) as state:
            yield state
        return
    state = Progress(total, unit, title, lambda state: None)
    with _plain_lines(state.line):
        yield state
    state.is_open = False
    if state.done or state.total == 0:
        info(state.line())


@contextmanager
def _plain_lines(line: Callable[[], str]) -> Iterator[None]:
    """During the work inside, a line whenever stderr had none for `REPEAT` seconds; of nested work the innermost has it."""
    has_ended = threading.Event()

    def repeat() -> None:
        while not has_ended.wait(max(_last_line + REPEAT - time.monotonic(), SHORTEST)):
            if _in_progress[-1] is line and time.monotonic() >= _last_line + REPEAT:
                info(line())

    _in_progress.append(line)
    thread = threading.Thread(target=repeat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        has_ended.set()
        thread.join()
        _in_progress.remove(line)


@contextmanager
def track(title: str, unit: str, total: int | None = None) -> Iterator[Callback]:
    """Progress as `progress` shows it, for the callback that the core calls."""
    with progress(total, unit, title=title) as state:

        def report(done: int, total: int) -> None:
            state.total = total
            state.advance(done - state.done)

        yield report


@contextmanager
def announce(text: str, unit: str = "") -> Iterator[Callback]:
    """Lines on stderr while the work inside takes long, by the first process of several; it may count its units by the callback."""
    if not is_first_process():
        yield no_report
        return
    work = Announcement(text, unit)
    with _plain_lines(work.line):
        yield work.report


def reporter() -> Reporter:
    """This console, for the core to report to."""
    return Reporter(info, warn, track, announce)


@contextmanager
def _bar(total: int | None, unit: str, title: str) -> Iterator[Progress]:
    from rich import progress as rich_progress

    is_narrow = stderr().width < NARROW
    columns = (
        rich_progress.TextColumn("{task.description}"),
        rich_progress.BarColumn(bar_width=10 if is_narrow else 30),
        rich_progress.TextColumn("{task.completed:,.0f}{task.fields[of]} " + unit),
        _left_column(),
        rich_progress.TextColumn("{task.fields[rate]}/s"),
        _note_column(),
    )
    with rich_progress.Progress(*columns, console=stderr(), redirect_stdout=False) as bars:
        task = bars.add_task(title, total=total, rate="-", note="", left=None, of=f" of {total:,}" if total else "")

        def draw(state: Progress) -> None:
            of = f" of {state.total:,}" if state.total else ""  # the total may become known on the way
            note = "finishing" if state.is_finishing else state.note
            shown = {"rate": _rate(state.rate), "note": note, "left": state.measured_left, "of": of}
            bars.update(task, total=state.total, completed=state.done, **shown)

        state = Progress(total, unit, title, draw)
        yield state
        state.is_open = False
        draw(state)


def _left_column() -> ProgressColumn:
    """The time left: that which the work measures, else by the progress of the last half minute."""
    from rich.progress import ProgressColumn, Task, TimeRemainingColumn
    from rich.table import Column
    from rich.text import Text

    by_progress = TimeRemainingColumn(elapsed_when_finished=True)

    class LeftColumn(ProgressColumn):
        def render(self, task: Task) -> Text:
            left = task.fields["left"]
            return by_progress.render(task) if left is None or task.finished else Text(f"{format_duration(left)} left")

    return LeftColumn(Column(no_wrap=True))


def _note_column() -> ProgressColumn:
    """The end of the line, which alone is cut where the line is too long."""
    from rich.progress import ProgressColumn, Task
    from rich.table import Column
    from rich.text import Text

    class NoteColumn(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text(task.fields["note"], no_wrap=True, overflow="ellipsis")

    return NoteColumn(Column(no_wrap=False))


def _rate(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= 10 else f"{rate:.2g}"


def _headed(head: str, style: str, text: str) -> None:
    from rich.text import Text

    _print(Text.assemble((f"{head}:", style), " ", text))


def _print(text: Text | str, *, markup: bool = True) -> None:
    """Print on stderr."""
    global _last_line
    stderr().print(text, markup=markup)
    _last_line = time.monotonic()


def _plain(value: Any) -> Any:
    """JSON form of paths, data classes, and numbers of NumPy and torch."""
    if isinstance(value, Path):
        return str(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return typed_json.to_plain(value)
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} has no JSON form")
