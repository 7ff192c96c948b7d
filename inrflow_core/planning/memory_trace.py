"""Trace a training pass without memory: which tensors it makes, how long they live, and how many FLOPs it executes.

The method's own loss and its backward pass run on torch's fake tensors, which have shapes but no memory, under a dispatch
mode that sees every operation. What autograd saves and what is recomputed is therefore exact. A pass of 866M parameters
takes some seconds.
"""

from __future__ import annotations

import math
import weakref
from bisect import bisect
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode, fake_tensor
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from inrflow_core import models
from inrflow_core.methods._contract import PRECOMPUTED_DTYPE, SHARDS, Stage, StepState
from inrflow_core.methods._trained_weights import weights_by_optimizer
from inrflow_core.planning import flops, parts
from inrflow_core.runtime import cache_blocks
from inrflow_core.sets import CoordValueSet, TrainBatch

BATCH, LOSS, BACKWARD, GRADIENTS = "batch", "loss", "backward", "gradients"
"""Parts that tensors belong to, beside those of a method."""
SMALLEST_BLOCK = 64
"""Blocks smaller than this fraction of the weights are not traced one by one."""
DEVICE = torch.ops.prim.device.default
UNTRACEABLE = (
    fake_tensor.DataDependentOutputException,
    fake_tensor.DynamicOutputShapeException,
    fake_tensor.UnsupportedFakeTensorException,
    fake_tensor.UnsupportedOperatorException,
    fake_tensor.UnsupportedMutationAliasingException,
)
"""What torch raises where an operation needs the numbers of a fake tensor, or has no form without them."""
UNTRACEABLE_TEXTS = (".numpy() is not supported for tensor subclasses", "FakeTensor.__format__")
"""Messages of errors for the same reason that have no class of their own."""


class UntraceableError(Exception):
    """A loss reads the numbers of a tensor; the message says which operation failed."""


@dataclass(frozen=True)
class Event:
    """A tensor's memory is allocated (bytes above 0) or freed."""

    storage: int
    bytes: int
    part: str


@dataclass
class Trace:
    """Allocations and FLOPs of a pass."""

    events: list[Event] = field(default_factory=list)
    gradients: set[int] = field(default_factory=set)
    """Storages of the gradients of weights."""
    constant: set[int] = field(default_factory=set)
    """Storages that are computed from weights alone: their size does not depend on the number of sets."""
    executed: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    """FLOPs by part, recomputation included."""
    forward: dict[str, float] = field(default_factory=dict)
    """FLOPs of the forward pass alone."""

    def scaled(self, factor: float) -> Trace:
        """The pass of `factor` times as many sets; gradients and what is computed from weights alone keep their size."""
        fixed = self.gradients | self.constant
        events = [
            event if event.storage in fixed else replace(event, bytes=round(factor * event.bytes))
            for event in self.events
        ]
        executed, forward = (
            {part: factor * count for part, count in counts.items()} for counts in (self.executed, self.forward)
        )
        return Trace(events, self.gradients, self.constant, executed, forward)

    def peak(self, *, gradients_stay: bool) -> tuple[dict[str, int], dict[str, int]]:
        """Bytes by part at the peak, and the maximum of each part; gradients are the part `GRADIENTS`.

        If gradients do not stay, each is freed as soon as it is added to the buffer of all.
        """
        most: dict[str, int] = {}
        best = self._walk(gradients_stay, math.inf, most)[1]
        return self._walk(gradients_stay, best, {})[0], most

    def _walk(self, gradients_stay: bool, last: float, each: dict[str, int]) -> tuple[dict[str, int], int]:
        """Bytes by part after event `last`, and the event of the peak so far; maxima by part are written to `each`."""
        current: dict[str, int] = defaultdict(int)
        now = most = best = passing = 0
        for number, event in enumerate(self.events):
            is_gradient = event.storage in self.gradients
            if passing and event.bytes > 0:
                current[GRADIENTS] -= passing
                now, passing = now - passing, 0
            if is_gradient and event.bytes > 0 and not gradients_stay:
                passing = event.bytes
            elif is_gradient and event.bytes < 0 and not gradients_stay:
                continue
            part = GRADIENTS if is_gradient else event.part
            current[part] += event.bytes
            each[part] = max(each.get(part, 0), current[part])
            now += event.bytes
            if now > most:
                most, best = now, number
            if number == last:
                break
        return {part: count for part, count in current.items() if count}, best


class Watch(TorchDispatchMode):
    """Records the lifetime of every storage that an operation makes, and counts FLOPs.

    A part begins when one of its modules is called and lasts until a module of another part is. An operation of the
    backward pass belongs to the part in which autograd recorded its node.
    """

    def __init__(self, method: nn.Module) -> None:
        super().__init__()
        self.trace, self.part = Trace(), BATCH
        self._parts = parts.part_by_module(method)
        self._networks = set(parts.networks(method))
        self._starts, self._started = [-1], [BATCH]
        self._alive: dict[int, tuple[int, Any]] = {}
        self._own = {tensor.untyped_storage()._cdata for tensor in (*method.parameters(), *method.buffers())}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation, and record its result."""
        if func is DEVICE and isinstance(args[0], fake_tensor.FakeTensor):  # half of all calls
            return args[0].fake_device
        result = func(*args, **(kwargs or {}))
        operations = flops.of_operation(func, args, kwargs or {}, result)
        if operations:
            self.trace.executed[self._recorded_part()] += operations
        created = [
            self._record_storage(tensor.untyped_storage())
            for tensor in ((result,) if isinstance(result, Tensor) else tree_iter(result))
            if isinstance(tensor, Tensor)
        ]
        if any(number is not None for number in created) and self._is_of_weights(args, kwargs or {}):
            self.trace.constant.update(number for number in created if number is not None)
        return result

    @contextmanager
    def forward(self) -> Iterator[None]:
        """Inside the block, modules begin their parts; after a network comes the loss."""

        def begin(module: nn.Module, _: Any) -> None:
            self._begin(self._parts.get(module))

        def end(module: nn.Module, _: Any, __: Any) -> None:
            self._begin(LOSS if module in self._networks else None)

        handles = register_module_forward_pre_hook(begin), register_module_forward_hook(end)
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def number(self, tensor: Tensor) -> int | None:
        """The number of a tensor's storage in the events."""
        entry = self._alive.get(tensor.untyped_storage()._cdata)
        return None if entry is None else entry[0]

    def _begin(self, part: str | None) -> None:
        if part is None or part == self.part:
            return
        self.part = part
        self._starts.append(torch._C._autograd._get_sequence_nr())
        self._started.append(part)

    def _recorded_part(self) -> str:
        if self.part != BACKWARD:
            return self.part
        node = torch._C._current_autograd_node()
        return self._started[bisect(self._starts, node._sequence_nr()) - 1] if node is not None else LOSS

    def _is_of_weights(self, args: Any, kwargs: Any) -> bool:
        """Whether an operation has tensors among its arguments, and all are weights or computed from weights alone."""
        keys = [each.untyped_storage()._cdata for each in tree_iter((args, kwargs)) if isinstance(each, Tensor)]
        numbers = [self._alive[key][0] if key in self._alive else None for key in keys if key not in self._own]
        return bool(keys) and all(number in self.trace.constant for number in numbers)

    def _record_storage(self, storage: Any) -> int | None:
        """Record a storage, and return its number if it is new."""
        key = storage._cdata
        if key in self._own or key in self._alive:
            return None
        size = storage.nbytes()
        if not size:
            return None
        event = Event(len(self.trace.events), size, self.part)
        self.trace.events.append(event)
        self._alive[key] = event.storage, weakref.ref(storage, partial(self._forget, key, event))
        return event.storage

    def _forget(self, key: int, event: Event, _: Any) -> None:
        """A storage is freed."""
        del self._alive[key]
        self.trace.events.append(replace(event, bytes=-event.bytes))


@dataclass(frozen=True)
class Pass:
    """The first step of one optimizer of a stage."""

    stage: Stage
    optimizer: str
    num_steps: int

    def loss(self, method: Any, batch: TrainBatch) -> Tensor:
        """The loss that the optimizer minimizes, one number per set or one for all."""
        return method.loss(batch, StepState(self.stage.name, self.num_steps - 1, self.num_steps), self.optimizer)

    @contextmanager
    def only_its_weights(self, method: Any) -> Iterator[None]:
        """Inside the context, weights that the optimizer does not update get no gradient."""
        own = {id(weight) for weight in weights_by_optimizer(method, self.stage)[self.optimizer].values()}
        frozen = [weight for weight in method.parameters() if weight.requires_grad and id(weight) not in own]
        for weight in frozen:
            weight.requires_grad_(False)
        try:
            yield
        finally:
            for weight in frozen:
                weight.requires_grad_(True)


def run(
    model: models.Model,
    mode: FakeTensorMode,
    count: int,
    step: Pass,
    *,
    precision: str = "fp32",
    device: torch.device = torch.device("cpu"),  # noqa: B008, it cannot change
    has_backward: bool = True,
) -> Trace:
    """Trace a training pass of `count` sets on `device`, or its forward pass alone; the model's weights are fake.

    A GPU is simulated by operations of the CPU, in blocks of the sizes that a GPU uses.

    Raises:
        UntraceableError: the loss reads the numbers of a tensor, or uses an operation that fake tensors do not have. Any
            other error of the loss is raised as it is.
    """
    method = model.method
    fake_buffers(method, mode)
    method.zero_grad(set_to_none=True)
    watch = Watch(method)
    autocast = torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16", cache_enabled=False)
    try:
        one = example_of_stage(model, step.stage, mode)
        with cache_blocks.simulate(device, _smallest_block(method)), step.only_its_weights(method), mode, watch:
            with watch.forward(), autocast:
                batch = one.map(mode.from_tensor).apply(lambda sets: repeat(sets, count))
                loss = step.loss(method, batch).float().mean()
            watch.trace.forward = dict(watch.trace.executed)
            if has_backward:
                watch.part = BACKWARD
                loss.backward()
    except (RuntimeError, TypeError) as error:
        if not _reads_numbers(error):
            raise
        first_line = str(error).strip().partition("\n")[0]
        raise UntraceableError(f"{type(error).__name__}: {first_line}") from error
    for weight in method.parameters():
        if weight.grad is not None:
            watch.trace.gradients.add(watch.number(weight.grad) or 0)
    method.zero_grad(set_to_none=True)
    return watch.trace


def _reads_numbers(error: RuntimeError | TypeError) -> bool:
    """Whether an error says that an operation needs numbers, which fake tensors do not have, or cannot run on them."""
    return isinstance(error, UNTRACEABLE) or any(text in str(error) for text in UNTRACEABLE_TEXTS)


def example_of_stage(model: models.Model, stage: Stage, mode: FakeTensorMode) -> TrainBatch:
    """One example without content, of typical size, that a stage of a model with fake weights learns from.

    Precomputed inputs are computed on fake tensors, for their shape.
    """
    batch = model.domain.train_batch(dummy_set(model))
    if stage.reads == SHARDS:
        return batch
    one = batch.context
    with mode, torch.no_grad():
        shape = model.method.precompute(stage.reads, one.map(mode.from_tensor)).shape
    return TrainBatch.from_sets(one.with_values(torch.zeros(shape, dtype=PRECOMPUTED_DTYPE)))


def dummy_set(model: models.Model) -> CoordValueSet:
    """One training set of typical size for the model's domain and condition, without content."""
    one = model.domain.dummy_batch(1)
    part = model.preset.condition
    if part is None:
        return one
    conditioner = part.module.build(part.config, 1)
    return replace(one, condition=dict(one.condition) | dict(conditioner.dummy_batch(one)))


def _smallest_block(method: nn.Module) -> int:
    """Bytes below which blocks of a tensor are traced as one: small compared with weights, gradients and moments."""
    return sum(weight.nbytes for weight in method.parameters()) // SMALLEST_BLOCK


def fake_buffers(module: nn.Module, mode: FakeTensorMode) -> None:
    """Replace the buffers of a module by fake ones; only its construction needs their numbers."""
    for part in module.modules():
        for name, buffer in part._buffers.items():
            if buffer is not None:
                part._buffers[name] = mode.from_tensor(buffer)


def repeat(one: CoordValueSet, count: int) -> CoordValueSet:
    """`count` sets of the shape of one."""
    sets = one[torch.zeros(count, dtype=torch.int64)]
    sizes = one.queries.valid_sizes
    return sets if sizes is None else replace(sets, queries=replace(sets.queries, valid_sizes=sizes * count))
