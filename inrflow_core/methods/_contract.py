"""What a method offers: how it learns sets and generates functions.

A method's file is a `MethodPart`, and its `build` returns a module that is a `Method`. docs/adding-a-method.md builds one from
scratch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from inrflow_core.config.preset import Preset
from inrflow_core.sets import CoordValueSet, SetSpec, TrainBatch
from inrflow_core.shards.manifest import ChannelStats

SHARDS = "shards"
PRECOMPUTED_DTYPE = torch.float16
"""How precomputed values are stored, and how `loss` gets them: half of float32's disk, numbers up to 65,504."""


@dataclass(frozen=True)
class Stage:
    """A part of a method's training: which networks each of its optimizers updates."""

    name: str
    optimizers: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: {"main": ("network",)})
    """Optimizer to names of `Method.networks()`. The first one also updates what is trainable outside every network."""
    reads: str = SHARDS
    """What the stage learns from: the sets of the shards, or the name of what `Method.precompute` makes of each of them,
    with the weights as they are where the stage begins."""


@dataclass(frozen=True)
class StepState:
    """Where training is: `step` counts within the stage, from 0."""

    stage: str
    step: int
    num_steps: int


@runtime_checkable
class Method(Protocol):
    """A module that learns sets in stages. Inherit from it to get the optional members."""

    STAGES: tuple[Stage, ...]
    """The stages in order, the same as its file's."""
    CAN_SHARD_WEIGHTS: ClassVar[bool] = True
    """False where the loss needs whole weights inside its gradient: ZeRO stage 3 is then refused."""

    TRAINING_ONLY: ClassVar[tuple[str, ...]] = ()
    """Children that only training needs, such as a teacher, each None outside of it: checkpoints hold their weights, but
    no weights file does."""

    PRETRAINED: ClassVar[tuple[str, ...]] = ()
    """Children with the weights of a file that only training needs, such as a perceptual loss, each None outside of it. They are
    frozen, and neither in checkpoints nor in weights files."""

    use_single_bucket: bool = False
    """Whether a batch must pass each network once, padded, and not in buckets of like sizes. Training sets it where processes
    must call the networks equally often (ZeRO stage 3)."""

    num_latents: int | None = None
    """Latents of a sample where a sampler's steps are steps of these, and the queries are evaluated once, after the last one: then
    large samples are drawn together too. None: every step evaluates the queries."""

    def networks(self) -> dict[str, nn.Module]:
        """The networks that stages name."""
        ...

    def compiled_modules(self) -> list[nn.Module]:
        """What `training.compile` compiles: modules that the loss calls, and not methods of theirs."""
        return list(self.networks().values())

    def prepare_batch(self, batch: TrainBatch) -> TrainBatch:
        """What `loss` gets of a batch: called on the CPU before the batch crosses to the device, in training by the thread that
        reads ahead. It uses no weights, and each example depends on its own seed and values alone."""
        return batch

    def loss(self, batch: TrainBatch, state: StepState, optimizer: str = "main") -> Tensor:
        """The loss that `optimizer` minimizes: of each set, (B,), or of all together, ().

        Everything random comes from the seeds of the sets. Gradients reach only the weights that the optimizer updates.
        """
        ...

    def begin_stage(self, stage: str) -> None:
        """Prepare for a stage before its optimizers are built, such as a teacher's copy; a resumed run then loads its state."""

    def load_pretrained(self, files: Mapping[str, Path]) -> None:
        """Read the weights of `PRETRAINED` from checked files, by network; called after `begin_stage`, and not for a plan."""

    def loss_terms(self) -> Mapping[str, Float[Tensor, ""]]:
        """Parts of the last loss that the log names, each the mean over its sets, detached and on the device."""
        return {}

    def after_step(self, state: StepState) -> None:
        """Update what belongs to the method and not to an optimizer, such as a teacher's average; without gradients."""

    def precompute(self, name: str, sets: CoordValueSet) -> Float[Tensor, "B N C"]:
        """What stages with `reads = name` get as the values of these sets, such as latents; of one shape for all sets.

        It is computed once for each set, without augmentation, and stored in the run folder as `PRECOMPUTED_DTYPE`. It depends
        on the set alone and on weights of networks that these stages do not train.
        """
        raise AssertionError(f"a stage reads `{name}`, and the method does not override `precompute`")

    def measured_channels(self, name: str, values: Float[Tensor, "B N C"]) -> Float[Tensor, "B N S"]:
        """The channels whose statistics `begin_precomputed` gets, from stored values in float32: by default the values.

        It is called once for each set, on the CPU, and uses no weights.
        """
        return values

    def begin_precomputed(self, name: str, statistics: ChannelStats) -> None:
        """Take over the mean and standard deviation of each of the `measured_channels` over the training sets; called where
        the stage begins."""

    def sample(self, context: Any, seeds: Any, condition: Any, options: Any) -> Any:
        """New functions (a `Field`), one per seed."""
        ...

    def invert(self, sets: CoordValueSet, options: Any, progress: Any = None) -> Any:
        """The functions (a `Field`) behind given sets."""
        ...


@runtime_checkable
class MethodPart(Protocol):
    """A method's module.

    A method whose stages depend on its settings has `stages(config)` beside `STAGES`, which are those of the defaults.
    One that trains with frozen networks of feature_networks has `pretrained(config)`: for a stage, networks and their files, None
    where the settings name none.
    With `check_stages(config, steps)` it raises UsageError for settings that do not fit the steps of its stages, by their names.
    `ENCODES = True` says that `invert` encodes sets by one call of a network: `eval` then measures reconstructions.
    """

    STAGES: tuple[Stage, ...]
    NETWORKS: tuple[str, ...]
    """Networks that presets configure: of one by [network], of several by [network.NAME]."""
    USES_SAMPLER: bool
    """Whether presets have a [sampler]."""
    Config: Any
    """Settings of [method]."""
    SamplingConfig: Any
    """Those that a command may change when it samples."""

    def build(self, preset: Preset, spec: SetSpec) -> nn.Module:
        """The `Method` of a preset, with its initial weights.

        Raises:
            UsageError: the settings do not fit the sets, or each other.
        """
        ...

    def sampling_options(
        self, model: Any, overrides: Mapping[str, Any], *, sampler: Any, guide: Any, precision: str
    ) -> Any:
        """The preset's settings with `overrides` in their place, as a `models.SamplingOptions`.

        Raises:
            UsageError: a setting out of range, or a guide that cannot act.
        """
        ...

    def load_field(self, path: Path, preset: Preset, spec: SetSpec, info: dict[str, Any], device: str) -> Any:
        """The `Field` that one of the method's fields saved.

        Raises:
            IntegrityError: it is not whole.
        """
        ...
