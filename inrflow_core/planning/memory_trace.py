"""Trace a training pass without memory: which tensors it makes, how long they live, and how many FLOPs it executes.

The method's own loss and its backward pass run on torch's fake tensors, which have shapes but no memory, under a dispatch
mode that sees every operation. What autograd saves and what is recomputed is therefore exact. A pass of 866M parameters
takes some seconds.
"""

from __future__ import annotations

import gc
import math
import weakref
from bisect import bisect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
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
from inrflow_core.planning.trace import BACKWARD, BATCH, LOSS, Block, Event, Trace
from inrflow_core.runtime import cache_blocks
from inrflow_core.sets import CoordValueSet, TrainBatch

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
        self._recomputable = parts.recomputable_blocks(method)
        self._block: Block | None = None
        self._first_nodes: list[int] = []

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Torch's own wrapper of the function below keeps a compiler out, which a plan never has: it costs a tenth of the time."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation, and record its result."""
        if func is DEVICE and isinstance(args[0], fake_tensor.FakeTensor):  # half of all calls
            return args[0].fake_device
        result = func(*args, **(kwargs or {}))
        operations = flops.of_operation(func, args, kwargs or {}, result)
        if operations:
            self._count(operations, args, kwargs or {})
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

        def begin(module: nn.Module, inputs: Any) -> None:
            self._begin(self._parts.get(module))
            if module in self._recomputable:
                self._begin_block(inputs)

        def end(module: nn.Module, _: Any, outputs: Any) -> None:
            self._begin(LOSS if module in self._networks else None)
            if module in self._recomputable:
                self._end_block(outputs)

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

    def _begin_block(self, inputs: Any) -> None:
        node = torch._C._autograd._get_sequence_nr()
        self._block = Block(len(self.trace.events), node, self._numbers(inputs))
        self._first_nodes.append(node)
        self.trace.blocks.append(self._block)

    def _end_block(self, outputs: Any) -> None:
        block, self._block = self._block, None
        assert block is not None
        block.end, block.last_node = len(self.trace.events), torch._C._autograd._get_sequence_nr()
        block.outputs = self._numbers(outputs)

    def _numbers(self, tensors: Any) -> set[int]:
        """The storages of tensors, without those of weights."""
        numbers = {self.number(each) for each in tree_iter(tensors) if isinstance(each, Tensor)}
        return {number for number in numbers if number is not None}

    def _mark_backward(self) -> None:
        """The first event of the backward pass of a block, if this one is."""
        node = torch._C._current_autograd_node()
        index = -1 if node is None else bisect(self._first_nodes, node._sequence_nr()) - 1
        if index < 0 or node is None:
            return
        block = self.trace.blocks[index]
        if block.backward < 0 and node._sequence_nr() < block.last_node:
            block.backward = len(self.trace.events)

    def _count(self, operations: float, args: Any, kwargs: Mapping[str, Any]) -> None:
        part = self._recorded_part()
        self.trace.executed[part] += operations
        if self.part == BACKWARD:
            return
        if self._block is not None:
            self.trace.blocks_flops[part] += operations
        if self._is_of_weights(args, kwargs):
            self.trace.forward_of_weights[part] += operations

    def _recorded_part(self) -> str:
        if self.part != BACKWARD:
            return self.part
        node = torch._C._current_autograd_node()
        return self._started[bisect(self._starts, node._sequence_nr()) - 1] if node is not None else LOSS

    def _is_of_weights(self, args: Any, kwargs: Any) -> bool:
        """Whether an operation has tensors among its arguments, and all are weights or computed from weights alone.

        A weight that is repeated for every set is not.
        """
        is_found = False
        for each in tree_iter((args, kwargs)):
            if not isinstance(each, Tensor):
                continue
            storage, is_found = each.untyped_storage(), True
            if storage._cdata not in self._own:
                number, _ = self._alive.get(storage._cdata, (None, None))
                if number not in self.trace.constant:
                    return False
            if each.nbytes > storage.nbytes():
                return False
        return is_found

    def _record_storage(self, storage: Any) -> int | None:
        """Record a storage, and return its number if it is new."""
        key = storage._cdata
        if key in self._own or key in self._alive:
            return None
        size = storage.nbytes()
        if not size:
            return None
        if self.part == BACKWARD and self._first_nodes:
            self._mark_backward()
        share = cache_blocks.share()
        event = Event(len(self.trace.events), size if share == 1 else math.ceil(share * size), self.part)
        if share < 1:
            self.trace.of_blocks[event.storage] = size
        self.trace.events.append(event)
        self._alive[key] = event.storage, weakref.ref(storage, partial(self._forget, key, event))
        return event.storage

    def _forget(self, key: int, event: Event, _: Any) -> None:
        """A storage is freed."""
        del self._alive[key]
        self.trace.events.append(event._replace(bytes=-event.bytes))


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
    watch.trace.count = count
    autocast = torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16", cache_enabled=False)
    try:
        one = example_of_stage(model, step.stage, mode)
        blocks = cache_blocks.simulate(device, _smallest_block(method))
        with without_collections(), blocks, step.only_its_weights(method), mode, watch:
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


@contextmanager
def without_collections() -> Iterator[None]:
    """Inside the block, Python does not look for reference cycles, which takes a seventh of the time; a step leaves none."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


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
