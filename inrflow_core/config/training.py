"""Settings of the tables that name no part: `[data]`, `[training]` and `[eval]`.

`[training]` holds for all stages of a method, `[training.STAGE]` overrides some for one stage, and
`[training.STAGE.OPTIMIZER]` for one of the stage's optimizers, where it has several.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from inrflow_core.config.typed import settings
from inrflow_core.errors import UsageError, did_you_mean

LAST_SEED = 2**63 - 1
"""The largest seed of a run or a sample."""
RESUMABLE_SETTINGS = frozenset(
    {"micro_batch", "zero_stage", "offload_optimizer", "offload_weights", "bucket", "compile"}
    | {"log_every", "save_every", "keep", "held_out_every", "held_out_sets", "samples_every", "samples"}
)
"""Settings that a resumed run may change: they divide, save or report the work and change no weight."""
OPTIMIZER_SETTINGS = frozenset(
    {
        "optimizer",
        "learning_rate",
        "matrix_rate",
        "warmup",
        "schedule",
        "final_rate",
        "betas",
        "epsilon",
        "weight_decay",
        "clip",
    }
)
"""Settings that `[training.STAGE.OPTIMIZER]` may override."""
STAGE_SETTINGS = OPTIMIZER_SETTINGS | {
    *(
        "steps",
        "batch",
        "micro_batch",
        "ema",
        "ema_warmup",
        "log_every",
        "save_every",
        "held_out_every",
        "held_out_sets",
    ),
    "samples_every",
}
"""Settings that `[training.STAGE]` may override; the others hold for the whole run."""


@dataclass(frozen=True)
class Config:
    """How a model is trained."""

    steps: int
    """Optimizer steps of each stage; a stage before the last can have 0, and begins and ends with the weights of `--init-from`."""
    batch: int
    """Sets per step, over all processes."""
    micro_batch: int | None = None
    """Sets in one forward pass of a process; None is the whole share of the process in the batch."""
    optimizer: Literal["adamw", "adam", "radam", "muon"] = "adamw"
    """The papers of INRFlow use AdamW. `muon` updates hidden matrices by orthogonal ones and all other weights by AdamW; it
    takes ZeRO stages 0 to 2."""
    learning_rate: float = 1e-4
    """Learning rate after the warm-up."""
    matrix_rate: float = 1.0
    """Rate of the hidden matrices of `muon`, and so of their weight decay, as a multiple of `learning_rate`; other optimizers have
    one rate."""
    warmup: int = 0
    """Steps over which the rate rises linearly."""
    schedule: Literal["constant", "cosine"] = "constant"
    """Schedule of the rate after the warm-up."""
    final_rate: float = 0.0
    """A cosine ends at this fraction of `learning_rate`."""
    betas: tuple[float, ...] = (0.9, 0.999)
    """Decay of the first and of the second moment; the momentum of Muon's matrices is always 0.95."""
    epsilon: float = 1e-8
    """Epsilon of the optimizer."""
    weight_decay: float = 0.0
    """Weight decay; 0 in the papers."""
    clip: float | None = 2.0
    """Gradients are clipped to this norm; None never clips."""
    ema: tuple[float, ...] = field(default=(0.999,), metadata={"may_be_empty": True})
    """Decays of the EMAs of the weights; all are saved, and samples use the first."""
    ema_warmup: int | None = None
    """The decay of step n, from 0 on, is at most (1 + n) / (`ema_warmup` + n), so that the initial weights are soon forgotten
    (10 in TensorFlow's averages); None is the full decay from the first step."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """`auto` is bf16 where the hardware supports it; the run records the choice. Weights are always fp32."""
    zero_stage: int = 1
    """What DeepSpeed shards over processes: 0 nothing, 1 optimizer state, 2 also gradients, 3 also weights."""
    offload_optimizer: Literal["cpu"] | None = None
    """Optimizer state and update on the CPU: less GPU memory, slower steps; ZeRO stages 1 to 3."""
    offload_weights: Literal["cpu"] | None = None
    """Keep the weights on the CPU until a layer needs them; ZeRO stage 3."""
    bucket: int = 100_000_000
    """Numbers that processes sum or gather in one message: fewer need less memory and more messages."""
    compile: bool = False
    """Use `torch.compile` on the network: faster on a GPU, no gain on a CPU."""
    seed: int = 0
    """Seed of the initial weights, the order of the data and all random numbers of a step."""
    max_skipped: int = 20
    """Consecutive steps without a finite gradient that are skipped; one more stops the run."""
    log_every: int = 10
    """Steps between two lines of log.jsonl."""
    save_every: int = 1000
    """Steps between two checkpoints; the last step is always saved."""
    keep: int = 2
    """Checkpoints kept, newest first."""
    held_out_every: int | None = None
    """Steps between two held-out losses; None computes none."""
    held_out_sets: int = 256
    """Number of held-out sets in that loss."""
    samples_every: int | None = None
    """Steps between two preview images of samples; None draws none."""
    samples: int = 16
    """Samples in a preview image."""
    stages: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Overrides in `[training.STAGE]`, by stage; inside each, those in `[training.STAGE.OPTIMIZER]`, by optimizer."""

    def __post_init__(self) -> None:
        _at_least("steps", self.steps, 0)
        for name in (
            "batch",
            "micro_batch",
            "keep",
            "log_every",
            "save_every",
            "held_out_every",
            "ema_warmup",
        ):
            _at_least(name, getattr(self, name), 1)
        for name in ("samples_every", "samples", "held_out_sets", "max_skipped", "bucket"):
            _at_least(name, getattr(self, name), 1)
        for name in ("warmup", "weight_decay", "final_rate", "seed"):
            _at_least(name, getattr(self, name), 0)
        if self.seed > LAST_SEED:
            raise ValueError(f"`seed` is {self.seed}: the largest is 2^63 - 1")
        for name in ("learning_rate", "matrix_rate", "epsilon", "clip"):
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
        if self.optimizer != "muon" and self.matrix_rate != 1:
            raise ValueError(
                f"`matrix_rate` is {self.matrix_rate} and `optimizer` is {self.optimizer}: only muon has a rate for matrices; "
                "set it to 1, in a stage or for an optimizer that takes another one"
            )
        if self.optimizer == "muon" and self.zero_stage == 3:
            raise ValueError("`optimizer` is muon and `zero_stage` is 3: only stages 0, 1 and 2 can do that")
        if self.optimizer == "muon" and self.offload_optimizer is not None:
            raise ValueError(
                f"`optimizer` is muon and `offload_optimizer` is {self.offload_optimizer}: "
                "only adamw, adam and radam can be offloaded"
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


def divisors(number: int) -> list[int]:
    """All divisors of a number in rising order, in the time of its square root."""
    small = [n for n in range(1, math.isqrt(number) + 1) if number % n == 0]
    return small + [number // n for n in reversed(small) if n * n != number]


def ema_decay(decay: float, step: int, warmup: int | None = None) -> float:
    """The decay of an average at a step, counted from 0; see `Config.ema_warmup`."""
    return decay if warmup is None else min(decay, (1 + step) / (warmup + step))


def share_of_initial_weights(decay: float, steps: int, warmup: int | None = None) -> float:
    """The weight that an average gives to the weights it began with: the product of the decays of its steps."""
    share = 1.0
    for step in range(steps if warmup is not None else 0):
        factor = ema_decay(decay, step, warmup)
        if factor == decay:
            return share * decay ** (steps - step)
        share *= factor
    return share if warmup is not None else decay**steps


def parse(values: Mapping[str, Any], stages: Mapping[str, Iterable[str]]) -> Config:
    """`[training]` with its tables, for a method with these stages and their optimizers.

    Raises:
        UsageError: an unknown stage, optimizer or setting, a wrong type or an impossible value.
    """
    plain, tables = _split(values)
    config = settings(Config, plain, "training")
    overrides: dict[str, dict[str, Any]] = {}
    for stage, table in tables.items():
        if stage not in stages:
            raise UsageError(f"[training.{stage}] is not a stage of the method", hint=did_you_mean(stage, list(stages)))
        own, nested = _split(table)
        overrides[stage] = _overrides(plain, own, f"training.{stage}", STAGE_SETTINGS)
        for name, more in nested.items():
            address, optimizers = f"training.{stage}.{name}", list(stages[stage])
            if name not in optimizers:
                raise UsageError(f"[{address}] is not an optimizer of the stage", hint=did_you_mean(name, optimizers))
            overrides[stage][name] = _overrides(plain | own, more, address, OPTIMIZER_SETTINGS)
    config = replace(config, stages=overrides)
    if config.for_stage(last := list(stages)[-1]).steps < 1:
        table = f"[training.{last}]" if "steps" in overrides.get(last, {}) else "[training]"
        raise UsageError(
            f"{table} `steps` is 0: it must be at least 1", hint="fix the preset, or override with `--set`"
        )
    return config


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


@dataclass(frozen=True)
class DataConfig:
    """Which shards training reads."""

    path: str
    """Folder of shards, relative to the working folder; `--data` overrides it."""
    prepare: str | None = None
    """The command that makes these shards, for the hint where they are missing."""
    train: str = "train"
    """The training split."""
    held_out: str | None = None
    """The split of the held-out loss; None computes no held-out loss."""
    classes: tuple[str, ...] = ()
    """Only these classes, numbered in this order; empty takes all in their own order."""
    prefetch: int = 2
    """Micro-batches read ahead."""

    def __post_init__(self) -> None:
        if self.prefetch < 1:
            raise ValueError(f"`prefetch` is {self.prefetch}: at least 1")
        if len(set(self.classes)) != len(self.classes):
            raise ValueError(f"`classes` has a duplicate: {list(self.classes)}")


@dataclass(frozen=True)
class EvalConfig:
    """How a model is evaluated while it trains."""

    every: int
    """Steps between two evaluations; the last step is always evaluated."""
    metrics: tuple[str, ...] = ()
    """As for `inrflow eval --metrics`; empty takes the domain's metrics that need no weights."""
    num: int = 256
    """Number of samples, by the first EMA with the preset's sampler and guidance. For conditional models: the number of
    images or sequences of `split`, evenly spaced; for radiance fields that of scenes, of which 8 views each are rendered."""
    seed: int = 0
    """Seed of the first sample; the others count up. For models of sequences: the seed of every structure."""
    split: str | None = None
    """Reference split; None is the training split for images, the held-out split for point clouds."""
    reference: int | None = None
    """Number of items of that split, evenly spaced; None takes all."""
    best: str | None = None
    """The metric that decides the best checkpoint; None is the first."""
    weights: str | None = None
    """Folder with the weights of feature networks."""
    uniform_labels: bool = False
    """Whether classes of the samples are equally likely; else they have the frequencies of the reference."""

    def __post_init__(self) -> None:
        for name, least in {"every": 1, "num": 2, "reference": 2, "seed": 0}.items():
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"`{name}` is {value}: it must be at least {least}")
        if self.seed + self.num > 2**63:
            raise ValueError(f"`seed` is {self.seed}: the last sample's would be above 2^63 - 1")
