"""Allocations and FLOPs of a traced training pass, and what they are for other numbers of sets and with recomputation."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

BATCH, LOSS, BACKWARD, GRADIENTS = "batch", "loss", "backward", "gradients"
"""Parts that tensors belong to, beside those of a method."""


class Event(NamedTuple):
    """A tensor's memory is allocated (bytes above 0) or freed."""

    storage: int
    bytes: int
    part: str


@dataclass
class Block:
    """A call of a module whose activations the network can recompute: where it is among the events."""

    start: int
    """The first event of its forward pass."""
    first_node: int
    """The sequence number of its first autograd node."""
    inputs: set[int]
    """Storages that recomputation reads, and that stay until then."""
    end: int = -1
    """The event after its forward pass."""
    last_node: int = -1
    """The sequence number of the first node after it."""
    outputs: set[int] = field(default_factory=set)
    backward: int = -1
    """The first event of its backward pass; -1 without one."""


@dataclass
class Trace:
    """Allocations and FLOPs of a pass."""

    events: list[Event] = field(default_factory=list)
    gradients: set[int] = field(default_factory=set)
    """Storages of the gradients of weights."""
    constant: set[int] = field(default_factory=set)
    """Storages that are computed from weights alone: their size does not depend on the number of sets."""
    of_blocks: dict[int, int] = field(default_factory=dict)
    """The bytes of whole tensors, by storages that are one block of them, whose size depends on the number of sets only where
    the tensor is smaller than a block."""
    executed: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    """FLOPs by part, recomputation included."""
    forward: dict[str, float] = field(default_factory=dict)
    """FLOPs of the forward pass alone."""
    forward_of_weights: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    """Those of `forward` that do not depend on the number of sets."""
    blocks: list[Block] = field(default_factory=list)
    """Calls of the modules that the network would recompute, in order; empty if it recomputes them, or has none."""
    blocks_flops: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    """FLOPs of the forward pass of `blocks`."""
    count: float = 1
    """Sets."""
    factor: float = 1.0
    """The bytes of what depends on the number of sets, over those of `events`."""
    shared: dict[str, Any] = field(default_factory=dict, repr=False)
    """The events as arrays, which scaled passes share."""

    def scaled(self, count: float) -> Trace:
        """The pass of `count` sets; gradients and what is computed from weights alone keep their size."""
        factor = count / self.count
        executed, forward, blocks_flops = (
            {part: factor * flops for part, flops in flops_by_part.items()}
            for flops_by_part in (self.executed, self.forward, self.blocks_flops)
        )
        return replace(
            self,
            executed=executed,
            forward=forward,
            blocks_flops=blocks_flops,
            count=count,
            factor=factor * self.factor,
        )

    def forward_of_one(self) -> dict[str, float]:
        """FLOPs of the forward pass of one set."""
        fixed = self.forward_of_weights
        return {
            part: fixed.get(part, 0.0) + (flops - fixed.get(part, 0.0)) / self.count
            for part, flops in self.forward.items()
        }

    def recomputed(self) -> Trace:
        """The pass with the activations of `blocks` recomputed: by the same events, at other moments.

        What a block saves for its backward pass is freed after its forward pass. It is allocated again when the backward pass
        begins, where the forward pass is repeated. The inputs of the block stay until then.
        """
        moved = _MovedEvents(self)
        for block in self.blocks:
            if block.backward >= 0:
                moved.recompute(block)
        executed = dict(self.executed)
        for part, flops in self.blocks_flops.items():
            executed[part] = executed.get(part, 0.0) + flops
        again = moved.again
        constant = self.constant | {new for old, new in again.items() if old in self.constant}
        of_blocks = self.of_blocks | {new: self.of_blocks[old] for old, new in again.items() if old in self.of_blocks}
        return replace(
            self, events=moved.events(), constant=constant, of_blocks=of_blocks, executed=executed, blocks=[], shared={}
        )

    def peak(self, *, gradients_stay: bool) -> tuple[dict[str, int], dict[str, int]]:
        """Bytes by part at the peak, and the maximum of each part; gradients are the part `GRADIENTS`.

        If gradients do not stay, each is freed as soon as it is added to the buffer of all.
        """
        if not self.events:
            return {}, {}
        parts, part_of, sizes, is_gradient = self._arrays()
        passed = np.zeros_like(sizes)
        if not gradients_stay:
            sizes = np.where(is_gradient & (sizes < 0), 0, sizes)
            passed = _passed(sizes, is_gradient)
        now = {
            part: (np.where(part_of == number, sizes, 0) - (passed if part == GRADIENTS else 0)).cumsum()
            for number, part in enumerate(parts)
        }
        best = int((sizes - passed).cumsum().argmax())
        most = {part: max(0, int(each.max())) for part, each in now.items()}
        return {part: int(each[best]) for part, each in now.items() if each[best]}, most

    def _arrays(self) -> tuple[list[str], Any, Any, Any]:
        """Parts; and of each event the number of its part, its bytes, and whether it is of a gradient."""
        if not self.shared:
            names: dict[str, int] = {}
            rows, fixed = [], self.gradients | self.constant
            for storage, size, part in self.events:
                is_gradient = storage in self.gradients
                number = names.setdefault(GRADIENTS if is_gradient else part, len(names))
                whole = self.of_blocks.get(storage, 0)
                rows.append((number, size, is_gradient, storage in fixed, whole if size > 0 else -whole))
            self.shared.update(parts=list(names), rows=np.array(rows, np.int64))
        part_of, sizes, is_gradient, is_fixed, whole = self.shared["rows"].T
        scaled = np.rint(self.factor * np.where(whole == 0, sizes, whole)).astype(np.int64)
        scaled = np.where(whole == 0, scaled, np.sign(sizes) * np.minimum(np.abs(scaled), np.abs(sizes)))
        sizes = np.where(is_fixed, sizes, scaled)
        return self.shared["parts"], part_of, sizes, is_gradient.astype(bool)


class _MovedEvents:
    """The events of a pass some of whose blocks are recomputed."""

    def __init__(self, trace: Trace) -> None:
        self._events = trace.events
        self._freed = {event.storage: number for number, event in enumerate(trace.events) if event.bytes < 0}
        self._inserted: dict[int, list[Event]] = defaultdict(list)
        self._stays_until: dict[int, int] = {}
        self._moved: set[int] = set()
        self.again: dict[int, int] = {}
        """New storages by those that they repeat."""

    def recompute(self, block: Block) -> None:
        """Repeat the forward pass of a block when its backward pass begins; only its results stay from the first time."""
        for storage in block.inputs:
            self._stays_until[storage] = max(self._stays_until.get(storage, 0), block.backward)
        at_end: list[Event] = []
        repeated = self._inserted[block.backward]
        for event in self._events[block.start : block.end]:
            if event.storage < block.start or event.storage in block.outputs:
                continue
            if event.bytes < 0:
                repeated.append(Event(self.again[event.storage], event.bytes, BACKWARD))
                continue
            new = self.again[event.storage] = len(self._events) + len(self.again)
            repeated.append(Event(new, event.bytes, BACKWARD))
            freed = self._freed.get(event.storage, len(self._events))
            if freed >= block.backward:
                self._moved.add(event.storage)
                self._inserted[block.end].append(event._replace(bytes=-event.bytes))
            elif freed >= block.end:
                at_end.append(Event(new, -event.bytes, BACKWARD))
        repeated += at_end

    def events(self) -> list[Event]:
        """All events in their new order."""
        events: list[Event] = []
        for number, event in enumerate(self._events):
            events += self._inserted.get(number, ())
            until = self._stays_until.get(event.storage, -1)
            if event.bytes > 0 or event.storage not in self._moved:
                if event.bytes < 0 and until > number:
                    self._inserted[until].append(event)
                else:
                    events.append(event)
            else:
                events.append(Event(self.again[event.storage], event.bytes, BACKWARD))
        return events


def _passed(sizes: Any, is_gradient: Any) -> Any:
    """Bytes of gradients that are freed at each event: at the first allocation after their own."""
    passed = np.zeros_like(sizes)
    rises = np.flatnonzero(sizes > 0)
    gradients = np.flatnonzero(is_gradient & (sizes > 0))
    position = np.searchsorted(rises, gradients, "right")
    has_next = position < len(rises)
    np.add.at(passed, rises[position[has_next]], sizes[gradients[has_next]])
    return passed
