"""Memory of a process beside activations: weights, gradients, moments, EMAs and DeepSpeed's buffers.

That of DeepSpeed 0.19 in fp32: measured on a CPU with one process; for several processes and on GPUs, by its source.
"""

from __future__ import annotations

from dataclasses import dataclass

from inrflow_core.config.training import Config
from inrflow_core.numerics import newton_schulz
from inrflow_core.runtime.distributed import World

FLOAT = 4
"""Bytes of a float32: weights, gradients, moments and averages are fp32 in every precision."""
PER_MACHINE = 8
"""GPUs per machine that a plan for other GPUs assumes."""
GATHERED = 1_000_000_000 * FLOAT
"""DeepSpeed's `stage3_max_live_parameters`: weights that stage 3 gathers at most at a time."""


COPIES_OF_RADAM = 3
"""Weights and both moments, which training copies before a step of RAdam (`training/optimizers.py`). In ZeRO stages 1 to 3
the partition is one tensor, and restoring it takes one more; measured on a CPU."""

MOVED_BY_MUON = 12 + 5 * newton_schulz.ITERATIONS
"""Bytes that Muon reads and writes per byte of a matrix: 12 for gradient, momentum and weight, and in each iteration 5 for two
products with the matrix and, at most, those with its Gram matrix."""


@dataclass(frozen=True)
class Layout:
    """How one process of `world` holds a model in a ZeRO stage, which may be another than that of `settings`."""

    weights: int
    """Weights of the model, frozen ones included."""
    trained: int
    """Those that the optimizers of the training stage update: only they have gradients, moments and averages."""
    settings: Config
    world: World
    stage: int
    num_micro: int
    matrices: tuple[tuple[int, int], ...] = ()
    """Rows and columns of the trained hidden matrices, if Muon updates them."""

    @property
    def whole(self) -> int:
        """Bytes of one copy of all weights."""
        return FLOAT * self.weights

    @property
    def updated(self) -> int:
        """Bytes of one copy of the trained weights."""
        return FLOAT * self.trained

    @property
    def share(self) -> int:
        """Bytes of this process's partition of the trained weights."""
        return self._part(self.trained)

    @property
    def overlaps(self) -> bool:
        """Whether gradients are reduced during the backward pass (`overlap_comm`), as the engine decides it."""
        if self.world.device.type != "cuda" or self.world.size == 1:
            return False
        return self.stage == 3 or (self.stage > 0 and self.world.size > PER_MACHINE)

    @property
    def gradients_grow(self) -> bool:
        """Whether gradients are allocated one by one in the backward pass; else each is added to a buffer of all."""
        return not self.overlaps and self.stage < 3 and self.num_micro == 1

    @property
    def always(self) -> dict[str, int]:
        """Bytes held throughout a step; of several processes those of the main one, which alone has EMAs."""
        rows = {"weights": self._part(self.weights) if self.stage == 3 else self.whole}
        if self.stage > 0:
            rows["zero_weights"] = self.share
        if self.stage == 3:  # some weights are whole at any time; with one process, all
            rows |= {"gathered_weights": min(self.whole, GATHERED), "gradients": self.share}
        rows["moments"] = 2 * (self.updated if self.stage == 0 else self.share)
        rows["averages"] = len(self.settings.ema) * (self.share if self.stage == 3 else self.updated)
        for name in self._elsewhere:
            rows.pop(name, None)
        return rows

    @property
    def backward(self) -> dict[str, int]:
        """Bytes held throughout the backward pass, beside gradients that are allocated in it."""
        buffers = 0
        if self.stage > 0:
            buffers = self._bucket * (2 if self.overlaps else 1)
        if self.stage == 3:
            return {"communication": buffers}
        stay = not self.gradients_grow and not self.overlaps
        rows = {"communication": buffers, "gradients": self.updated if stay else 0}
        if self.overlaps or (self.stage == 2 and self.num_micro > 1):
            rows["zero_gradients"] = 0 if "zero_gradients" in self._elsewhere else self.share
        return rows

    @property
    def update(self) -> dict[str, int]:
        """Bytes held during the update of the weights, after the backward pass."""
        iterated = newton_schulz.COPIES * FLOAT * newton_schulz.largest_stack(self.matrices)
        return {**self._update, "before_step": self._before_step, "newton_schulz": iterated}

    @property
    def _before_step(self) -> int:
        """Bytes of weights and moments as before the step, for an optimizer that cannot skip a step by itself."""
        is_elsewhere = "moments" in self._elsewhere
        if self.settings.optimizer != "radam" or is_elsewhere:
            return 0
        return COPIES_OF_RADAM * self.updated if self.stage == 0 else (COPIES_OF_RADAM + 1) * self.share

    @property
    def _update(self) -> dict[str, int]:
        bucket = FLOAT * min(self.trained, self.settings.bucket)
        if self.stage == 0:
            return {"gradients": self.updated, "communication": 0 if self.world.size == 1 else bucket}
        copies = 2 if self.stage == 2 and self.num_micro > 1 else 1
        summed = 0 if "zero_gradients" in self._elsewhere else copies * self.share
        if self.stage == 3:
            return {"communication": bucket, "zero_gradients": summed}
        if self.overlaps:
            return {"communication": 2 * self._bucket, "zero_gradients": summed}
        return {"gradients": self.updated, "communication": self._bucket, "zero_gradients": summed}

    @property
    def update_bytes(self) -> float:
        """Bytes read and written in an update: per byte of weights, 3 by clipping, 7 by AdamW and 3 by each EMA.

        Muon reads and writes `MOVED_BY_MUON` in place of AdamW's 7 for its matrices.
        """
        moved = self.updated if self.stage == 0 else self.share
        matrices = FLOAT * self.iterated_share * sum(rows * columns for rows, columns in self.matrices)
        emas = 3 * len(self.settings.ema) * (self.share if self.stage == 3 else self.updated)
        return 10 * moved + (MOVED_BY_MUON - 7) * matrices + emas

    @property
    def update_flops(self) -> float:
        """FLOPs of the optimizer's matrix products, fp32 in every precision: those of Muon."""
        return self.iterated_share * sum(newton_schulz.flops(rows, columns) for rows, columns in self.matrices)

    @property
    def iterated_share(self) -> float:
        """The part of the matrices that a process iterates: all in stage 0, those of its partition in stages 1 and 2."""
        return 1.0 if self.stage == 0 else 1 / self.world.size

    def _part(self, count: int) -> int:
        """Bytes of this process's partition of `count` numbers."""
        return FLOAT * -(-count // self.world.size)

    @property
    def _bucket(self) -> int:
        """Bytes of a bucket in which gradients are reduced; 0 on a CPU, where it shares the gradients' memory."""
        return FLOAT * min(self.trained, self.settings.bucket) if self.world.device.type == "cuda" else 0

    @property
    def _elsewhere(self) -> set[str]:
        """Rows that are offloaded to the CPU's memory, if a GPU trains."""
        if self.world.device.type != "cuda":
            return set()
        rows: set[str] = set()
        if self.settings.offload_optimizer is not None and self.stage > 0:
            rows |= {"zero_weights", "zero_gradients", "moments"}
        if self.settings.offload_weights is not None and self.stage == 3:
            rows.add("weights")
        return rows
