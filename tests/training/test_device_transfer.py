"""Batches cross to a GPU beside its work. There is none here: its streams are written out, and what they do is noted."""

from __future__ import annotations

import contextlib

import pytest
import torch

from inrflow_core.sets import CoordValueSet, Queries, TrainBatch
from inrflow_core.training.device_transfer import DeviceTransfer


def sets() -> CoordValueSet:
    """Two sets with everything that sets may have."""
    queries = Queries(
        torch.rand(2, 4, 3), torch.arange(4), torch.tensor([[0, 0, 1, 1], [0, 1, 2, -1]]), ((4, 2), (3, 3))
    )
    condition = {"label": torch.tensor([1, 0]), "image": torch.rand(2, 5)}
    return CoordValueSet(queries, torch.rand(2, 4, 3), torch.arange(2), condition, torch.ones(2, 4, dtype=torch.bool))


def tensors(held: TrainBatch) -> list[torch.Tensor]:
    """All of them, in a fixed order."""
    result: list[torch.Tensor] = []
    held.map(lambda tensor: (result.append(tensor), tensor)[1])
    return result


class Stream:
    """A stream that keeps a diary."""

    def __init__(self, name: str, diary: list[str]) -> None:
        self.name, self.diary = name, diary

    def record_event(self) -> str:
        """The event behind all that was queued."""
        self.diary.append(f"{self.name}: event")
        return f"event of {self.name}"

    def wait_event(self, event: str) -> None:
        """What follows waits for it."""
        self.diary.append(f"{self.name}: waits for {event}")


@pytest.fixture
def diary(monkeypatch) -> list[str]:
    result: list[str] = []
    current = ["computing"]

    @contextlib.contextmanager
    def on(stream):
        current.append(stream.name)
        yield
        current.pop()

    def pin(tensor):
        result.append("pinned")
        return tensor.clone()

    def to(tensor, device, *, non_blocking):
        assert non_blocking
        result.append(f"{current[-1]}: copy")
        return tensor.clone()

    monkeypatch.setattr(torch.cuda, "stream", on)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: Stream(current[-1], result))
    monkeypatch.setattr(torch.Tensor, "pin_memory", pin)
    monkeypatch.setattr(torch.Tensor, "to", to)
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda tensor, stream: result.append(f"lent to {stream.name}"))
    return result


def test_every_tensor_is_pinned_copied_beside_the_work_waited_for_and_lent(diary):
    inputs = TrainBatch.from_sets(sets())
    crossing = DeviceTransfer(torch.device("cpu"))
    crossing._stream = Stream("beside", diary)
    sent = crossing.send(inputs)
    count = len(tensors(inputs))
    assert count == 8
    assert diary == ["pinned"] * count + ["beside: copy"] * count + ["beside: event"]
    diary.clear()
    received = crossing.receive(sent)
    assert diary == ["computing: waits for event of beside"] + ["lent to computing"] * count
    assert all(torch.equal(a, b) for a, b in zip(tensors(received), tensors(inputs), strict=True))
    assert received.is_shared and received.context.queries.valid_sizes == inputs.context.queries.valid_sizes


def test_on_a_cpu_the_tensors_are_the_same_ones():
    inputs = TrainBatch.from_sets(sets())
    crossing = DeviceTransfer(torch.device("cpu"))
    received = crossing.receive(crossing.send(inputs))
    assert all(a is b for a, b in zip(tensors(received), tensors(inputs), strict=True))
