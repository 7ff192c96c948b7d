"""Join and leave the group of training processes."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch

from inrflow_core.runtime.distributed import World

PATIENCE = timedelta(hours=2)
"""Timeout for a process that is sampling or saving."""


def exit_process(world: World, code: int) -> None:
    """End a launched process at once; return if no launcher started it.

    Tearing down process groups aborts a run in about 2 of 100 cases after everything was done (seen with gloo, torch
    2.13), so launched processes synchronize once more and exit without it.
    """
    if not world.is_launched:
        return
    if world.size > 1 and torch.distributed.is_initialized():
        torch.distributed.barrier()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def init_process_group(world: World) -> None:
    """Join the other processes; without others, a group of one that needs no port."""
    if torch.distributed.is_initialized():
        return
    from torch.distributed import HashStore  # pyright: ignore[reportPrivateImportUsage]

    backend = "nccl" if world.device.type == "cuda" else "gloo"
    if world.device.type == "cuda":
        torch.cuda.set_device(world.device)
    if world.size == 1:
        torch.distributed.init_process_group(backend, store=HashStore(), rank=0, world_size=1)
    else:
        with temporary_environment(rank_variables(world)):
            torch.distributed.init_process_group(backend, timeout=PATIENCE)


def all_reduce_sum(world: World, *numbers: float) -> list[float]:
    """The sums of numbers over all processes."""
    if world.size == 1:
        return list(numbers)
    tensor = torch.tensor(numbers, dtype=torch.float64, device=world.device)
    torch.distributed.all_reduce(tensor)
    return tensor.tolist()


def barrier(world: World) -> None:
    """Wait for all processes."""
    if world.size > 1:
        torch.distributed.barrier()


def rank_variables(world: World) -> dict[str, Any]:
    """This process's rank and address as the variables that torch and DeepSpeed read; srun sets others."""
    names: dict[str, Any] = {"RANK": world.rank, "WORLD_SIZE": world.size}
    if world.address is not None:
        names |= {"MASTER_ADDR": world.address[0], "MASTER_PORT": world.address[1]}
    return names


@contextmanager
def temporary_environment(values: dict[str, Any]) -> Iterator[None]:
    """Set environment variables inside the context; restored after it, so that a later run does not look launched."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update({name: str(value) for name, value in values.items()})
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
