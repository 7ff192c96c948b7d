"""Where a run does not fit: what would, in numbers; and running out of memory in the middle, as an error that says so."""

from __future__ import annotations

import gc
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from inrflow_core.errors import OutOfMemory
from inrflow_core.planning.plan import CHECKPOINTING, Planner
from inrflow_core.runtime import memory
from inrflow_core.runtime.distributed import World
from inrflow_core.runtime.memory import is_out_of_memory
from inrflow_core.runtime.units import first_line, format_gigabytes

STAGES = (0, 1, 2, 3)
SAFETY_FACTOR = 0.9
"""Of what comes and goes in a step that failed, at most so much may be advised: the prediction is good to so much."""


@dataclass(frozen=True)
class MemoryOption:
    """One change of the settings, and the memory that a process then takes."""

    option: str
    """What to give the command."""
    memory: int
    fits: bool


@dataclass(frozen=True)
class Advice:
    """What helps a run that is too large, each change by itself."""

    micro_batch: MemoryOption | None
    """The largest smaller micro-batch that fits, else the smallest of all; None where there is no smaller one."""
    checkpointing: MemoryOption | None
    """Activations computed again, with the same micro-batch; None where they are already."""
    both: MemoryOption | None
    """Both, where neither is enough."""
    stage: MemoryOption | None
    """The lowest ZeRO stage that takes less; None where none does, or one process is alone."""

    @property
    def ways(self) -> list[MemoryOption]:
        """All of them, those that fit before those that do not."""
        found = [way for way in (self.micro_batch, self.checkpointing, self.both, self.stage) if way is not None]
        return sorted(found, key=lambda way: not way.fits)

    def hint(self) -> str:
        """For an error: what fits, else what comes nearest."""
        ways = self.ways
        good = [way for way in ways if way.fits]
        if good:
            return "what fits: " + ", or ".join(f"`{way.option}` ({format_gigabytes(way.memory)})" for way in good)
        least = min(ways, key=lambda way: way.memory, default=None)
        told = "" if least is None else f" (`{least.option}` still takes {format_gigabytes(least.memory)})"
        return f"no micro-batch, checkpointing or ZeRO stage is enough{told}: take a smaller preset or more processes"


def find(planner: Planner, micro: int, room: float) -> Advice:
    """What would fit into `room` bytes a process, for a run with micro-batches of `micro` sets that does not."""
    stage = planner.preset.training.config.zero_stage
    fewer = _fewer(planner, micro)

    def way(option: str, count: int, **settings: Any) -> MemoryOption:
        memory = planner.plan(count, **settings).total_memory
        return MemoryOption(option, memory, memory <= room)

    def smaller(prefix: str, **settings: Any) -> MemoryOption | None:
        return _largest([lambda n=n: way(f"{prefix}--set training.micro_batch={n}", n, **settings) for n in fewer])

    again = f"--set network.{CHECKPOINTING}=true"
    can_checkpoint = planner.can_checkpoint and not planner.is_checkpointed
    micro_batch = smaller("")
    checkpointing = way(again, micro, checkpointed=True) if can_checkpoint else None
    is_solved = any(one is not None and one.fits for one in (micro_batch, checkpointing))
    both = smaller(f"{again} ", checkpointed=True) if can_checkpoint and not is_solved else None
    return Advice(micro_batch, checkpointing, both, _stage(stages(planner, micro), stage, planner.world, room))


def stages(planner: Planner, micro: int) -> dict[int, int]:
    """Bytes of a process in each ZeRO stage."""
    return {number: planner.plan(micro, stage=number).total_memory for number in STAGES}


def _fewer(planner: Planner, micro: int) -> list[int]:
    """Smaller micro-batches that divide a process's share, the largest first."""
    share = planner.preset.training.config.batch // planner.world.size
    return [n for n in range(micro - 1, 0, -1) if share % n == 0]


def _largest(ways: list[Callable[[], MemoryOption]]) -> MemoryOption | None:
    """The first that fits of ways that take less and less, found by halving; else the last."""
    low, high = 0, len(ways) - 1
    if high < 0:
        return None
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if ways[middle]().fits else (middle + 1, high)
    return ways[low]()


def _stage(stages: dict[int, int], now: int, world: World, room: float) -> MemoryOption | None:
    """The lowest stage that fits, else the one that takes least, where it takes less than now."""
    if world.size == 1:  # there is nobody to share with
        others = {0: stages[0]}
    else:
        others = {number: memory for number, memory in stages.items() if number != now}
    number = next((n for n, memory in others.items() if memory <= room), min(others, key=lambda n: others[n]))
    if number == now or others[number] >= stages[now]:
        return None
    return MemoryOption(f"--set training.zero_stage={number}", others[number], others[number] <= room)


@contextmanager
def out_of_memory(
    planner: Planner, micro: int, saved: Callable[[], int | None], *, in_step: bool = True
) -> Iterator[None]:
    """Turns a failed allocation inside the block into an error that says what helps a run with such micro-batches.

    `saved` tells the step of the newest checkpoint, None where there is none. Else than `in_step`, the model is not yet
    built.

    Raises:
        OutOfMemory: there was not enough memory for something.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise _explain(error, planner, micro, saved(), in_step) from None


def _explain(error: BaseException, planner: Planner, micro: int, saved: int | None, in_step: bool) -> OutOfMemory:
    """The error in words: memory taken, free and needed, and settings that take less."""
    device = planner.world.device
    taken = memory.used_memory(device)
    said = first_line(error)
    traceback.clear_frames(error.__traceback__)  # they hold the step's tensors
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    free = memory.free_memory(device)
    predicted = planner.plan(micro)
    if predicted.problem is None:
        # What stays between steps is here already, whatever the program around it takes.
        here = predicted.persistent if in_step else memory.used_memory(device)
        most = predicted.persistent + SAFETY_FACTOR * predicted.transient
        hint = find(planner, micro, min(most, here + (free or most))).hint()
        needed = f"about {format_gigabytes(predicted.total_memory)} are needed"
    else:
        hint = "take a smaller `--set training.micro_batch=...` or a smaller preset"
        needed = "how much is needed is unknown"
    resumes = (
        "there is no checkpoint yet" if saved is None else f"run the same command again to resume from step {saved:,}"
    )
    return OutOfMemory(
        f"out of memory {'in a training step' if in_step else 'before the first step'}: this process had taken {format_gigabytes(taken)}"
        + ("" if free is None else f" ({format_gigabytes(free)} are free without the step's tensors)")
        + f", and {needed}; {resumes} ({said})",
        hint=hint,
    )
