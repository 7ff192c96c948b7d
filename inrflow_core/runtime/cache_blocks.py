"""Block sizes for the processing of large tensors.

A CPU works in blocks that stay in its cache, a GPU in few large ones. A plan traces every block of a training step
without computing it: it may simulate a GPU by a CPU's operations, and takes fewer, larger blocks, so that the time of
planning does not grow with the batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

_simulated: str | None = None
"""The type of the device that a plan simulates; None outside of plans."""
_smallest = 0
"""The smallest block of a plan, in bytes."""


def device_type(device: torch.device) -> str:
    """`cpu`, `cuda`, ...: the device that block sizes are for, in a plan the simulated one."""
    return device.type if _simulated is None else _simulated


def block_bytes(size: int, total: int | torch.SymInt, most: int) -> Any:
    """`size`, the bytes of a block of a tensor of `total` bytes; in a plan at least its smallest, and at most `most` blocks."""
    return size if _simulated is None else max(size, _smallest, -(-total // most))


@contextmanager
def simulate(device: torch.device, smallest: int) -> Iterator[None]:
    """Inside the context, blocks are those of a plan for `device`, none below `smallest` bytes."""
    global _simulated, _smallest
    before = _simulated, _smallest
    _simulated, _smallest = device.type, smallest
    try:
        yield
    finally:
        _simulated, _smallest = before
