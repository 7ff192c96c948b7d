"""What a training run will take, found out without taking it: parameters, operations, memory, disk, time.

The model is built with weights that have shapes and no numbers (torch's fake tensors), and a step of it is simulated
(`memory_trace`). So a model of 866M parameters is planned in a few seconds and a few megabytes. What AdamW, the averages
and DeepSpeed's stages hold beside it is computed (`zero_memory`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any, TypeVar

import torch
from torch import nn
from torch._subclasses import FakeTensorMode

from inrflow_core import models
from inrflow_core.config.preset import Preset
from inrflow_core.methods._contract import Stage
from inrflow_core.methods._trained_weights import weights_by_optimizer
from inrflow_core.planning import memory_trace, parts, zero_memory
from inrflow_core.planning.gpu_specs import Gpu
from inrflow_core.planning.memory_trace import BACKWARD as BESIDE
from inrflow_core.planning.memory_trace import BATCH, GRADIENTS, LOSS, Pass, Trace, UntraceableError
from inrflow_core.runtime.distributed import World

N = TypeVar("N", int, float)
BACKWARD = 3
"""A step's operations as a multiple of the forward pass's: the backward pass takes twice as many."""
CHECKPOINTING = "checkpoint_activations"
"""The setting by which networks offer to compute activations again in the backward pass."""
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
    """Of one step over all processes, by part: what the loss needs, three times the forward pass of each set."""
    memory: dict[str, int]
    """Bytes at the moment of the step when most are taken, by what they hold (`TABLE_ROWS`)."""
    checkpoint: int
    """Bytes of one checkpoint."""
    disk: int
    """Bytes of all kept checkpoints and the one being written."""
    executed: dict[str, float]
    """Of one step over all processes, by part: FLOPs as they are computed, repeated ones again."""
    most: dict[str, int]
    """Bytes that each row of `memory` holds at its own most."""
    update_bytes: float
    """Bytes that clipping, AdamW and the averages read and write in a step, on one process."""
    problem: str | None = None
    """Why memory and FLOPs are unknown, which are then empty: the loss cannot be traced."""

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
    def transient(self) -> int:
        """Bytes that come and go in a step, at the moment when most are taken."""
        return self.total_memory - self.persistent

    @property
    def persistent(self) -> int:
        """Bytes that a process holds between two steps, the program's own included."""
        return sum(self.memory.get(row, 0) for row in PERSISTENT_ROWS)

    def table(self) -> dict[str, Any]:
        """Everything, for `--json`."""
        totals = {
            "parameters": self.total_parameters,
            "flops": self.total_flops,
            "executed": sum(self.executed.values()),
            "memory": None if self.problem else self.total_memory,
        }
        return asdict(self) | {"total": totals}

    def seconds(self, gpu: Gpu, precision: str, processes: int) -> float:
        """Of one step on so many such GPUs, without the time that they wait for each other or for data."""
        products = sum(self.executed.values()) / processes / gpu.rate(precision)
        return products + (self.update_bytes / gpu.bandwidth if gpu.bandwidth else 0.0)


ACTIVATIONS = "activations_"
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
    ACTIVATIONS: "activations: ",
    "backward": "backward pass beside them",
    "allowance": "gaps of the GPU's allocator",
}
"""What the rows of `Plan.memory` hold; `ACTIVATIONS` begins a row for each part."""
PERSISTENT_ROWS = ("program", "weights", "zero_weights", "gathered_weights", "moments", "averages")
"""Those that stay between two steps."""


class Planner:
    """Plans of one stage of a preset in several settings; the steps of each kind are traced once.

    The preset has the settings of `stage`, by default the first. Of several optimizers, the pass with the largest peak
    decides the memory, and FLOPs are those of all together.
    """

    def __init__(self, preset: Preset, world: World, precision: str, stage: Stage | None = None) -> None:
        self.preset, self.world, self.precision = preset, world, precision
        self._stage: Stage = preset.method.module.STAGES[0] if stage is None else stage
        self._models: dict[bool, models.Model] = {}
        self._traces: dict[tuple[bool, int], list[Trace]] = {}

    @property
    def can_checkpoint(self) -> bool:
        """Whether a network of the preset has the setting that its activations are computed again."""
        return any(hasattr(part.config, CHECKPOINTING) for part in self.preset.networks.values())

    @property
    def is_checkpointed(self) -> bool:
        """Whether the preset has activations of a network computed again."""
        return any(getattr(part.config, CHECKPOINTING, False) for part in self.preset.networks.values())

    def sizes(self) -> tuple[dict[str, int], dict[str, float]]:
        """Parameters by part, and FLOPs of a forward pass of one set by part.

        Raises:
            UntraceableError: the loss cannot be run without numbers.
        """
        return parts.count_parameters(self._model(self.is_checkpointed).method), dict(self._forward_flops)

    def plan(self, micro: int, *, stage: int | None = None, checkpointed: bool | None = None) -> Plan:
        """The plan with micro-batches of `micro` sets, and the preset's settings where none are given."""
        preset, settings = self.preset, self.preset.training.config
        stage = int(settings.zero_stage) if stage is None else stage
        checkpointed = self.is_checkpointed if checkpointed is None else checkpointed
        method = self._model(checkpointed).method
        weights = sum(p.numel() for p in method.parameters())
        by_optimizer = weights_by_optimizer(method, self._stage)
        trained = sum(p.numel() for own in by_optimizer.values() for p in own.values())
        num_micro = max(1, settings.batch // self.world.size // micro)
        layout = zero_memory.Layout(weights, trained, settings, self.world, stage, num_micro)
        checkpoint = zero_memory.FLOAT * (weights * (1 + len(settings.ema)) + 2 * trained)
        num_kept = settings.keep + (preset.eval is not None) + 1  # the newest, the best, and one that is being written
        plan = Plan(
            parts.count_parameters(method),
            flops={},
            memory={},
            checkpoint=checkpoint,
            disk=checkpoint * num_kept,
            executed={},
            most={},
            update_bytes=layout.update_bytes,
        )
        try:
            traces = self._trace(checkpointed, micro)
            flops = {part: BACKWARD * settings.batch * count for part, count in self._forward_flops.items()}
        except UntraceableError as error:
            return replace(plan, problem=str(error))
        read_ahead = self._read_ahead(micro)
        memory, most = max(
            (_memory(trace, layout, read_ahead) for trace in traces), key=lambda rows: sum(rows[0].values())
        )
        total = _by_part(method, _sum(*(trace.executed for trace in traces)))
        executed = {part: settings.batch / micro * count for part, count in total.items()}
        return replace(plan, flops=flops, memory=memory, most=most, executed=executed)

    def _read_ahead(self, micro: int) -> int:
        """Bytes of the values of the batches that wait to be learned from, on the device."""
        values = memory_trace.dummy_set(self._model(self.is_checkpointed)).values
        return (self.preset.data.config.prefetch + 1) * micro * values.nbytes

    @cached_property
    def _forward_flops(self) -> dict[str, float]:
        """FLOPs of a forward pass of one set, by part."""
        model = self._model(self.is_checkpointed)
        traces = self._traces.get((self.is_checkpointed, 1))
        if traces is None:
            traces = [memory_trace.run(model, self._mode, 1, step, has_backward=False) for step in self._passes]
        return _by_part(model.method, _sum(*(trace.forward for trace in traces)))

    @property
    def _passes(self) -> list[Pass]:
        """The step of each optimizer of the stage."""
        return [Pass(self._stage, name, self.preset.training.config.steps) for name in self._stage.optimizers]

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

    def _trace(self, checkpointed: bool, count: int) -> list[Trace]:
        """The training pass of each optimizer."""
        key, settings = (checkpointed, count), {"precision": self.precision, "device": self.world.device}
        if key not in self._traces:
            model = self._model(checkpointed)
            self._traces[key] = [memory_trace.run(model, self._mode, count, step, **settings) for step in self._passes]
        return self._traces[key]


def predict(preset: Preset, world: World, *, precision: str, micro: int, stage: Stage | None = None) -> Plan:
    """The plan of a stage of a preset over the processes of `world`, with micro-batches of `micro` sets."""
    return Planner(preset, world, precision, stage).plan(micro)


def row_title(row: str) -> str:
    """What a row of `Plan.memory` holds, in words."""
    part = row.removeprefix(ACTIVATIONS)
    return TABLE_ROWS[row] if part == row else TABLE_ROWS[ACTIVATIONS] + part


def _by_part(method: nn.Module, counts: dict[str, float]) -> dict[str, float]:
    """FLOPs of the method's parts in their order, then of the loss around them; parts without any are left out."""
    counts = {**counts, LOSS: counts.get(LOSS, 0.0) + counts.get(BATCH, 0.0)}
    names = [*parts.count_parameters(method), *(name for name in counts if name != LOSS), LOSS]
    return {name: counts[name] for name in dict.fromkeys(names) if name != BATCH and counts.get(name)}


def _memory(trace: Trace, layout: zero_memory.Layout, read_ahead: int) -> tuple[dict[str, int], dict[str, int]]:
    """Bytes by row when most are taken, in the backward pass or in the update behind it; and each row's most."""
    on_gpu = layout.world.device.type == "cuda"
    now, most = (_rows(by_part, on_gpu) for by_part in trace.peak(gradients_stay=layout.gradients_grow))
    always = {"program": PROGRAM[layout.world.device.type], **layout.always, "batch": read_ahead}
    moments = [_sum(always, layout.backward, now), _sum(always, layout.update)]
    highest = _sum(always, layout.backward, most)
    for name, count in moments[1].items():
        highest[name] = max(highest.get(name, 0), count)
    taken = max(moments, key=lambda rows: sum(rows.values()))
    names = [name for name in _ordered(highest) if highest[name]]
    return {name: taken.get(name, 0) for name in names}, {name: highest[name] for name in names}


def _ordered(rows: dict[str, int]) -> list[str]:
    """The rows in the order of `TABLE_ROWS`, those of parts as the forward pass comes to them."""
    order = list(TABLE_ROWS)
    return sorted(rows, key=lambda row: order.index(ACTIVATIONS if row.startswith(ACTIVATIONS) else row))


def _rows(by_part: dict[str, int], on_gpu: bool) -> dict[str, int]:
    """The traced parts as rows of the plan."""
    rows: dict[str, int] = {}
    names = {BATCH: "batch", BESIDE: "backward", GRADIENTS: "gradients"}
    for part, count in by_part.items():
        name = names.get(part, f"{ACTIVATIONS}{part}")
        rows[name] = rows.get(name, 0) + count
    if on_gpu:
        transient = sum(count for name, count in rows.items() if name != "gradients")
        rows["allowance"] = int(ALLOWANCE * transient)
    return rows


def _sum(*tables: dict[str, N]) -> dict[str, N]:
    total: dict[str, N] = {}
    for rows in tables:
        for name, count in rows.items():
            total[name] = total[name] + count if name in total else count
    return total


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
