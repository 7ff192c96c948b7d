"""A training pass without numbers: which tensors it makes, how long they live, and which products it computes.

Forward and backward are run on torch's fake tensors, which have shapes and no memory, under a watch that every
operation passes. So autograd itself says what is kept, and functions of our own that compute again say it too. A step
of 866M parameters takes a second or two.
"""

from __future__ import annotations

import math
import sys
import weakref
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from inrflow_core import models
from inrflow_core.layers import activations, recompute
from inrflow_core.networks import _set_encoders
from inrflow_core.sets import CoordValueSet, Queries

BATCH, LOSS, BACKWARD, GRADIENTS = "batch", "loss", "backward", "gradients"
"""What tensors are for, beside the parts of a network."""
FINE_BYTES, COARSEST = 32 << 20, 16
"""Up to so many bytes of tokens a CPU's pieces are followed as they are, and at most so many are followed as one."""
aten = torch.ops.aten


@dataclass(frozen=True)
class Event:
    """A tensor's memory comes (bytes above 0) or goes."""

    storage: int
    bytes: int
    part: str


@dataclass
class Trace:
    """What a pass of some sets did."""

    events: list[Event] = field(default_factory=list)
    gradients: set[int] = field(default_factory=set)
    """The storages that end as gradients of weights."""
    executed: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    """Operations of matrix products and attention, by part, as they are computed: repeated ones count again."""

    def peak(self, *, gradients_stay: bool) -> tuple[dict[str, int], dict[str, int]]:
        """Bytes by part at the moment when most are held, and the most of each part; gradients are a part, `GRADIENTS`.

        Where these do not stay, each is added to what holds it as soon as it is there.
        """
        most: dict[str, int] = {}
        best = self._walk(gradients_stay, math.inf, most)[1]
        return self._walk(gradients_stay, best, {})[0], most

    def _walk(self, gradients_stay: bool, last: float, each: dict[str, int]) -> tuple[dict[str, int], int]:
        """What is held after event `last`, and the event after which most was held up to there; the most into `each`."""
        held: dict[str, int] = defaultdict(int)
        now = most = best = passing = 0
        for number, event in enumerate(self.events):
            is_gradient = event.storage in self.gradients
            if passing and event.bytes > 0:
                held[GRADIENTS] -= passing
                now, passing = now - passing, 0
            if is_gradient and event.bytes > 0 and not gradients_stay:
                passing = event.bytes
            elif is_gradient and event.bytes < 0 and not gradients_stay:
                continue
            part = GRADIENTS if is_gradient else event.part
            held[part] += event.bytes
            each[part] = max(each.get(part, 0), held[part])
            now += event.bytes
            if now > most:
                most, best = now, number
            if number == last:
                break
        return {part: count for part, count in held.items() if count}, best


class Watch(TorchDispatchMode):
    """Follows every storage that an operation makes until nobody holds it, and counts products."""

    def __init__(self, own: Iterator[Tensor]) -> None:
        super().__init__()
        self.trace, self.part, self.of_backward = Trace(), BATCH, ""
        self._alive: dict[int, tuple[int, Any]] = {}
        self._own = {tensor.untyped_storage()._cdata for tensor in own}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """The operation's result, taken note of."""
        result = func(*args, **(kwargs or {}))
        operations = _products(func, args)
        if operations:
            self.trace.executed[self.of_backward or self.part] += operations
        for tensor in tree_iter(result):
            if isinstance(tensor, Tensor):
                self._note(tensor.untyped_storage())
        return result

    def number(self, tensor: Tensor) -> int | None:
        """What a storage is called in the events."""
        found = self._alive.get(tensor.untyped_storage()._cdata)
        return None if found is None else found[0]

    def _note(self, storage: Any) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._own or key in self._alive or not size:
            return
        number, part = len(self.trace.events), self.part
        self.trace.events.append(Event(number, size, part))

        def gone(_: Any) -> None:
            del self._alive[key]
            self.trace.events.append(Event(number, -size, part))

        self._alive[key] = number, weakref.ref(storage, gone)


def run(model: models.Model, mode: FakeTensorMode, count: int, *, precision: str, on_gpu: bool) -> Trace:
    """A training pass of `count` sets through a model whose weights are fake.

    No GPU is needed: it is simulated by the CPU's operations, in the pieces in which a GPU computes.
    """
    method = model.method
    fake_buffers(method, mode)
    method.zero_grad(set_to_none=True)
    own = [*method.parameters(), *method.buffers()]
    watch = Watch(iter(own))
    autocast = torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16", cache_enabled=False)
    one = model.domain.dummy_batch(1)
    condition = dict(one.condition)
    if method.conditioner is not None:
        condition |= dict(method.conditioner.blank(one))
    width = getattr(model.preset.network.config, "width", 0)
    with _pieces(on_gpu, 4 * count * len(one.queries) * width), mode, watch:
        with autocast:
            loss = _forward(method, _many_of(replace(one, condition=condition), count), watch)
        watch.part = BACKWARD
        loss.backward()
    for weight in method.parameters():
        if weight.grad is not None:
            watch.trace.gradients.add(watch.number(weight.grad) or 0)
    method.zero_grad(set_to_none=True)
    return watch.trace


def fake_buffers(module: nn.Module, mode: FakeTensorMode) -> None:
    """A module's tables lose their numbers, which only building it needs."""
    for part in module.modules():
        for name, buffer in part._buffers.items():
            if buffer is not None:
                part._buffers[name] = mode.from_tensor(buffer)


def _forward(method: Any, sets: CoordValueSet, watch: Watch) -> Tensor:
    """The mean loss of sets, part by part."""
    network = method.network
    sets, y, velocity = _noised(sets)
    asking, asked, target, mask = _asked(method, sets, y, velocity)
    t = torch.zeros(len(sets))
    told = method.embed_condition(dict(sets.condition))
    watch.part = "encoder"
    encoded = network.encode(sets.queries, y, sets.mask, told)
    _mark(watch, encoded.latents, "encoder")
    watch.part = "trunk"
    latents = network.latents(encoded, t, told)
    _mark(watch, latents.levels[-1], "trunk")
    watch.part = "decoder"
    answer = network.decode(asking, asked, network.memory(latents))
    _mark(watch, answer, "decoder")
    del encoded, latents
    watch.part = LOSS
    return method._error(answer.float(), target.float(), asked, t, mask).float().mean()


def _mark(watch: Watch, behind: Tensor, part: str) -> None:
    """From here on the backward pass is in that part."""

    def begin(gradient: Tensor) -> None:
        watch.of_backward = part

    if behind.requires_grad:
        behind.register_hook(begin)


def _many_of(one: CoordValueSet, count: int) -> CoordValueSet:
    """So many sets of the shape of one."""
    queries = one.queries
    coordinates = queries.coordinates
    if coordinates is not None and coordinates.ndim == 3:
        coordinates = _many(coordinates, count)
    groups = None if queries.group_ids is None else _many(queries.group_ids, count)
    is_padded = queries.group_ids is not None
    return CoordValueSet(
        Queries(coordinates, queries.noise_keys, groups),
        _many(one.values, count),
        _many(one.seeds, count),
        {name: _many(value, count) for name, value in one.condition.items()},
        torch.ones(count, len(queries), dtype=torch.bool) if is_padded else None,
    )


def _many(tensor: Tensor, count: int) -> Tensor:
    return tensor.new_empty((count, *tensor.shape[1:]))


def _noised(sets: CoordValueSet) -> tuple[CoordValueSet, Tensor, Tensor]:
    """The sets, a point between them and noise, and the velocity there."""
    if sets.mask is not None:
        sets = replace(sets, values=sets.values.masked_fill(~sets.mask[..., None], 0))
    noise = torch.empty_like(sets.values)
    return sets, sets.values + noise, noise - sets.values


def _asked(
    method: Any, sets: CoordValueSet, y: Tensor, velocity: Tensor
) -> tuple[Queries, Tensor, Tensor, Tensor | None]:
    """The pairs that are decoded, their noisy values and velocities, and which are real."""
    queries, count = sets.queries, method.config.num_queries or len(sets.queries)
    if count >= len(queries):
        return queries, y, velocity, sets.mask
    coordinates, groups, mask = queries.coordinates, queries.group_ids, sets.mask
    if coordinates is not None:
        coordinates = coordinates.new_empty(len(sets), count, coordinates.shape[-1])
    groups, mask = (None if kept is None else kept[:, :count].clone() for kept in (groups, mask))
    asking = Queries(coordinates, queries.noise_keys[:count], groups)
    return asking, y[:, :count].clone(), velocity[:, :count].clone(), mask


@contextmanager
def _pieces(on_gpu: bool, tokens: int) -> Iterator[None]:
    """How large the pieces are that functions work in, inside the block.

    A CPU works in pieces that fit into its cache, a GPU does not. Of large tensors (`tokens` is the bytes of all tokens of
    a pass) there would be thousands: larger ones are quicker to follow, and small beside what is kept.
    """
    coarser = min(COARSEST, max(1, tokens // FINE_BYTES))
    before = recompute.SPLIT_BYTES, recompute.PART_BYTES, activations.RUN_BYTES, _set_encoders.CHUNK_BYTES
    if on_gpu:
        recompute.SPLIT_BYTES, _set_encoders.CHUNK_BYTES = sys.maxsize, {}
    else:
        recompute.PART_BYTES *= coarser
        _set_encoders.CHUNK_BYTES = {device: coarser * count for device, count in _set_encoders.CHUNK_BYTES.items()}
    if on_gpu or coarser > 1:
        activations.RUN_BYTES = sys.maxsize
    try:
        yield
    finally:
        recompute.SPLIT_BYTES, recompute.PART_BYTES, activations.RUN_BYTES, _set_encoders.CHUNK_BYTES = before


def _products(func: Any, args: Any) -> float:
    """Operations of a matrix product or of attention, two a multiply-add; 0 of anything else."""
    packet = func._overloadpacket
    if packet is aten.mm:
        return 2 * args[0].numel() * args[1].shape[1]
    if packet is aten.bmm:
        return 2 * args[0].numel() * args[1].shape[2]
    if packet is aten.addmm:
        return 2 * args[1].numel() * args[2].shape[1]
    if packet is aten.baddbmm:
        return 2 * args[1].numel() * args[2].shape[2]
    if packet is aten._scaled_dot_product_flash_attention_for_cpu:
        return _attention(*args[:3], products=2)
    if packet is aten._scaled_dot_product_flash_attention_for_cpu_backward:
        return _attention(*args[1:4], products=5)
    return 0


def _attention(q: Tensor, k: Tensor, v: Tensor, *, products: int) -> float:
    """Attention forward takes two products of scores' size; its backward four, and makes the scores again."""
    return 2 * products * math.prod(q.shape[:-1]) * k.shape[-2] * q.shape[-1]
