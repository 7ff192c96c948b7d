"""Settings of training: `[training]` holds for all stages of a method, `[training.STAGE]` overrides some for one stage.

`[training.STAGE.OPTIMIZER]` overrides for one of the stage's optimizers, where it has several.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from inrflow_core.config.typed import settings
from inrflow_core.errors import UsageError, did_you_mean

RESUMABLE_SETTINGS = frozenset(
    {"micro_batch", "zero_stage", "offload_optimizer", "offload_weights", "bucket", "compile"}
    | {"log_every", "save_every", "keep", "held_out_every", "held_out_sets", "samples_every", "samples"}
)
"""Settings that a resumed run may change: they divide the work, keep it or tell of it, and decide no weight."""
OPTIMIZER_SETTINGS = frozenset(
    {"optimizer", "learning_rate", "warmup", "schedule", "final_rate", "betas", "epsilon", "weight_decay", "clip"}
)
"""Settings that `[training.STAGE.OPTIMIZER]` may override."""
STAGE_SETTINGS = OPTIMIZER_SETTINGS | {
    *("steps", "batch", "micro_batch", "ema", "log_every", "save_every", "held_out_every", "held_out_sets"),
    "samples_every",
}
"""Settings that `[training.STAGE]` may override; the others hold for the whole run."""


@dataclass(frozen=True)
class Config:
    """How a model is trained."""

    steps: int
    """Optimizer steps of each stage."""
    batch: int
    """Sets per step, over all processes."""
    micro_batch: int | None = None
    """Sets that one process passes through the network at once; None is its whole share of the batch."""
    optimizer: Literal["adamw", "adam", "radam"] = "adamw"
    """How gradients move the weights: AdamW (the papers' of INRFlow), Adam, or RAdam."""
    learning_rate: float = 1e-4
    """Of the optimizer, after the warm-up."""
    warmup: int = 0
    """Steps over which the rate rises in a straight line."""
    schedule: Literal["constant", "cosine"] = "constant"
    """What the rate does after the warm-up."""
    final_rate: float = 0.0
    """The share of `learning_rate` at which a cosine ends."""
    betas: tuple[float, ...] = (0.9, 0.999)
    """Decays of the optimizer's two moments."""
    epsilon: float = 1e-8
    """Of the optimizer."""
    weight_decay: float = 0.0
    """Of the optimizer; the papers' is 0."""
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
    stages: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """What `[training.STAGE]` overrides, by stage; in there, what `[training.STAGE.OPTIMIZER]` does, by optimizer."""

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

    def for_stage(self, stage: str, optimizer: str | None = None) -> Config:
        """The settings of one stage, or of one of its optimizers."""
        own = self.stages.get(stage, {})
        plain = {key: value for key, value in own.items() if not isinstance(value, Mapping)}
        return replace(self, **plain | dict(own.get(optimizer or "", {})), stages={})

    def total_steps(self, stages: Iterable[str]) -> int:
        """Steps of all stages together."""
        return sum(self.for_stage(stage).steps for stage in stages)

    def rate(self, step: int) -> float:
        """The learning rate of a step of a stage, counted from 0."""
        if step < self.warmup:
            return self.learning_rate * (step + 1) / self.warmup
        if self.schedule == "constant":
            return self.learning_rate
        part = (step - self.warmup) / max(1, self.steps - self.warmup)
        fall = 0.5 * (1 + math.cos(math.pi * min(1.0, part)))
        return self.learning_rate * (self.final_rate + (1 - self.final_rate) * fall)


def parse(values: Mapping[str, Any], stages: Mapping[str, Iterable[str]]) -> Config:
    """`[training]` with its tables, for a method with these stages and their optimizers.

    Raises:
        UsageError: an unknown stage, optimizer or setting, a wrong type or an impossible value.
    """
    plain, tables = _split(values)
    config = settings(Config, plain, "training")
    found: dict[str, dict[str, Any]] = {}
    for stage, table in tables.items():
        if stage not in stages:
            raise UsageError(f"[training.{stage}] is not a stage of the method", hint=did_you_mean(stage, list(stages)))
        own, nested = _split(table)
        found[stage] = _overrides(plain, own, f"training.{stage}", STAGE_SETTINGS)
        for name, more in nested.items():
            address, optimizers = f"training.{stage}.{name}", list(stages[stage])
            if name not in optimizers:
                raise UsageError(f"[{address}] is not an optimizer of the stage", hint=did_you_mean(name, optimizers))
            found[stage][name] = _overrides(plain | own, more, address, OPTIMIZER_SETTINGS)
    return replace(config, stages=found)


def _split(values: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The settings of a table, and the tables inside it."""
    tables = {key: value for key, value in values.items() if isinstance(value, Mapping)}
    return {key: value for key, value in values.items() if key not in tables}, tables


def _overrides(base: dict[str, Any], own: dict[str, Any], table: str, allowed: frozenset[str]) -> dict[str, Any]:
    """The typed values of a table that overrides some settings."""
    for key in own:
        if key not in allowed:
            raise UsageError(f"[{table}] cannot override `{key}`", hint=did_you_mean(key, sorted(allowed)))
    typed = settings(Config, base | own, table)
    return {key: getattr(typed, key) for key in own}


def _at_least(name: str, value: float | None, least: int) -> None:
    if value is not None and not least <= value < math.inf:
        raise ValueError(f"`{name}` is {value}: it must be at least {least}")
