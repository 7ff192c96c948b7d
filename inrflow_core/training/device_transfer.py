"""Copy batches to the device without a wait, while the device computes.

Only page-locked ("pinned") memory is copied while the host continues. `Tensor.pin_memory` takes it from torch's cache, which
reuses a block only after the copy from it is done; so this file needs no buffers of its own.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from inrflow_core.sets import TrainBatch


class InFlightBatch(NamedTuple):
    """A batch on its way to the device."""

    batch: TrainBatch
    arrival: Any
    """The event after which the copy is complete; None if there is nothing to wait for."""


class DeviceTransfer:
    """Copies batches on a stream of its own: the loader's thread sends them, the training thread receives them."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._stream: Any = torch.cuda.Stream(device) if device.type == "cuda" else None

    def send(self, batch: TrainBatch) -> InFlightBatch:
        """Start the copy, without waiting for it."""
        if self._stream is None:
            return InFlightBatch(batch.to(self.device), None)
        with torch.cuda.stream(self._stream):
            copied = batch.map(lambda tensor: tensor.pin_memory()).to(self.device)
            return InFlightBatch(copied, self._stream.record_event())

    def receive(self, sent: InFlightBatch) -> TrainBatch:
        """The batch; the computing stream waits for the copy, the host does not.

        The copying stream allocated the memory. `record_stream` keeps it from being reused while the computing stream reads.
        """
        if sent.arrival is not None:
            computing = torch.cuda.current_stream(self.device)
            computing.wait_event(sent.arrival)
            sent.batch.map(lambda tensor: _recorded(tensor, computing))
        return sent.batch


def _recorded(tensor: torch.Tensor, stream: Any) -> torch.Tensor:
    tensor.record_stream(stream)
    return tensor
