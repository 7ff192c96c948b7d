"""Ctrl-C and SIGTERM: finish the step, save, stop; all processes agree."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

import torch

from inrflow_core.runtime.distributed import World


class StopSignal:
    """Turns Ctrl-C and SIGTERM into a flag that is read between two steps.

    A second one stops at once, but not under a launcher: that sends its own after the terminal's, and kills those who
    take too long.
    """

    def __init__(self, say: Callable[[str], None], world: World) -> None:
        self._say, self._world = say, world
        self._came = False
        self._question: AsyncAnyReduce | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopSignal:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._take)
        return self

    def __exit__(self, error: object, *_: object) -> None:
        if self._question is not None and error is None:
            self._question.answer()  # so that no message is under way when others follow
        if error is not None and self._world.is_launched:
            # The launcher kills the other processes when one fails, before they can report why they stop.
            self._before = dict.fromkeys(self._before, signal.SIG_IGN)
        self._restore()

    def is_stop_requested(self) -> bool:
        """Whether any process got a signal; the same on all of them.

        Alone that is known at once. Several processes hear it one step later: the question travels beside the step.
        """
        if self._world.size == 1:
            return self._came
        requested = self._question is not None and self._question.answer()
        self._question = AsyncAnyReduce(self._came, self._world.device)
        return requested

    def _take(self, number: int, frame: FrameType | None) -> None:
        if not self._came:
            self._say(
                "finishing the step and saving"
                + ("" if self._world.is_launched else "; interrupt again to stop at once")
            )
        self._came = True
        if not self._world.is_launched:
            self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()


class AsyncAnyReduce:
    """Whether any process has a flag set: an asynchronous all-reduce while they compute.

    On a GPU the answer is copied into memory that the GPU writes by itself, behind the work that was queued before: who
    fetches it a step later waits for the step before, while the next one is already queued.
    """

    def __init__(self, mine: bool, device: torch.device) -> None:
        self._flag = torch.full((), float(mine), device=device)
        self._work = torch.distributed.all_reduce(self._flag, torch.distributed.ReduceOp.MAX, async_op=True)
        self._event: Any = None
        if device.type == "cuda":
            self._wait()
            self._flag = torch.empty((), pin_memory=True).copy_(self._flag, non_blocking=True)
            self._event = torch.cuda.Event()
            self._event.record()

    def answer(self) -> bool:
        """What all agree on."""
        self._wait() if self._event is None else self._event.synchronize()
        return bool(self._flag)

    def _wait(self) -> None:
        assert self._work is not None
        self._work.wait()
