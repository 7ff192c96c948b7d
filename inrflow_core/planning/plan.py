"""What a training run will take, found out without taking it: parameters, operations, memory, disk, time.

The model is built with weights that have shapes and no numbers (torch's fake tensors), and a step of it is simulated
(`_simulation`). So a model of 866M parameters is planned in a few seconds and a few megabytes. What AdamW, the averages
and DeepSpeed's stages hold beside it is computed (`_state`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import torch
from torch import nn
from torch._subclasses import FakeTensorMode

from inrflow_core import models
from inrflow_core.config.preset import Preset
from inrflow_core.planning import memory_trace, zero_memory
from inrflow_core.planning.gpu_specs import Gpu
from inrflow_core.planning.memory_trace import BACKWARD as BESIDE
from inrflow_core.planning.memory_trace import BATCH, GRADIENTS, LOSS, Trace
from inrflow_core.runtime.distributed import World

BACKWARD = 3
"""A step's operations as a multiple of the forward pass's: the backward pass takes twice as many."""
PROGRAM = {"cpu": 650_000_000, "cuda": 1_000_000_000}
"""Bytes that are taken before any model is there: by Python, torch and DeepSpeed on a CPU (measured); on a GPU by CUDA
and its libraries (assumed)."""
ALLOWANCE = 0.1
"""Of activations on a GPU, where torch's allocator rounds up and leaves gaps; assumed, not seen on one."""


@dataclass(frozen=True)
class Plan:
    """What one process of a run will take."""

    parameters: dict[str, int]
    """By part of the model."""
    flops: dict[str, float]
    """Of one step over all processes, by part, forward and backward: what the network needs, three times a forward."""
    memory: dict[str, int]
    """Bytes at the moment of the step when most are taken, by what they hold (`ROWS`)."""
    checkpoint: int
    """Bytes of one checkpoint."""
    disk: int
    """Bytes of all kept checkpoints and the one being written."""
    executed: dict[str, float]
    """Of one step over all processes, by part: products as they are computed, repeated ones again."""
    most: dict[str, int]
    """Bytes that each row of `memory` holds at its own most."""
    update_bytes: float
    """Bytes that clipping, AdamW and the averages read and write in a step, on one process."""

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

    @property
    def passing(self) -> int:
        """Bytes that come and go in a step, at the moment when most are taken."""
        return self.total_memory - self.held

    @property
    def held(self) -> int:
        """Bytes that a process holds between two steps, the program's own included."""
        return sum(self.memory.get(row, 0) for row in HELD)

    def table(self) -> dict[str, Any]:
        """Everything, for `--json`."""
        totals = {
            "parameters": self.total_parameters,
            "flops": self.total_flops,
            "executed": sum(self.executed.values()),
            "memory": self.total_memory,
        }
        return asdict(self) | {"total": totals}

    def seconds(self, gpu: Gpu, precision: str, processes: int) -> float:
        """Of one step on so many such GPUs, without the time that they wait for each other or for data."""
        products = sum(self.executed.values()) / processes / gpu.rate(precision)
        return products + (self.update_bytes / gpu.bandwidth if gpu.bandwidth else 0.0)


TABLE_ROWS = {
    "program": "program",
    "weights": "weights",
    "zero_weights": "weights that ZeRO updates (fp32 copy)",
    "gathered_weights": "weights that ZeRO 3 has gathered",
    "gradients": "gradients",
    "zero_gradients": "gradients that ZeRO sums up (fp32 copy)",
    "moments": "moments of AdamW",
    "averages": "averages (EMA)",
    "communication": "buffers of communication",
    "batch": "batches",
    "activations_encoder": "activations: encoder",
    "activations_trunk": "activations: trunk",
    "activations_decoder": "activations: decoder and loss",
    "backward": "backward pass beside them",
    "allowance": "gaps of the GPU's allocator",
}
"""What the rows of `Plan.memory` hold."""
HELD = ("program", "weights", "zero_weights", "gathered_weights", "moments", "averages")
"""Those that stay between two steps."""


class Planner:
    """Plans of a preset in several settings, of which each kind of step is simulated once."""

    def __init__(self, preset: Preset, world: World, precision: str) -> None:
        self.preset, self.world, self.precision = preset, world, precision
        self._models: dict[bool, models.Model] = {}
        self._traces: dict[tuple[bool, int], Trace] = {}

    @property
    def is_checkpointed(self) -> bool:
        """Whether the preset has its activations computed again."""
        return getattr(self.preset.network.config, "checkpoint_activations", False)

    def sizes(self) -> tuple[dict[str, int], dict[str, float]]:
        """Parameters by part, and operations of a forward pass of one set; nothing is simulated for them."""
        method = self._model(self.is_checkpointed).method
        return parts(method), method.flops()

    def plan(self, micro: int, *, stage: int | None = None, checkpointed: bool | None = None) -> Plan:
        """The plan with micro-batches of `micro` sets, and the preset's settings where none are given."""
        preset, settings = self.preset, self.preset.training.config
        stage = int(settings.zero_stage) if stage is None else stage
        checkpointed = self.is_checkpointed if checkpointed is None else checkpointed
        method = self._model(checkpointed).method
        copies = getattr(preset.method.config, "copies", 1)  # of each set, under other times and noises
        weights = sum(p.numel() for p in method.parameters())
        trace = self._trace(checkpointed, micro * copies)
        num_micro = max(1, settings.batch // self.world.size // micro)
        held = zero_memory.Layout(weights, settings, self.world, stage, num_micro)
        memory, most = _memory(trace, held, self._read_ahead(micro))
        checkpoint = zero_memory.FLOAT * weights * (1 + len(settings.ema) + 2)
        num_kept = settings.keep + (preset.eval is not None) + 1  # the newest, the best, and one that is being written
        return Plan(
            parts(method),
            {part: BACKWARD * settings.batch * copies * count for part, count in method.flops().items()},
            memory,
            checkpoint,
            checkpoint * num_kept,
            {part: settings.batch / micro * count for part, count in trace.executed.items()},
            most,
            held.update_bytes,
        )

    def _read_ahead(self, micro: int) -> int:
        """Bytes of the batches that wait to be learned from, on the device."""
        shape = self._model(self.is_checkpointed).domain.shape
        waiting = self.preset.data.config.prefetch + 1
        return waiting * micro * shape.num_queries * shape.value_size * zero_memory.FLOAT

    @cached_property
    def _mode(self) -> FakeTensorMode:
        return FakeTensorMode(allow_non_fake_inputs=True)

    def _model(self, checkpointed: bool) -> models.Model:
        if checkpointed not in self._models:
            preset = self.preset
            if checkpointed != self.is_checkpointed:
                preset = preset.with_network_settings(checkpoint_activations=checkpointed)
            with _without_weights(self._mode):
                self._models[checkpointed] = models.build(preset)
        return self._models[checkpointed]

    def _trace(self, checkpointed: bool, count: int) -> Trace:
        key = checkpointed, count
        if key not in self._traces:
            on_gpu = self.world.device.type == "cuda"
            self._traces[key] = memory_trace.run(
                self._model(checkpointed), self._mode, count, precision=self.precision, on_gpu=on_gpu
            )
        return self._traces[key]


def predict(preset: Preset, world: World, *, precision: str, micro: int) -> Plan:
    """The plan of a preset over the processes of `world`, with micro-batches of `micro` sets."""
    return Planner(preset, world, precision).plan(micro)


def _memory(trace: Trace, held: zero_memory.Layout, read_ahead: int) -> tuple[dict[str, int], dict[str, int]]:
    """Bytes by row when most are taken, in the backward pass or in the update behind it; and each row's most."""
    on_gpu = held.world.device.type == "cuda"
    now, most = (_rows(held_by, on_gpu) for held_by in trace.peak(gradients_stay=held.gradients_grow))
    always = {"program": PROGRAM[held.world.device.type], **held.always, "batch": read_ahead}
    moments = [_sum(always, held.backward, now), _sum(always, held.update)]
    highest = _sum(always, held.backward, most)
    for name, count in moments[1].items():
        highest[name] = max(highest.get(name, 0), count)
    taken = max(moments, key=lambda rows: sum(rows.values()))
    names = [name for name in TABLE_ROWS if highest.get(name)]
    return {name: taken.get(name, 0) for name in names}, {name: highest[name] for name in names}


def _rows(by_part: dict[str, int], on_gpu: bool) -> dict[str, int]:
    """The simulation's parts as rows of the plan."""
    rows: dict[str, int] = {}
    names = {BATCH: "batch", BESIDE: "backward", GRADIENTS: "gradients", LOSS: "activations_decoder"}
    for part, count in by_part.items():
        name = names.get(part, f"activations_{part}")
        rows[name] = rows.get(name, 0) + count
    if on_gpu:
        passing = sum(count for name, count in rows.items() if name != "gradients")
        rows["allowance"] = int(ALLOWANCE * passing)
    return rows


def _sum(*tables: dict[str, int]) -> dict[str, int]:
    total: dict[str, int] = {}
    for rows in tables:
        for name, count in rows.items():
            total[name] = total.get(name, 0) + count
    return total


def parts(method: nn.Module) -> dict[str, int]:
    """Parameters by part: the network's own parts, and what stands beside it."""
    counts: dict[str, int] = {}
    for name, module in method.named_children():
        split = getattr(module, "parts", None)
        for part, count in (split() if split else {name: sum(p.numel() for p in module.parameters())}).items():
            counts[part] = counts.get(part, 0) + count
    return counts


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
