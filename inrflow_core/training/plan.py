"""What a training run will take, found out without taking it: parameters, operations, memory, disk, time.

The model is built with weights that have shapes and no numbers (torch's fake tensors), and passed forward once; what
that pass would keep for its backward pass is counted. So a 733M model is planned in a second and a few megabytes.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode

from inrflow_core import models
from inrflow_core.errors import OutOfMemory
from inrflow_core.presets import Preset
from inrflow_core.sets import Queries
from inrflow_core.training.world import World

FLOAT = 4
"""Bytes of a float32: weights, gradients, moments and averages are fp32 in every precision."""
BACKWARD = 3
"""A step's operations as a multiple of the forward pass's: the backward pass takes twice as many."""
PROGRAM = 600_000_000
"""Bytes that Python, torch and DeepSpeed take before any model is there (measured on a CPU)."""
SLACK = 1.1
"""Activations for a moment exceed what is kept: the largest intermediate of the backward pass stands beside it."""


@dataclass(frozen=True)
class Plan:
    """What one process of a run will take."""

    parameters: dict[str, int]
    """By part of the model."""
    flops: dict[str, float]
    """Of one step over all processes, by part: forward and backward."""
    memory: dict[str, int]
    """Bytes, by what they hold."""
    checkpoint: int
    """Bytes of one checkpoint."""
    disk: int
    """Bytes of all kept checkpoints and the one being written."""

    @property
    def total_parameters(self) -> int:
        """Of the whole model."""
        return sum(self.parameters.values())

    @property
    def total_flops(self) -> float:
        """Of one step."""
        return sum(self.flops.values())

    @property
    def total_memory(self) -> int:
        """Bytes of one process."""
        return sum(self.memory.values())

    def table(self) -> dict[str, Any]:
        """Everything, for `--json`."""
        totals = {"parameters": self.total_parameters, "flops": self.total_flops, "memory": self.total_memory}
        return asdict(self) | {"total": totals}


def predict(preset: Preset, world: World, *, precision: str, micro: int) -> Plan:
    """The plan of a preset over the processes of `world`, with micro-batches of `micro` sets."""
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    with _without_weights(mode):
        model = models.build(preset)
    settings = preset.training.config
    weights = sum(p.numel() for p in model.method.parameters())
    copies = _copies(preset)
    flops = {part: BACKWARD * settings.batch * copies * n for part, n in model.method.flops().items()}
    state = _state(weights, settings.zero_stage, world.size)
    memory = {
        "program": PROGRAM,
        **state,
        "averages": FLOAT * weights * len(settings.ema) // (world.size if settings.zero_stage == 3 else 1),
        "activations": int(SLACK * _activations(model, mode, micro * copies, precision)),
    }
    checkpoint = FLOAT * weights * (1 + len(settings.ema) + 2)
    num_kept = settings.keep + (preset.eval is not None) + 1  # the newest, the best, and one that is being written
    return Plan(parts(model.method), flops, memory, checkpoint, checkpoint * num_kept)


def _copies(preset: Preset) -> int:
    """How often each set is learned in a step, under other times and noises."""
    return getattr(preset.method.config, "copies", 1)


def parts(method: nn.Module) -> dict[str, int]:
    """Parameters by part: the network's own parts, and what stands beside it."""
    counts: dict[str, int] = {}
    for name, module in method.named_children():
        split = getattr(module, "parts", None)
        for part, count in (split() if split else {name: sum(p.numel() for p in module.parameters())}).items():
            counts[part] = counts.get(part, 0) + count
    return counts


def check_memory(plan: Plan, world: World) -> None:
    """Nothing, where the run fits into what is free.

    Raises:
        OutOfMemory: it does not; says by how much.
    """
    free = free_memory(world.device)
    if free is not None and plan.total_memory > free:
        least = plan.total_memory - plan.memory["activations"] > free
        hint = (
            "its state alone is too large: take a smaller preset, fewer `training.ema`, or more processes"
            if least
            else "take a smaller `--set training.micro_batch=...`, or `--set network.checkpoint_activations=true`"
        )
        raise OutOfMemory(
            f"training needs about {_gigabytes(plan.total_memory)} of memory and {_gigabytes(free)} are free: "
            f"{_gigabytes(plan.total_memory - free)} too little",
            hint=hint,
        )


def check_disk(plan: Plan, out: Path, present: int) -> None:
    """Nothing, where the checkpoints fit on the disk; `present` bytes of them are there already.

    Raises:
        OutOfMemory: they do not; says by how much.
    """
    place = out.absolute()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    # A resumed run holds its kept checkpoints already; room for the next one is needed in any case.
    needed = max(plan.checkpoint, plan.disk - present)
    if needed > free:
        raise OutOfMemory(
            f"the checkpoints need {_gigabytes(needed)} of disk below `{place}` and {_gigabytes(free)} are free: "
            f"{_gigabytes(needed - free)} too little",
            hint="free some disk, choose another `--out`, or keep fewer with `--set training.keep=1`",
        )


def free_memory(device: torch.device) -> int | None:
    """Bytes that a process may still take; None where the system does not say."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    found = []
    meminfo = Path("/proc/meminfo")
    if meminfo.is_file():
        lines = dict(line.split(":", 1) for line in meminfo.read_text().splitlines() if ":" in line)
        found.append(int(lines["MemAvailable"].split()[0]) * 1024)
    found += [limit - used for limit, used in _cgroup_limits()]
    return min(found) if found else None


def measure_rate(device: torch.device, precision: str, side: int = 1024, seconds: float = 0.3) -> float:
    """Operations per second of a square matrix product, as the device computes it now."""
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


def _state(weights: int, stage: int, processes: int) -> dict[str, int]:
    """Weights, gradients and AdamW's moments of one process, fp32.

    Stages 1 and 2 keep a second copy of the weights that a process updates; stage 1 gathers its part of the gradient
    beside the whole one.
    """
    share = -(-weights // processes)
    held = {0: weights, 1: weights + share, 2: weights + share, 3: share}[stage]
    gradients = {0: weights, 1: weights + share, 2: weights + share, 3: 2 * share}[stage]
    moments = 2 * (weights if stage == 0 else share)
    return {"weights": FLOAT * held, "gradients": FLOAT * gradients, "moments": FLOAT * moments}


def _activations(model: models.Model, mode: FakeTensorMode, micro: int, precision: str) -> int:
    """Bytes that one forward pass of `micro` sets keeps for its backward pass."""
    method, shape = model.method, model.domain.shape
    sets = model.domain.blank(micro)
    asked = min(method.config.num_queries or shape.num_pairs, shape.num_pairs)
    with mode, _count_kept(method) as kept, torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        values, queries = torch.zeros(micro, shape.num_pairs, shape.value_size), sets.queries
        chosen = queries.coordinates
        if chosen is not None:
            chosen = chosen[..., :asked, :] * torch.ones(micro, 1, 1)  # each set has its own queries
        condition = (
            dict(sets.condition) if method.conditioner is None else {**sets.condition, **method.conditioner.blank(sets)}
        )
        told = method.told(condition)
        asking = Queries(chosen, queries.places[:asked], None if queries.groups is None else queries.groups[:, :asked])
        method.network(queries, values, torch.zeros(micro), told, asking, values[:, :asked].clone())
    return sum(kept.values())


@contextmanager
def _without_weights(mode: FakeTensorMode) -> Iterator[None]:
    """Weights registered inside the block lose their numbers at once; buffers, which a network computes from, do not."""
    register = nn.Module.register_parameter

    def register_shape(module: nn.Module, name: str, weight: nn.Parameter | None) -> None:
        if weight is not None:
            with mode:
                weight = nn.Parameter(torch.empty(weight.shape, dtype=weight.dtype), weight.requires_grad)
        register(module, name, weight)

    nn.Module.register_parameter = register_shape  # pyright: ignore[reportAttributeAccessIssue]
    try:
        yield
    finally:
        nn.Module.register_parameter = register


@contextmanager
def _count_kept(method: nn.Module) -> Iterator[dict[int, int]]:
    """Bytes of every storage that autograd keeps inside the block, the weights' own excepted."""
    own = {p.untyped_storage()._cdata for p in method.parameters()}
    kept: dict[int, int] = {}
    alive = []

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own and storage._cdata not in kept:
            kept[storage._cdata] = storage.nbytes()
            alive.append(tensor)  # or its number would be given to another
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        yield kept


def _cgroup_limits() -> Iterator[tuple[int, int]]:
    """Limit and use of this process's container, where it has one."""
    for limit, used in (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ):
        if os.path.isfile(limit) and os.path.isfile(used):
            text = Path(limit).read_text().strip()
            if text.isdigit():
                yield int(text), int(Path(used).read_text())


def _gigabytes(count: float) -> str:
    return f"{count / 1e9:,.2f} GB"
