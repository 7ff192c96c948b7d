"""What `[training]` of a preset may say, and the learning rate that follows from it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

RESUMABLE_SETTINGS = frozenset(
    {"micro_batch", "zero_stage", "offload_optimizer", "offload_weights", "bucket", "compile"}
    | {"log_every", "save_every", "keep", "held_out_every", "held_out_sets", "samples_every", "samples"}
)
"""Settings that a resumed run may change: they divide the work, keep it or tell of it, and decide no weight."""


@dataclass(frozen=True)
class Config:
    """How a model is trained."""

    steps: int
    """Optimiser steps in all."""
    batch: int
    """Sets per step, over all processes."""
    micro_batch: int | None = None
    """Sets that one process passes through the network at once; None is its whole share of the batch."""
    learning_rate: float = 1e-4
    """Of AdamW, after the warm-up."""
    warmup: int = 0
    """Steps over which the rate rises in a straight line."""
    schedule: Literal["constant", "cosine"] = "constant"
    """What the rate does after the warm-up."""
    final_rate: float = 0.0
    """The share of `learning_rate` at which a cosine ends."""
    betas: tuple[float, ...] = (0.9, 0.999)
    """Decays of AdamW's two moments."""
    epsilon: float = 1e-8
    """Of AdamW."""
    weight_decay: float = 0.0
    """Of AdamW; the papers' is 0."""
    clip: float | None = 2.0
    """Largest gradient norm; a longer gradient is shortened to it. None never clips."""
    ema: tuple[float, ...] = (0.999,)
    """Decays of the moving averages of the weights, all kept; the first is the one that is sampled from."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """`auto` is bf16 where the hardware computes it; the run keeps what was chosen. Weights are fp32 in any case."""
    zero_stage: int = 1
    """What DeepSpeed's processes share out: 0 nothing, 1 optimiser state, 2 gradients too, 3 weights too."""
    offload_optimizer: Literal["cpu"] | None = None
    """Keep and compute AdamW's state on the CPU: less GPU memory, slower steps; ZeRO stages 1 to 3."""
    offload_weights: Literal["cpu"] | None = None
    """Keep the weights on the CPU while no layer needs them; ZeRO stage 3."""
    bucket: int = 100_000_000
    """Numbers that processes sum or gather at once: less takes less memory and more messages."""
    compile: bool = False
    """Compile the network with `torch.compile`: quicker on a GPU, no gain on a CPU."""
    seed: int = 0
    """Of the initial weights, the order of the data and everything random in a step."""
    max_skipped: int = 20
    """Steps in a row without a finite gradient that are skipped; one more stops the run."""
    log_every: int = 10
    """Steps between two lines of log.jsonl."""
    save_every: int = 1000
    """Steps between two checkpoints; the last step is always saved."""
    keep: int = 2
    """Checkpoints kept, newest first."""
    held_out_every: int | None = None
    """Steps between two losses on the held-out split; None never looks."""
    held_out_sets: int = 256
    """Sets of the held-out split that are looked at."""
    samples_every: int | None = None
    """Steps between two pictures of samples; None draws none."""
    samples: int = 16
    """Samples in a picture."""

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "micro_batch", "keep", "log_every", "save_every", "held_out_every"):
            _at_least(name, getattr(self, name), 1)
        for name in ("samples_every", "samples", "held_out_sets", "max_skipped", "bucket"):
            _at_least(name, getattr(self, name), 1)
        for name in ("warmup", "weight_decay", "final_rate", "seed"):
            _at_least(name, getattr(self, name), 0)
        for name in ("learning_rate", "epsilon", "clip"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"`{name}` is {value}: it must be above 0")
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"`betas` is {list(self.betas)}: two numbers in [0, 1), as in [0.9, 0.999]")
        if not all(0 < decay < 1 for decay in self.ema) or len(set(self.ema)) != len(self.ema):
            raise ValueError(f"`ema` is {list(self.ema)}: different decays between 0 and 1, or an empty list")
        if self.zero_stage not in (0, 1, 2, 3):
            raise ValueError(f"`zero_stage` is {self.zero_stage}: 0, 1, 2 or 3")
        if self.offload_optimizer is not None and self.zero_stage == 0:
            raise ValueError("`offload_optimizer` is cpu and `zero_stage` is 0: only stages 1, 2 and 3 can offload")
        if self.offload_weights is not None and self.zero_stage != 3:
            raise ValueError(
                f"`offload_weights` is cpu and `zero_stage` is {self.zero_stage}: only stage 3 can do that"
            )
        if self.precision == "fp16":
            raise ValueError(
                "`precision` is fp16: its range needs loss scaling, and CPUs run it 100 times slower; use bf16 or fp32"
            )

    def rate(self, step: int) -> float:
        """The learning rate of a step, counted from 0."""
        if step < self.warmup:
            return self.learning_rate * (step + 1) / self.warmup
        if self.schedule == "constant":
            return self.learning_rate
        part = (step - self.warmup) / max(1, self.steps - self.warmup)
        fall = 0.5 * (1 + math.cos(math.pi * min(1.0, part)))
        return self.learning_rate * (self.final_rate + (1 - self.final_rate) * fall)


def _at_least(name: str, value: float | None, least: int) -> None:
    if value is not None and not least <= value < math.inf:
        raise ValueError(f"`{name}` is {value}: it must be at least {least}")
