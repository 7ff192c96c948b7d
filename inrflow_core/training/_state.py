"""What a process holds beside activations: weights, gradients, AdamW's moments, averages and DeepSpeed's buffers.

As DeepSpeed 0.19 does it in fp32, measured on a CPU with one process; with several, and on GPUs, as its source says.
"""

from __future__ import annotations

from dataclasses import dataclass

from inrflow_core.training.world import World

FLOAT = 4
"""Bytes of a float32: weights, gradients, moments and averages are fp32 in every precision."""
BUCKET = 500_000_000 * FLOAT
"""DeepSpeed's `reduce_bucket_size`: a GPU gives it whole, a CPU the pages that are written to."""
GATHERED = 1_000_000_000 * FLOAT
"""DeepSpeed's `stage3_max_live_parameters`: weights that stage 3 gathers and lets go of again."""


@dataclass(frozen=True)
class Layout:
    """How one process of `world` holds a model of so many weights, in a ZeRO stage."""

    weights: int
    num_averages: int
    world: World
    stage: int
    num_micro: int

    @property
    def whole(self) -> int:
        """Bytes of one copy of all weights."""
        return FLOAT * self.weights

    @property
    def share(self) -> int:
        """Bytes of this process's part of one."""
        return FLOAT * -(-self.weights // self.world.size)

    @property
    def overlaps(self) -> bool:
        """Gradients are summed over the processes while the backward pass goes on."""
        return self.stage > 0 and self.world.device.type == "cuda" and self.world.size > 1

    @property
    def gradients_grow(self) -> bool:
        """Gradients come one by one and stay to the end of the backward pass; else each is added to what holds it."""
        return not self.overlaps and self.stage < 3 and self.num_micro == 1

    @property
    def always(self) -> dict[str, int]:
        """Bytes held throughout a step; of several processes those of the leading one, which alone has averages."""
        held = self.share if self.stage == 3 else self.whole
        rows = {"weights": held}
        if self.stage > 0:
            rows["zero_weights"] = self.share
        if self.stage == 3:
            rows |= {"gathered_weights": min(self.whole, GATHERED), "gradients": self.share}
        rows["moments"] = 2 * (self.whole if self.stage == 0 else self.share)
        rows["averages"] = self.num_averages * held
        return rows

    @property
    def backward(self) -> dict[str, int]:
        """Bytes held throughout the backward pass, beside the gradients that come in it."""
        buffers = 0
        if self.stage > 0:
            buffers = self._bucket * (2 if self.overlaps else 1)
        if self.stage == 3:
            return {"communication": buffers}
        stay = not self.gradients_grow and not self.overlaps
        rows = {"communication": buffers, "gradients": self.whole if stay else 0}
        if self.overlaps or (self.stage == 2 and self.num_micro > 1):
            rows["zero_gradients"] = self.share
        return rows

    @property
    def update(self) -> dict[str, int]:
        """Bytes held when the backward pass is over and the weights are moved."""
        if self.stage == 0:
            alone = self.world.size == 1
            return {"gradients": self.whole, "communication": 0 if alone else min(self.whole, BUCKET)}
        if self.stage == 3:
            return {"communication": min(self.whole, BUCKET), "zero_gradients": self.share}
        copies = 2 if self.stage == 2 and self.num_micro > 1 else 1
        if self.overlaps:
            return {"communication": 2 * BUCKET, "zero_gradients": copies * self.share}
        return {"gradients": self.whole, "zero_gradients": copies * self.share}

    @property
    def update_bytes(self) -> float:
        """Bytes that are read and written: 3 by clipping, 7 by AdamW, 3 by each average, times those of a weight."""
        moved = self.whole if self.stage == 0 else self.share
        return 10 * moved + 3 * self.num_averages * (self.share if self.stage == 3 else self.whole)

    @property
    def _bucket(self) -> int:
        """Bytes of a bucket that gradients are summed in: on a CPU, its pages are the gradients' own."""
        return BUCKET if self.world.device.type == "cuda" else 0
