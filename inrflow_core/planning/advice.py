"""Settings with which a run fits into memory; and out-of-memory errors that name them."""

from __future__ import annotations

import gc
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from inrflow_core.config.training import divisors
from inrflow_core.errors import OutOfMemory
from inrflow_core.planning.plan import CHECKPOINTING, Planner
from inrflow_core.runtime import memory
from inrflow_core.runtime.distributed import World
from inrflow_core.runtime.memory import is_out_of_memory
from inrflow_core.runtime.progress import first_line, format_gigabytes

SAFETY_FACTOR = 0.9
"""Fraction of the transient memory of a failed step that advised settings may take: predictions have this accuracy."""


SCALED = 0.07
"""Relative error of the transient memory that is scaled from one traced pass to fewer sets: within 2 % for the papers' networks, more
for shallow ones whose encoder works in chunks."""
NEAR, MOST_TOO_MUCH = 0.1, 0.25
"""Relative errors of that memory with recomputation by formula, which may be too little, and scaled from few sets to more, which may
be too much. Settings whose fit an error could change are traced."""
FEW = 2
"""Sets of the pass with recomputation that others are scaled from where there is no formula: the fewer, the quicker it is traced."""


@dataclass(frozen=True)
class MemoryOption:
    """A change of the settings, and the memory that a process then takes."""

    option: str
    """The option of the command."""
    memory: int
    fits: bool


@dataclass(frozen=True)
class Advice:
    """Changes that reduce the memory of a run, each by itself."""

    micro_batch: MemoryOption | None
    """The largest micro-batch that fits, else the smallest one; None if none is smaller than now."""
    checkpointing: MemoryOption | None
    """Activations recomputed, with the same micro-batch; None if they are already."""
    both: MemoryOption | None
    """Both, if neither alone is enough."""
    stage: MemoryOption | None
    """The lowest ZeRO stage that takes less; None if none does, or for a single process."""

    @property
    def options(self) -> list[MemoryOption]:
        """The changes that exist; those that fit come first."""
        options = [each for each in (self.micro_batch, self.checkpointing, self.both, self.stage) if each is not None]
        return sorted(options, key=lambda each: not each.fits)

    def hint(self) -> str:
        """The hint of an error: the changes that fit, else the one that takes the least."""
        options = self.options
        good = [each for each in options if each.fits]
        if good:
            return "what fits: " + ", or ".join(f"`{each.option}` ({format_gigabytes(each.memory)})" for each in good)
        least = min(options, key=lambda each: each.memory, default=None)
        nearest = "" if least is None else f" (`{least.option}` still takes {format_gigabytes(least.memory)})"
        return (
            f"no micro-batch, checkpointing or ZeRO stage is enough{nearest}: take a smaller preset or more processes"
        )


def find(planner: Planner, micro: int, capacity: float, *, is_exact: bool = True) -> Advice:
    """Changes that reduce a run with micro-batches of `micro` sets to `capacity` bytes per process.

    Their memory is scaled from the traced pass of `micro` sets, with recomputation by formula (`Trace.recomputed`). Where their
    errors could change whether settings fit, these are traced if `is_exact`; else they count as too large, which is quicker and
    enough for the free memory of a machine, which changes by the minute.
    """
    stage = planner.preset.training.config.zero_stage
    fewer = _fewer(planner, micro)
    few = next((n for n in fewer if n <= FEW), micro)

    def option_of(option: str, count: int, **settings: Any) -> MemoryOption:
        plan = planner.plan(count, is_scaled=True, **settings)
        low, high = (NEAR, above) if settings else (SCALED, SCALED)
        if (
            is_exact
            and plan.total_memory - high * plan.transient <= capacity <= plan.total_memory + low * plan.transient
        ):
            plan = planner.plan(count, **settings)
        slack = 0.0 if is_exact else low * plan.transient
        return MemoryOption(option, plan.total_memory, plan.total_memory + slack <= capacity)

    def smaller(prefix: str, **settings: Any) -> MemoryOption | None:
        return _largest(
            [lambda n=n: option_of(f"{prefix}--set training.micro_batch={n}", n, **settings) for n in fewer]
        )

    again = f"--set network.{CHECKPOINTING}=true"
    can_checkpoint = planner.can_checkpoint and not planner.is_checkpointed
    planner.plan(micro)  # what others are scaled from
    micro_batch = smaller("")
    above = SCALED
    if can_checkpoint and not planner.has_formula:
        planner.plan(few, checkpointed=True)
        above = MOST_TOO_MUCH
    checkpointing = option_of(again, micro, checkpointed=True) if can_checkpoint else None
    is_solved = any(one is not None and one.fits for one in (micro_batch, checkpointing))
    both = smaller(f"{again} ", checkpointed=True) if can_checkpoint and not is_solved else None
    return Advice(micro_batch, checkpointing, both, _stage(stages(planner, micro), stage, planner.world, capacity))


def stages(planner: Planner, micro: int) -> dict[int, int]:
    """Bytes of a process in each ZeRO stage that can train the method."""
    return {number: planner.plan(micro, stage=number).total_memory for number in planner.zero_stages}


def _fewer(planner: Planner, micro: int) -> list[int]:
    """Smaller micro-batches that divide the batch of a process, the largest first."""
    share = planner.preset.training.config.batch // planner.world.size
    return [n for n in reversed(divisors(share)) if n < micro]


def _largest(options: list[Callable[[], MemoryOption]]) -> MemoryOption | None:
    """The first option that fits, by bisection, of options in the order of falling memory; else the last."""
    low, high = 0, len(options) - 1
    if high < 0:
        return None
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if options[middle]().fits else (middle + 1, high)
    return options[low]()


def _stage(stages: dict[int, int], now: int, world: World, capacity: float) -> MemoryOption | None:
    """The lowest ZeRO stage that fits, else the one that takes least, if it takes less than now."""
    if world.size == 1:  # there is no other process to share with
        others = {0: stages[0]}
    else:
        others = {number: memory for number, memory in stages.items() if number != now}
    number = next((n for n, memory in others.items() if memory <= capacity), min(others, key=lambda n: others[n]))
    if number == now or others[number] >= stages[now]:
        return None
    return MemoryOption(f"--set training.zero_stage={number}", others[number], others[number] <= capacity)


@contextmanager
def out_of_memory(
    planner: Planner, micro: int, saved: Callable[[], int | None], *, in_step: bool = True
) -> Iterator[None]:
    """Inside the block, running out of memory raises an error that names settings with which the run fits.

    `saved` returns the step of the latest checkpoint, None without one. `in_step` is False while the model is built.

    Raises:
        OutOfMemory: an allocation failed.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise _explain(error, planner, micro, saved(), in_step) from None


def _explain(error: BaseException, planner: Planner, micro: int, saved: int | None, in_step: bool) -> OutOfMemory:
    """The error with the memory taken, free and needed, and settings that take less."""
    device = planner.world.device
    used = memory.used_memory(device)
    reason = first_line(error)
    traceback.clear_frames(error.__traceback__)  # its frames reference the step's tensors
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    free = memory.free_memory(device)
    predicted = planner.plan(micro)
    if predicted.problem is None:
        # Persistent memory is allocated already, whatever else the program takes.
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
        f"out of memory {'in a training step' if in_step else 'before the first step'}: this process had taken {format_gigabytes(used)}"
        + ("" if free is None else f" ({format_gigabytes(free)} are free without the step's tensors)")
        + f", and {needed}; {resumes} ({reason})",
        hint=hint,
    )
