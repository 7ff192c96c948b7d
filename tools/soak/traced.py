"""A process that is watched at its system calls, so that a kill lands inside a write and not beside it.

Linux's ptrace, through the C library: a line of a log is written in microseconds, which no clock hits. What the kernel
reports of a call does not depend on the processor; a write is shortened on x86-64 alone, where one register is enough.
"""

from __future__ import annotations

import ctypes
import os
import platform
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

SEIZE, INTERRUPT, SYSCALL, DETACH, POKE, INFO = 0x4206, 0x4207, 24, 17, 6, 0x420E
MARK_CALLS = 1
"""The option that tells stops at calls from stops by signals."""
ENTRY, EXIT = 1, 2
COUNT_REGISTER = 96
"""Where x86-64 keeps a call's third argument."""
CALLS = {
    "x86_64": {"write": 1, "ftruncate": 77, "rename": 82, "fsync": 74, "openat": 257, "unlink": 87, "mkdir": 83},
    "aarch64": {"write": 64, "ftruncate": 46, "fsync": 82, "openat": 56},
}
"""Numbers of the calls that change files, by processor."""


@dataclass(frozen=True)
class Call:
    """A system call that is about to begin, or has just ended."""

    name: str
    begins: bool
    file: str
    """The path of its first argument, where that is an open file."""
    size: int


class Traced:
    """The main thread of a running process, stopped at every system call that changes files."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._library = ctypes.CDLL(None, use_errno=True)
        self._library.ptrace.restype = ctypes.c_long
        self._names = {number: name for name, number in CALLS.get(platform.machine(), {}).items()}
        self._do(SEIZE, 0, MARK_CALLS)
        self._do(INTERRUPT)
        os.waitpid(pid, 0)

    def calls(self) -> Iterator[Call]:
        """Every such call, at its beginning and its end; the process waits until the next one is requested."""
        passed = 0
        while True:
            self._do(SYSCALL, 0, passed)
            _, status = os.waitpid(self.pid, 0)
            if not os.WIFSTOPPED(status):
                raise ProcessLookupError(f"process {self.pid} ended while it was watched")
            number = os.WSTOPSIG(status)
            passed = 0 if number & 0x80 or number == signal.SIGTRAP else number
            if number & 0x80 and (call := self._call()) is not None:
                yield call

    def shorten(self, size: int) -> None:
        """Let the write that is about to begin write `size` bytes, as a full pipe or a signal would."""
        assert platform.machine() == "x86_64"
        self._do(POKE, COUNT_REGISTER, size)

    def kill(self) -> None:
        """Kill -9, and nothing that the thread was about to do happens."""
        os.kill(self.pid, signal.SIGKILL)

    def leave(self) -> None:
        """Let it run on unwatched."""
        self._do(DETACH)

    def _call(self) -> Call | None:
        registers = (ctypes.c_uint64 * 11)()
        self._do(INFO, ctypes.sizeof(registers), ctypes.addressof(registers))
        kind = registers[0] & 0xFF
        if kind == ENTRY:
            self._last = registers[3], registers[4], registers[6]
        elif kind != EXIT:
            return None
        number, first, third = self._last
        name = self._names.get(number)
        return None if name is None else Call(name, kind == ENTRY, self._file(first), third)

    def _file(self, descriptor: int) -> str:
        try:
            return os.readlink(f"/proc/{self.pid}/fd/{descriptor}")
        except OSError:
            return ""

    def _do(self, request: int, address: int = 0, data: int = 0) -> None:
        arguments = (ctypes.c_long(request), ctypes.c_long(self.pid), ctypes.c_void_p(address), ctypes.c_void_p(data))
        if self._library.ptrace(*arguments) < 0:
            number = ctypes.get_errno()
            raise OSError(number, f"ptrace {request}: {os.strerror(number)}")


def die_at_change(pid: int, folder: Path, number: int) -> str:
    """Kill a process where it begins or ends the call of that number, from now on, that may change files; says which.

    Calls whose file is known and lies outside `folder` are not counted.
    """
    traced = Traced(pid)
    for call in traced.calls():
        if call.name in ("write", "fsync", "ftruncate") and not call.file.startswith(f"{folder}/"):
            continue
        number -= 1
        if number <= 0:
            traced.kill()
            return f"{'before' if call.begins else 'after'} {call.name}"
    raise AssertionError("calls never end")


def die_in_write(pid: int, file: Path, choose: Callable[[int], int | None]) -> str:
    """Kill a process inside its next write to a file, after `choose(size)` of its bytes; None: before the write begins.

    Returns what became of the line.
    """
    traced, call_to_stop = Traced(pid), None
    for call in traced.calls():
        if call.name != "write" or call.file != str(file):
            continue
        if not call.begins:
            traced.kill()
            return f"after {call_to_stop} bytes"
        call_to_stop = choose(call.size)
        if call_to_stop is None:
            traced.kill()
            return "before it"
        if call_to_stop < call.size:
            traced.shorten(call_to_stop)
    raise AssertionError("calls never end")
