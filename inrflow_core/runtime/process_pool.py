"""Map a function over tasks in several processes; a kill at any moment leaves no process behind.

Processes are spawned, not forked: they inherit no lock, no open HDF5 file and no thread of their parent. Each reads
from its own pipe and ends when the parent does, in any way (the standard pool's workers would wait forever after a
kill -9).
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
"""The function of a task and a progress callback; it, its tasks and its results must be picklable."""


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
    processes: dict[Connection, BaseProcess] = {}
    try:
        for _ in range(workers):
            connection, process = _start(function)
            processes[connection] = process
            _send_next(connection, pending)
        while processes:
            for connection in wait(list(processes)):
                assert isinstance(connection, Connection)
                kind, content = _receive(connection, processes[connection])
                if kind == "advance":
                    advance(content)
                elif kind == "error":
                    raise content
                elif kind == "ended":
                    processes.pop(connection).join()
                else:
                    _send_next(connection, pending)
                    yield content
    finally:
        for process in processes.values():
            process.terminate()
        for process in processes.values():
            process.join()


def _start(function: Function) -> tuple[Connection, BaseProcess]:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_work, args=(function, theirs), daemon=True)
    process.start()
    theirs.close()
    return ours, process


def _send_next(connection: Connection, pending: Iterator[Any]) -> None:
    """Send the next task, or None at the end."""
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
    """A worker process: run tasks from the pipe until the end, or until the parent is gone."""
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
