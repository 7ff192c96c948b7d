"""Block sizes for the processing of large tensors.

A CPU works in blocks that stay in its cache, a GPU in few large ones. A plan traces a training step without computing it: it may
simulate a GPU by a CPU's operations, and takes fewer, larger blocks, or one whose temporary tensors count as those of a real block
(`traced_as_one`), so that the time of planning does not grow with the batch.
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
_share = 1.0
"""The share of a tensor that a real block has, while a plan traces all blocks as one."""


def device_type(device: torch.device) -> str:
    """`cpu`, `cuda`, ...: the device that block sizes are for, in a plan the simulated one."""
    return device.type if _simulated is None else _simulated


def block_bytes(size: int, total: int | torch.SymInt, most: int) -> Any:
    """`size`, the bytes of a block of a tensor of `total` bytes; in a plan at least its smallest, and at most `most` blocks."""
    return size if _simulated is None else max(size, _smallest, -(-total // most))


def is_plan() -> bool:
    """Whether a plan traces the step."""
    return _simulated is not None


def share() -> float:
    """The part of their size that new tensors have in a real step: below 1 while all blocks are traced as one."""
    return _share


@contextmanager
def traced_as_one(block: float, total: float) -> Iterator[None]:
    """Inside the context, a plan computes `total` bytes at once where a real step has blocks of `block` bytes."""
    with _set_share(min(_share, block / total)):
        yield


@contextmanager
def outside_of_blocks() -> Iterator[None]:
    """Inside the context, new tensors have their whole size: results of all blocks, not temporary ones of one."""
    with _set_share(1.0):
        yield


@contextmanager
def _set_share(value: float) -> Iterator[None]:
    global _share
    before, _share = _share, value
    try:
        yield
    finally:
        _share = before


@contextmanager
def simulate(device: torch.device, smallest: int) -> Iterator[None]:
    """Inside the context, blocks are those of a plan for `device`, none below `smallest` bytes."""
    global _simulated, _smallest, _share
    before = _simulated, _smallest, _share
    _simulated, _smallest, _share = device.type, smallest, 1.0
    try:
        yield
    finally:
        _simulated, _smallest, _share = before
