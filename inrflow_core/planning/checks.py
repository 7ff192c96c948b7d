"""Checks before a run starts: does it fit into memory and on the disk, and how fast is this machine?"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path

import torch

from inrflow_core.errors import OutOfMemory
from inrflow_core.planning.plan import Plan
from inrflow_core.runtime import memory
from inrflow_core.runtime.distributed import World
from inrflow_core.runtime.progress import format_bytes, format_gigabytes


def check_memory(plan: Plan, world: World, advise: Callable[[float], str] | None = None) -> None:
    """Raise OutOfMemory if the run does not fit into the free memory; a plan of unknown memory is not checked.

    `advise` returns the hint for the free bytes of a process.

    Raises:
        OutOfMemory: it does not fit; says by how much.
    """
    free = memory.free_memory(world.device)
    if free is not None and world.device.type == "cpu":
        free //= world.local_size  # the processes of a machine share its memory
    if free is not None and plan.problem is None and plan.total_memory > free:
        hint = "take a smaller `--set training.micro_batch=...`, or `--set network.checkpoint_activations=true`"
        raise OutOfMemory(
            f"training needs about {format_gigabytes(plan.total_memory)} of memory and {format_gigabytes(free)} are free: "
            f"{format_gigabytes(plan.total_memory - free)} too little",
            hint=hint if advise is None else advise(free),
        )


def check_disk(plan: Plan, out: Path, present: int, precomputed: int = 0) -> None:
    """Raise OutOfMemory if a run does not fit on the disk.

    `present` bytes of its checkpoints exist already; `precomputed` bytes of precomputed shards are still to be written.

    Raises:
        OutOfMemory: they do not fit; says by how much.
    """
    folder = out.absolute()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    # A resumed run has its kept checkpoints already, but needs space for the next one.
    needed = max(plan.checkpoint, plan.disk - present) + precomputed
    if needed > free:
        shards = f" and the precomputed inputs ({format_bytes(precomputed)})" if precomputed else ""
        raise OutOfMemory(
            f"the checkpoints{shards} need {format_bytes(needed)} of disk below `{folder}` and {format_bytes(free)} are free: "
            f"{format_bytes(needed - free)} too little",
            hint="free some disk, choose another `--out`, or keep fewer with `--set training.keep=1`",
        )


def step_seconds(plan: Plan, rate: Callable[[str], float], precision: str, processes: int) -> float:
    """Seconds of a step on `processes` processes at `rate` FLOPs per second in a precision; memory and data are not waited for."""
    update = plan.update_flops / rate("fp32") if plan.update_flops else 0.0
    return sum(plan.executed.values()) / (rate(precision) * processes) + update


def measure_rate(device: torch.device, precision: str, side: int = 1024, seconds: float = 0.1) -> float:
    """FLOPs per second of a square matrix product, measured on the device."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    side = side if device.type == "cpu" else 8 * side
    a = torch.ones(side, side, dtype=dtype, device=device)
    torch.mm(a, a)
    count, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        torch.mm(a, a)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        count += 1
    return count * 2 * side**3 / (time.perf_counter() - start)
