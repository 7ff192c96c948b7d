"""Memory of this process: how much is free (RAM, cgroup and GPU), out-of-memory errors, reuse of freed pages."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from inrflow_core.errors import OutOfMemory

OOM_MESSAGES = (
    "allocate memory",
    "Cannot allocate",
    "not enough memory",
    "out of memory",
    "_ALLOC_FAILED",
    "bad_alloc",
    "bad alloc",
)
"""Parts of the messages of libraries that raise no class of their own."""


def run_unless_oom(function: Callable[[], None]) -> bool:
    """Call `function`; return False if it ran out of memory, after its allocations are freed.

    Raises:
        Exception: any other error of the function.
    """
    try:
        function()
    except (MemoryError, RuntimeError, OutOfMemory) as error:
        if not is_out_of_memory(error):
            raise
    else:
        return True
    # Here the error is freed, and with it its frames and all tensors in them.
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    return False


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that there was not enough memory, on a CPU or a GPU."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError | OutOfMemory):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in OOM_MESSAGES)


def free_memory(device: torch.device) -> int | None:
    """Bytes that a process can still allocate; None if unknown."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    limits = []
    meminfo = Path("/proc/meminfo")
    if meminfo.is_file():
        lines = dict(line.split(":", 1) for line in meminfo.read_text().splitlines() if ":" in line)
        limits.append(int(lines["MemAvailable"].split()[0]) * 1024)
    limits += [limit - used for limit, used in (*_cgroup_limits(), *_own_limits())]
    return max(0, min(limits)) if limits else None


def used_memory(device: torch.device) -> int:
    """Bytes that this process uses now, on the GPU if that is its device."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    return _status().get("VmRSS", 0)


def _cgroup_limits() -> Iterator[tuple[int, int]]:
    """Limit and use of this process's container, if it has one."""
    for limit, used in (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ):
        if os.path.isfile(limit) and os.path.isfile(used):
            text = Path(limit).read_text().strip()
            if text.isdigit():
                yield int(text), int(Path(used).read_text())


def _own_limits() -> Iterator[tuple[int, int]]:
    """Limits that the shell or a batch system set on this process (`ulimit`), and what it uses of them."""
    import resource

    status = _status()
    for kind, name in ((resource.RLIMIT_AS, "VmSize"), (resource.RLIMIT_DATA, "VmData")):
        limit = resource.getrlimit(kind)[0]
        if limit != resource.RLIM_INFINITY and name in status:
            yield limit, status[name]


def _status() -> dict[str, int]:
    """Memory sizes of this process in bytes on Linux; empty elsewhere."""
    path = Path("/proc/self/status")
    lines = path.read_text().splitlines() if path.is_file() else []
    rows = (line.split(":", 1) for line in lines if line.endswith(" kB"))
    return {name: int(value.split()[0]) * 1024 for name, value in rows}


TRIM_THRESHOLD, MMAP_MAX = -1, -4
"""glibc's numbers of the settings (malloc.h)."""
MAX_RETAINED_BYTES = 2**31 - 1


def retain_freed_pages() -> bool:
    """From now on allocate large blocks from the heap, and keep up to 2 GiB of it when they are freed.

    For commands that allocate the same sizes repeatedly: the C library otherwise returns large blocks to the system when
    they are freed, and the system clears them when they are allocated again, which took a fifth of the CPU time of
    sampling a cloud. Returns False, without effect, if the C library is not glibc.
    """
    setting = getattr(ctypes.CDLL(None), "mallopt", None)
    return setting is not None and bool(setting(MMAP_MAX, 0)) and bool(setting(TRIM_THRESHOLD, MAX_RETAINED_BYTES))
