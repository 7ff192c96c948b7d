"""Ctrl-C and other signals: finish the step, save and stop, on all processes after the same step."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

import torch

from inrflow_core.runtime.distributed import World
from inrflow_core.runtime.progress import Progress

IMPATIENT = (signal.SIGINT, signal.SIGTERM)
"""Signals of which a second one stops the process at once."""
PATIENT = (signal.SIGHUP, signal.SIGUSR1)
"""Signals of a closed terminal, which comes twice, and of a queue before its time limit."""


class StopRequested(Exception):
    """Work that need not be finished was ended by a signal."""


class StopSignal:
    """Sets a flag on Ctrl-C, SIGTERM, SIGHUP or SIGUSR1, which training reads between two steps.

    A SIGHUP that is ignored, as under `nohup`, stays ignored. A second Ctrl-C or SIGTERM stops the process at once, except under a launcher: torchrun forwards a signal that the terminal has sent
    already, and kills processes that take too long.
    """

    def __init__(self, say: Callable[[str], None], world: World) -> None:
        self._say, self._world = say, world
        self.is_signaled = False
        """Whether this process got a signal."""
        self._any_stop: AsyncAnyReduce | None = None
        self._earlier_handlers: dict[int, Any] = {}

    def __enter__(self) -> StopSignal:
        if threading.current_thread() is threading.main_thread():
            for number in (*IMPATIENT, *PATIENT):
                if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
                    self._earlier_handlers[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(self, error: object, *_: object) -> None:
        if self._any_stop is not None and error is None:
            self._any_stop.result()  # its message must arrive before those of other calls
        if error is not None and self._world.is_launched:
            # The launcher signals the other processes when one fails; they ignore that, to report first why they stop.
            self._earlier_handlers = dict.fromkeys(self._earlier_handlers, signal.SIG_IGN)
        self._restore()

    def is_stop_requested(self) -> bool:
        """Whether any process got a signal; the result is the same on all of them.

        A single process knows it at once. Several learn it one step later, because the all-reduce runs beside the step.
        """
        if self._world.size == 1:
            return self.is_signaled
        requested = self._any_stop is not None and self._any_stop.result()
        self._any_stop = AsyncAnyReduce(self.is_signaled, self._world.device)
        return requested

    def ending(self, progress: Progress) -> Progress:
        """A callback that reports to `progress`, and raises StopRequested once this process got a signal."""

        def report(done: int, total: int) -> None:
            if self.is_signaled:
                raise StopRequested
            progress(done, total)

        return report

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if not self.is_signaled:
            self._say(
                "finishing the step and saving"
                + ("" if self._world.is_launched else "; interrupt again to stop at once")
            )
        self.request()
        if not self._world.is_launched:
            self._restore(IMPATIENT)

    def request(self) -> None:
        """Stop after this step, as a signal does."""
        self.is_signaled = True

    def _restore(self, numbers: tuple[int, ...] = (*IMPATIENT, *PATIENT)) -> None:
        for number in numbers:
            if number in self._earlier_handlers:
                signal.signal(number, self._earlier_handlers.pop(number))


class AsyncAnyReduce:
    """Whether any process has a flag set: an all-reduce that runs while the processes compute.

    On a GPU the result is copied to pinned memory without a device synchronization. Reading it one step later waits for the
    earlier step alone, while the next one is already queued.
    """

    def __init__(self, is_set: bool, device: torch.device) -> None:
        self._flag = torch.full((), float(is_set), device=device)
        self._work = torch.distributed.all_reduce(self._flag, torch.distributed.ReduceOp.MAX, async_op=True)
        self._event: Any = None
        if device.type == "cuda":
            self._wait()
            self._flag = torch.empty((), pin_memory=True).copy_(self._flag, non_blocking=True)
            self._event = torch.cuda.Event()
            self._event.record()

    def result(self) -> bool:
        """Whether the flag of any process was set; waits for the all-reduce."""
        self._wait() if self._event is None else self._event.synchronize()
        return bool(self._flag)

    def _wait(self) -> None:
        assert self._work is not None
        self._work.wait()
