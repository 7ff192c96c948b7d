"""How a batch comes to the device: beside the device's work, from memory that it reads by itself.

Only page-locked ("pinned") memory is copied while the host continues. `Tensor.pin_memory` takes it from torch's own
cache, which gives a piece out again when the copy from it is done and not before; so no buffer here has to be watched.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from inrflow_core.sets import TrainBatch


class InFlightBatch(NamedTuple):
    """A batch on its way to the device."""

    batch: TrainBatch
    arrival: Any
    """The event behind which they are there; None where they are there already."""


class DeviceTransfer:
    """Sends batches on a stream of its own, on behalf of a thread that reads, and hands them to the thread that computes."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._stream: Any = torch.cuda.Stream(device) if device.type == "cuda" else None

    def send(self, batch: TrainBatch) -> InFlightBatch:
        """Start the copy; the host does not wait for it."""
        if self._stream is None:
            return InFlightBatch(batch.to(self.device), None)
        with torch.cuda.stream(self._stream):
            carried = batch.map(lambda tensor: tensor.pin_memory()).to(self.device)
            return InFlightBatch(carried, self._stream.record_event())

    def receive(self, sent: InFlightBatch) -> TrainBatch:
        """The batch, for the stream that computes: it waits for the copy, and the host does not.

        Their memory belongs to the stream that copied. It must learn who reads it, or it would give it out again too early.
        """
        if sent.arrival is not None:
            computing = torch.cuda.current_stream(self.device)
            computing.wait_event(sent.arrival)
            sent.batch.map(lambda tensor: _lent(tensor, computing))
        return sent.batch


def _lent(tensor: torch.Tensor, stream: Any) -> torch.Tensor:
    tensor.record_stream(stream)
    return tensor
