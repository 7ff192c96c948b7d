"""Estimate parameters, FLOPs, memory, disk and time of a training run before it starts.

The model is built from fake tensors, which have shapes but no numbers, and a training step of it is traced
(`memory_trace`): a model of 866M parameters takes some seconds and megabytes. The memory of the optimizer, EMAs and
DeepSpeed's ZeRO stages is computed (`zero_memory`).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cached_property, lru_cache
from typing import Any, TypeVar

import torch
from torch import nn
from torch._subclasses import FakeTensorMode

from inrflow_core import models
from inrflow_core.config.preset import Preset
from inrflow_core.config.training import Config
from inrflow_core.methods._contract import SHARDS, Stage
from inrflow_core.methods._trained_weights import (
    check_zero_stage,
    hidden_matrices,
    weights_by_optimizer,
    why_weights_stay_whole,
)
from inrflow_core.networks._contract import RecomputingConfig
from inrflow_core.planning import memory_trace, parts, zero_memory
from inrflow_core.planning.gpu_specs import Gpu
from inrflow_core.planning.memory_trace import Pass, UntraceableError
from inrflow_core.planning.trace import BACKWARD as BESIDE
from inrflow_core.planning.trace import BATCH, GRADIENTS, LOSS, Trace
from inrflow_core.runtime.distributed import World

N = TypeVar("N", int, float)
TraceKey = tuple[bool, int, bool]
"""Whether activations are recomputed, the number of sets, and whether the backward pass is traced."""
BACKWARD = 3
"""FLOPs of a step over those of its forward pass: the backward pass takes twice as many."""
CHECKPOINTING = "checkpoint_activations"
"""The setting of networks that can recompute activations in the backward pass: see `RecomputingConfig`."""
MAX_TRACED = 2048
"""Sets of the largest micro-batch that is traced; what larger ones allocate and execute is in proportion."""
PROGRAM = {"cpu": 500_000_000, "cuda": 1_000_000_000}
"""Bytes in use beside a model: by Python, torch and DeepSpeed on a CPU (measured: 460 MB in fp32, 505 MB in bf16); by CUDA
and its libraries on a GPU (assumed)."""
ALLOWANCE = 0.1
"""Part of the activations on a GPU that is added for gaps of torch's allocator; assumed, not measured."""
UNEQUAL_ALLOWANCE = 0.4
"""The same on a CPU for sets of unequal sizes, for gaps of the C library's memory (measured)."""


@dataclass(frozen=True)
class Plan:
    """Estimates for one process of a run."""

    parameters: dict[str, int]
    """By part of the model."""
    flops: dict[str, float]
    """FLOPs of one step over all processes, by part, without recomputation: three times the forward pass of each set."""
    memory: dict[str, int]
    """Bytes at the peak of a step, by what they hold (`TABLE_ROWS`)."""
    checkpoint: int
    """Bytes of one checkpoint."""
    disk: int
    """Bytes of all kept checkpoints and the one being written."""
    executed: dict[str, float]
    """FLOPs of one step over all processes, by part, recomputation included."""
    most: dict[str, int]
    """The maximum of each row of `memory` by itself, in bytes."""
    update_bytes: float
    """Bytes that clipping, the optimizer and the EMAs read and write in a step, on one process."""
    update_flops: float = 0.0
    """FLOPs of the optimizer's matrix products in a step, on one process and in fp32: Muon has them."""
    problem: str | None = None
    """Why the loss cannot be traced; memory and FLOPs are then empty. None if it can."""

    @property
    def total_parameters(self) -> int:
        """Parameters of the whole model."""
        return sum(self.parameters.values())

    @property
    def total_flops(self) -> float:
        """FLOPs of one step."""
        return sum(self.flops.values())

    @property
    def total_memory(self) -> int:
        """Bytes of one process at the peak."""
        return sum(self.memory.values())

    @property
    def transient(self) -> int:
        """Bytes that are allocated and freed within a step, at the peak."""
        return self.total_memory - self.persistent

    @property
    def persistent(self) -> int:
        """Bytes that a process holds between two steps, those of `PROGRAM` included."""
        return sum(self.memory.get(row, 0) for row in PERSISTENT_ROWS)

    def table(self) -> dict[str, Any]:
        """All estimates, for `--json`."""
        totals = {
            "parameters": self.total_parameters,
            "flops": self.total_flops,
            "executed": sum(self.executed.values()),
            "memory": None if self.problem else self.total_memory,
        }
        return asdict(self) | {"total": totals}

    def seconds(self, gpu: Gpu, precision: str, processes: int) -> float:
        """Seconds of one step on `processes` such GPUs, without the time that they wait for each other or for data."""
        products = sum(self.executed.values()) / processes / gpu.rate(precision)
        update = self.update_flops / gpu.rate("fp32" if gpu.fp32 else precision)
        return products + update + (self.update_bytes / gpu.bandwidth if gpu.bandwidth else 0.0)


ACTIVATIONS = "activations_"
TABLE_ROWS = {
    "program": "program",
    "weights": "weights",
    "zero_weights": "weights that ZeRO updates (fp32 copy)",
    "gathered_weights": "weights that ZeRO 3 has gathered",
    "gradients": "gradients",
    "zero_gradients": "gradients that ZeRO sums up (fp32 copy)",
    "moments": "moments of ",
    "before_step": "weights and moments before the step, to skip it",
    "newton_schulz": "Newton-Schulz iteration of Muon's matrices",
    "averages": "averages (EMA)",
    "communication": "buffers of communication",
    "batch": "batches",
    ACTIVATIONS: "activations: ",
    "backward": "backward pass beside them",
    "allowance": "gaps between allocations",
}
"""Titles of the rows of `Plan.memory`; a row of each part begins with `ACTIVATIONS`, and `moments` names the optimizers."""
OPTIMIZERS = {"adamw": "AdamW", "adam": "Adam", "radam": "RAdam", "muon": "Muon"}
"""Names of the optimizers of `[training]` in their papers."""
PERSISTENT_ROWS = ("program", "weights", "zero_weights", "gathered_weights", "moments", "averages")
"""Rows that are held between two steps."""


class Planner:
    """Plans one training stage of a preset under different settings; each kind of step is traced once.

    The preset has the settings of `stage`, by default the first stage. If the stage has several optimizers, its memory is
    that of the pass with the highest peak, and its FLOPs are those of all passes.
    """

    def __init__(
        self,
        preset: Preset,
        world: World,
        precision: str,
        stage: Stage | None = None,
        *,
        traces: dict[TraceKey, list[Trace]] | None = None,
        has_equal_sizes: bool = True,
    ) -> None:
        """`traces` are those of an equal model that was planned before; new ones are added.

        With `has_equal_sizes = False` the sets of a batch differ in size, and the preset's are the largest.
        """
        self.preset, self.world, self.precision = preset, world, precision
        self._stage: Stage = preset.stages[0] if stage is None else stage
        self._allowance = ALLOWANCE if world.device.type == "cuda" else 0 if has_equal_sizes else UNEQUAL_ALLOWANCE
        self._models: dict[bool, models.Model] = {}
        self._traces = {} if traces is None else traces
        self._by_formula: dict[int, list[Trace]] = {}

    @property
    def can_checkpoint(self) -> bool:
        """Whether a network of the preset can recompute its activations."""
        return any(isinstance(part.config, RecomputingConfig) for part in self.preset.networks.values())

    @property
    def is_checkpointed(self) -> bool:
        """Whether a network of the preset recomputes its activations."""
        configs = [part.config for part in self.preset.networks.values()]
        return any(config.checkpoint_activations for config in configs if isinstance(config, RecomputingConfig))

    @property
    def zero_stages(self) -> tuple[int, ...]:
        """The ZeRO stages that can train the stage."""
        whole = why_weights_stay_whole(self._model(self.is_checkpointed).method, self._stage) is not None
        return (0, 1, 2) if whole or self.preset.training.config.optimizer == "muon" else (0, 1, 2, 3)

    def sizes(self) -> tuple[dict[str, int], dict[str, float]]:
        """Parameters by part, and FLOPs of a forward pass of one set by part.

        Raises:
            UntraceableError: the loss reads the numbers of a tensor.
        """
        return parts.count_parameters(self._model(self.is_checkpointed).method), dict(self._forward_flops)

    def plan(
        self, micro: int, *, stage: int | None = None, checkpointed: bool | None = None, is_scaled: bool = False
    ) -> Plan:
        """The plan with micro-batches of `micro` sets; a ZeRO stage or checkpointing that is not given is the preset's.

        With `is_scaled` a pass that is traced already, with the nearest number of sets, is scaled: within 2 % for the papers'
        networks where that has more sets (7 % for shallow ones), and up to a fifth too much of a CPU's memory where it has far
        fewer, whose large tensors are computed in blocks.
        If that pass does not recompute and this one does, it follows by formula (`Trace.recomputed`): within 2 %, and for networks
        that read a large context in their trunk within 10 %.

        Raises:
            UsageError: the ZeRO stage cannot train the method.
        """
        preset, settings = self.preset, self.preset.training.config
        stage = int(settings.zero_stage) if stage is None else stage
        checkpointed = self.is_checkpointed if checkpointed is None else checkpointed
        method = self._model(self.is_checkpointed).method  # recomputation has the same weights
        check_zero_stage(method, self._stage, stage)
        counts, weights, saved, trained, matrices = self._weights
        num_micro = max(1, settings.batch // self.world.size // micro)
        layout = zero_memory.Layout(weights, trained, settings, self.world, stage, num_micro, matrices)
        checkpoint = zero_memory.FLOAT * (saved + sum(counts.values()) * len(settings.ema) + 2 * trained)
        num_checkpoints = (
            settings.keep + (preset.eval is not None) + 1
        )  # the latest, the best, and one that is being written
        plan = Plan(
            counts,
            flops={},
            memory={},
            checkpoint=checkpoint,
            disk=checkpoint * num_checkpoints,
            executed={},
            most={},
            update_bytes=layout.update_bytes,
            update_flops=layout.update_flops,
        )
        try:
            traces = self._scaled(checkpointed, micro) if is_scaled else self._trace(checkpointed, micro)
            total = _by_part(method, _sum(*(trace.executed for trace in traces)))
            executed = {part: settings.batch / micro * count for part, count in total.items()}
            flops = self._needed(executed)
        except UntraceableError as error:
            return replace(plan, problem=str(error))
        read_ahead = self._read_ahead(micro)
        memory, most = max(
            (_memory(trace, layout, read_ahead, self._allowance) for trace in traces),
            key=lambda rows: sum(rows[0].values()),
        )
        return replace(plan, flops=flops, memory=memory, most=most, executed=executed)

    @cached_property
    def _weights(self) -> tuple[dict[str, int], int, int, int, tuple[tuple[int, int], ...]]:
        """Parameters by part; numbers of all, of saved and of trained weights; and the matrices that Muon updates."""
        method = self._model(self.is_checkpointed).method
        weights = sum(p.numel() for p in method.parameters())
        by_optimizer = weights_by_optimizer(method, self._stage)
        trained = sum(p.numel() for own in by_optimizer.values() for p in own.values())
        is_muon = self.preset.training.config.optimizer == "muon"
        matrices = _hidden_matrices(method, by_optimizer) if is_muon else ()
        return parts.count_parameters(method), weights, weights - parts.count_pretrained(method), trained, matrices

    def training_flops(self) -> float:
        """FLOPs of all steps of the stage over all processes, without recomputation; memory is not traced if it can be avoided.

        Raises:
            UntraceableError: the loss reads the numbers of a tensor.
        """
        settings, method = self.preset.training.config, self._model(self.is_checkpointed).method
        executed: dict[str, float] = {}
        if method.PRETRAINED:
            total = _by_part(method, _sum(*(trace.executed for trace in self._trace(self.is_checkpointed, 1))))
            executed = {part: settings.batch * count for part, count in total.items()}
        return settings.steps * sum(self._needed(executed).values())

    def _needed(self, executed: dict[str, float]) -> dict[str, float]:
        """FLOPs of a step by part without recomputation; `executed` has those of frozen networks."""
        method, batch = self._model(self.is_checkpointed).method, self.preset.training.config.batch
        flops = {
            part: (1 if part in method.TRAINING_ONLY else BACKWARD) * batch * count
            for part, count in self._forward_flops.items()
        }
        # Frozen networks are not recomputed, and their backward pass is of the input alone.
        return flops | {part: executed[part] for part in method.PRETRAINED if part in executed}

    def _read_ahead(self, micro: int) -> int:
        """Bytes of the values of prefetched batches on the device."""
        batch = memory_trace.example_of_stage(self._model(self.is_checkpointed), self._stage, self._mode)
        num_bytes = batch.context.values.nbytes + (0 if batch.is_shared else batch.queries.values.nbytes)
        return (self.preset.data.config.prefetch + 1) * micro * num_bytes

    @cached_property
    def precomputed_bytes(self) -> int:
        """Bytes of the precomputed values of one set; 0 if the stage reads shards, or if the size is unknown."""
        if self._stage.reads == SHARDS:
            return 0
        try:
            return memory_trace.example_of_stage(
                self._model(self.is_checkpointed), self._stage, self._mode
            ).context.values.nbytes
        except UntraceableError:
            return 0

    @cached_property
    def _forward_flops(self) -> dict[str, float]:
        """FLOPs of a forward pass of one set, by part: of a traced training pass if there is one."""
        again = self.is_checkpointed
        traces = next((found for key, found in self._traces.items() if key[0] == again), None)
        traces = self._trace(again, 1, has_backward=False) if traces is None else traces
        return _by_part(self._model(again).method, _sum(*(trace.forward_of_one() for trace in traces)))

    @property
    def _passes(self) -> list[Pass]:
        """The step of each optimizer of the stage."""
        steps = max(1, self.preset.training.config.steps)  # a stage whose weights are those of another run has none
        return [Pass(self._stage, name, steps) for name in self._stage.optimizers]

    @cached_property
    def _mode(self) -> FakeTensorMode:
        return FakeTensorMode(allow_non_fake_inputs=True)

    def _model(self, checkpointed: bool) -> models.Model:
        if checkpointed not in self._models:
            preset = self.preset
            if checkpointed != self.is_checkpointed:
                preset = preset.with_network_settings(checkpoint_activations=checkpointed)
            with _without_weights(self._mode):
                model = self._models[checkpointed] = models.build(preset)
                model.method.begin_stage(self._stage.name)
        return self._models[checkpointed]

    def _trace(self, checkpointed: bool, count: int, *, has_backward: bool = True) -> list[Trace]:
        """The training pass of each optimizer, or its forward pass alone."""
        if count > MAX_TRACED:
            traces = self._trace(checkpointed, MAX_TRACED, has_backward=has_backward)
            return [trace.scaled(count) for trace in traces]
        key = (checkpointed, count, has_backward)
        if key not in self._traces:
            model, settings = self._model(checkpointed), dict[str, Any](has_backward=has_backward)
            if has_backward:
                settings |= {"precision": self.precision, "device": self.world.device}
            self._traces[key] = [memory_trace.run(model, self._mode, count, step, **settings) for step in self._passes]
        return self._traces[key]

    def _scaled(self, checkpointed: bool, count: int) -> list[Trace]:
        """The training pass of `count` sets from a traced one, that of the nearest larger number, else of the largest."""
        sources = {
            number: found for (again, number, whole), found in self._traces.items() if whole and again == checkpointed
        }
        if not sources and checkpointed and not self.is_checkpointed:
            sources = self._recomputed()
        if not sources:
            return self._trace(checkpointed, count)
        nearest = min((number for number in sources if number >= count), default=max(sources))
        return [trace.scaled(count) for trace in sources[nearest]]

    @property
    def has_formula(self) -> bool:
        """Whether memory with recomputation follows from a pass that is traced without."""
        return bool(self._recomputed())

    def _recomputed(self) -> dict[int, list[Trace]]:
        """Passes with recomputation by number of sets, by formula from those without; empty if a network has no blocks for it."""
        for (again, number, whole), traces in self._traces.items():
            has_blocks = all(trace.blocks for trace in traces)
            if whole and not again and has_blocks and number not in self._by_formula:
                self._by_formula[number] = [trace.recomputed() for trace in traces]
        return self._by_formula


def planner_of(
    preset: Preset, world: World, precision: str, stage: Stage | None = None, *, has_equal_sizes: bool = True
) -> Planner:
    """A planner that shares its traces: in one process a model is traced once, however often runs of it are planned."""
    model = {table: preset.table().get(table) for table in ("domain", "method", "network", "condition")}
    pass_ = (None if stage is None else stage.name, preset.training.config.steps, precision, world.device.type)
    traces = _traces_of(f"{model} {pass_}")
    return Planner(preset, world, precision, stage, traces=traces, has_equal_sizes=has_equal_sizes)


def predict(
    preset: Preset,
    world: World,
    *,
    precision: str,
    micro: int,
    stage: Stage | None = None,
    has_equal_sizes: bool = True,
) -> Plan:
    """The plan of a stage of a preset over the processes of `world`, with micro-batches of `micro` sets; see `Planner`."""
    return planner_of(preset, world, precision, stage, has_equal_sizes=has_equal_sizes).plan(micro)


@lru_cache(maxsize=16)
def _traces_of(model: str) -> dict[TraceKey, list[Trace]]:
    """The traces of a model so far, by its settings as text."""
    return {}


def optimizer_names(settings: Config, stage: Stage) -> list[str]:
    """The names of a stage's optimizers, each once; `settings` are those of all stages."""
    kinds = [settings.for_stage(stage.name, name).optimizer for name in stage.optimizers]
    return [OPTIMIZERS[kind] for kind in dict.fromkeys(kinds)]


def row_title(row: str, optimizers: Sequence[str]) -> str:
    """The title of a row of `Plan.memory`; `optimizers` are those of the stage (`optimizer_names`)."""
    if row == "moments":
        return TABLE_ROWS[row] + " and ".join(optimizers)
    part = row.removeprefix(ACTIVATIONS)
    return TABLE_ROWS[row] if part == row else TABLE_ROWS[ACTIVATIONS] + part


def _hidden_matrices(
    method: nn.Module, by_optimizer: dict[str, dict[str, nn.Parameter]]
) -> tuple[tuple[int, int], ...]:
    """Rows and columns of the matrices that Muon would update."""
    weights = [own[name] for own in by_optimizer.values() for name in hidden_matrices(method, own)]
    return tuple((weight.shape[0], weight.shape[1]) for weight in weights)


def _by_part(method: nn.Module, counts: dict[str, float]) -> dict[str, float]:
    """FLOPs of the method's parts in their order, then of the loss around them; parts without any are left out."""
    counts = {**counts, LOSS: counts.get(LOSS, 0.0) + counts.get(BATCH, 0.0)}
    names = [*parts.count_parameters(method), *(name for name in counts if name != LOSS), LOSS]
    return {name: counts[name] for name in dict.fromkeys(names) if name != BATCH and counts.get(name)}


def _memory(
    trace: Trace, layout: zero_memory.Layout, read_ahead: int, allowance: float
) -> tuple[dict[str, int], dict[str, int]]:
    """Bytes by row at the peak, which is in the backward pass or in the update after it; and each row's maximum."""
    now, most = (_rows(by_part, allowance) for by_part in trace.peak(gradients_stay=layout.gradients_grow))
    always = {"program": PROGRAM[layout.world.device.type], **layout.always, "batch": read_ahead}
    moments = [_sum(always, layout.backward, now), _sum(always, layout.update)]
    highest = _sum(always, layout.backward, most)
    for name, count in moments[1].items():
        highest[name] = max(highest.get(name, 0), count)
    peak = max(moments, key=lambda rows: sum(rows.values()))
    names = [name for name in _ordered(highest) if highest[name]]
    return {name: peak.get(name, 0) for name in names}, {name: highest[name] for name in names}


def _ordered(rows: dict[str, int]) -> list[str]:
    """The rows in the order of `TABLE_ROWS`, those of parts as the forward pass comes to them."""
    order = list(TABLE_ROWS)
    return sorted(rows, key=lambda row: order.index(ACTIVATIONS if row.startswith(ACTIVATIONS) else row))


def _rows(by_part: dict[str, int], allowance: float) -> dict[str, int]:
    """The traced parts as rows of the plan."""
    rows: dict[str, int] = {}
    names = {BATCH: "batch", BESIDE: "backward", GRADIENTS: "gradients"}
    for part, count in by_part.items():
        name = names.get(part, f"{ACTIVATIONS}{part}")
        rows[name] = rows.get(name, 0) + count
    if allowance:
        transient = sum(count for name, count in rows.items() if name != "gradients")
        rows["allowance"] = int(allowance * transient)
    return rows


def _sum(*tables: dict[str, N]) -> dict[str, N]:
    total: dict[str, N] = {}
    for rows in tables:
        for name, count in rows.items():
            total[name] = total[name] + count if name in total else count
    return total


@contextmanager
def _without_weights(mode: FakeTensorMode) -> Iterator[None]:
    """Inside the block, weights are replaced by fake ones when they are registered; buffers keep their numbers."""
    register = nn.Module.register_parameter

    def register_shape(module: nn.Module, name: str, weight: nn.Parameter | None) -> None:
        if weight is not None:
            with mode:
                weight = nn.Parameter(torch.empty(weight.shape, dtype=weight.dtype), weight.requires_grad)
        register(module, name, weight)

    nn.Module.register_parameter = register_shape  # pyright: ignore[reportAttributeAccessIssue]
    try:
        with warnings.catch_warnings():  # of a network that is copied as a teacher
            warnings.filterwarnings("ignore", message="Accessing the data pointer of FakeTensor")
            yield
    finally:
        nn.Module.register_parameter = register
