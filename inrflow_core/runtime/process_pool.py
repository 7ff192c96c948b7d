"""Tasks spread over processes, so that a kill at any moment leaves nobody behind.

Processes are spawned, not forked: they inherit no lock, no open HDF5 file and no thread of their parent. Each hangs
on its own pipe, and ends when the parent does, however the parent ended (the standard pool's workers would wait for
ever after a kill -9).
"""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

from inrflow_core.errors import InrflowError, OutOfMemory

ReportProgress = Callable[[int], None]
"""Called with a number of items that are done."""
Function = Callable[[Any, ReportProgress], Any]
"""What is done with a task; it and its tasks and results must be picklable."""


def map_unordered(function: Function, tasks: Iterable[Any], *, workers: int, advance: ReportProgress) -> Iterator[Any]:
    """The result of `function(task, advance)` for every task, as they finish; with one worker, in this process.

    Raises:
        InrflowError: whatever a task raised; the others are stopped.
        OutOfMemory: a worker was killed.
    """
    if workers <= 1:
        for task in tasks:
            yield function(task, advance)
        return
    pending = iter(tasks)
    crew: dict[Connection, BaseProcess] = {}
    try:
        for _ in range(workers):
            connection, process = _start(function)
            crew[connection] = process
            _give(connection, pending)
        while crew:
            for connection in wait(list(crew)):
                assert isinstance(connection, Connection)
                kind, content = _receive(connection, crew[connection])
                if kind == "advance":
                    advance(content)
                elif kind == "error":
                    raise content
                elif kind == "ended":
                    crew.pop(connection).join()
                else:
                    _give(connection, pending)
                    yield content
    finally:
        for process in crew.values():
            process.terminate()
        for process in crew.values():
            process.join()


def _start(function: Function) -> tuple[Connection, BaseProcess]:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_work, args=(function, theirs), daemon=True)
    process.start()
    theirs.close()
    return ours, process


def _give(connection: Connection, pending: Iterator[Any]) -> None:
    """The next task, or None to say that there are no more."""
    connection.send(next(pending, None))


def _receive(connection: Connection, process: BaseProcess) -> tuple[str, Any]:
    try:
        return connection.recv()
    except (EOFError, ConnectionResetError) as error:
        process.join()
        code = process.exitcode or 0
        if code < 0:
            raise OutOfMemory(
                f"a worker was killed by signal {-code}, as the system does when memory runs out",
                hint="run the same command again to resume; take fewer `--workers`",
            ) from error
        raise RuntimeError(f"a worker ended with code {code}; its traceback is above") from error


def _work(function: Function, connection: Connection) -> None:
    """The life of a worker: tasks from the pipe until there are no more, or nobody is at its other end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides what it means
    try:
        while (task := connection.recv()) is not None:
            try:
                result = function(task, lambda count: connection.send(("advance", count)))
            except (InrflowError, OSError, MemoryError) as error:
                connection.send(("error", error))
                return
            connection.send(("result", result))
        connection.send(("ended", None))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return
