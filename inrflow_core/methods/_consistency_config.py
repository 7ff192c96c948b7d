"""Settings and sampling options of consistency training."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from inrflow_core.config.typed import settings
from inrflow_core.errors import UsageError
from inrflow_core.models import Model

Weight = Literal["output", "gap", "time", "none"]
"""Weight of a set's loss: c_out(t) / t, 1 / (t - r), 1 / t, or 1."""
ANCHOR_BELOW = 0.0865
"""Below this level the data themselves are the target (a quarter of the levels)."""
JITTER = 0.3
"""Deviation of the jitter of training coordinates, in halves of a pixel (ANR)."""


@dataclass(frozen=True)
class Config:
    """Settings of `[method]`; docs/inrct.md says where they differ from the paper, and why."""

    parametrization: Literal["clean", "edm"] = "clean"
    """`clean`: the function that the network writes is the clean one at every level. `edm`: the paper's, whose answer is
    c_skip(t) x + c_out(t) G; after two steps it is pixels and no function."""
    sigma_data: float = math.sqrt(0.5)
    """Deviation of the data in the scalings."""
    t_min: float = 0.003
    """The lowest level; data are encoded at it, without noise."""
    t_max: float = 80.0
    """The highest level, from which samples are drawn."""
    time_mean: float = -1.1
    """Mean of the logarithm of the levels in training."""
    time_std: float = 2.0
    """Standard deviation of the logarithm of the levels."""
    max_halvings: int = 8
    """How often the gap between student and teacher is halved, in equal parts of the stage."""
    anchor_below: float | None = None
    """The data are the target where the teacher's level is below this. Default: 0.0865; in `edm` `t_min`."""
    weight: Weight | None = None
    """Weight of a set's loss: c_out(t) / t (`output`), 1 / (t - r) (`gap`), 1 / t (`time`) or 1 (`none`). Default: `output`;
    in `edm` `gap`."""
    teacher_decay: float = 0.995
    """Decay of the teacher, an average of the networks; 0: the teacher is the networks themselves."""
    reconstruction_share: float | None = None
    """Share of the sets whose level is below `reconstruction_below`. Default: 1/8; in `edm` 0."""
    reconstruction_below: float = 0.007
    """Levels below which the network also learns to reconstruct; the levels of the stage `reconstruction`."""
    denoise_below: float = 0.0865
    """Levels below which `edm` also learns to denoise."""
    huber: float = 0.0
    """c of the distance sqrt(d^2 + c^2) - c; 0: the norm d of the difference."""
    clip: bool = False
    """Clip the teacher's values to [-1, 1]."""
    jitter: float | None = None
    """Deviation of the jitter of training coordinates, in halves of a pixel of a grid. Default: 0.3; in `edm` 0."""
    num_queries: int | None = None
    """Pairs decoded per set in training, drawn at random for each set; None decodes all."""
    steps: int = 1
    """Evaluations of the hyper-network for a sample: 1 or 2."""
    second_step: float = 0.821
    """Level to which a sample is noised again before the second step (ECT: 0.821 at 32 x 32, 1.526 at 64 x 64)."""

    def __post_init__(self) -> None:
        if not 0 < self.t_min < self.t_max < math.inf:
            raise ValueError(f"`t_min` is {self.t_min} and `t_max` {self.t_max}: 0 < t_min < t_max")
        for name in ("sigma_data", "time_std"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"`{name}` is {getattr(self, name)}: above 0")
        if not self.t_min < self.reconstruction_below <= self.t_max:
            raise ValueError(f"`reconstruction_below` is {self.reconstruction_below}: above `t_min`, {self.t_min}")
        if not 0 <= self.max_halvings <= 30:
            raise ValueError(f"`max_halvings` is {self.max_halvings}: from 0 to 30")
        if not 0 <= self.teacher_decay < 1:
            raise ValueError(f"`teacher_decay` is {self.teacher_decay}: from 0 to below 1")
        if not 0 <= self.share_reconstructed < 1:
            raise ValueError(f"`reconstruction_share` is {self.reconstruction_share}: from 0 to below 1")
        for name in ("anchor_below", "huber", "jitter", "denoise_below"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < math.inf:
                raise ValueError(f"`{name}` is {value}: 0 or more")
        if self.num_queries is not None and self.num_queries < 1:
            raise ValueError(f"`num_queries` is {self.num_queries}: at least 1, or leave it out to decode all")
        if self.parametrization == "edm" and self.jitter:
            raise ValueError("`jitter` is set, and `edm` adds noisy pixels to its answer, which lie on the grid")
        SamplingConfig(self.steps, self.second_step)
        if not self.t_min <= self.second_step <= self.t_max:
            raise ValueError(f"`second_step` is {self.second_step}: from {self.t_min} to {self.t_max}")

    @property
    def is_clean(self) -> bool:
        """Whether the network's function is the clean one at every level."""
        return self.parametrization == "clean"

    @property
    def anchor(self) -> float:
        """The level below which the data are the target."""
        if self.anchor_below is not None:
            return self.anchor_below
        return ANCHOR_BELOW if self.is_clean else self.t_min

    @property
    def loss_weight(self) -> Weight:
        """The weight of a set's loss."""
        return self.weight or ("output" if self.is_clean else "gap")

    @property
    def share_reconstructed(self) -> float:
        """Share of the sets with a level below `reconstruction_below`."""
        return (0.125 if self.is_clean else 0.0) if self.reconstruction_share is None else self.reconstruction_share

    @property
    def coordinate_jitter(self) -> float:
        """Deviation of the jitter, in halves of a pixel."""
        return (JITTER if self.is_clean else 0.0) if self.jitter is None else self.jitter


@dataclass(frozen=True)
class SamplingConfig:
    """Settings of `[method]` that a command can change when it samples."""

    steps: int
    """Evaluations of the hyper-network for a sample: 1 or 2."""
    second_step: float
    """Level of the noise before the second step."""

    def __post_init__(self) -> None:
        if self.steps not in (1, 2):
            raise ValueError(f"`steps` is {self.steps}: a consistency model takes 1 or 2")


@dataclass(frozen=True)
class SamplingOptions:
    """The settings of one sampling."""

    steps: int
    second_step: float
    precision: str = "fp32"
    guide: None = None

    @property
    def num_evaluations(self) -> int:
        """Evaluations of the hyper-network for one sample."""
        return self.steps

    def provenance(self, guide_digest: str | None = None) -> dict[str, str]:
        """The options as text, for the files of the samples."""
        second = {"second_step": str(self.second_step)} if self.steps > 1 else {}
        return {"steps": str(self.steps), **second, "precision": self.precision}


def sampling_options(
    model: Model, overrides: Mapping[str, Any], *, sampler: None, guide: Any, precision: str
) -> SamplingOptions:
    """The preset's settings with `overrides` in their place.

    Raises:
        UsageError: a setting out of range, or a guide.
    """
    if guide is not None:
        raise UsageError("a consistency model samples without guidance", hint="leave `--guide-run` out")
    config = model.preset.method.config
    if overrides.get("steps") not in (None, 1, 2):
        raise UsageError(
            f"{overrides['steps']} steps: a consistency model takes 1 or 2", hint="take `--steps 1` or `--steps 2`"
        )
    values = {"steps": config.steps, "second_step": config.second_step, **overrides}
    changed = settings(SamplingConfig, values, "method")
    if not config.t_min <= changed.second_step <= config.t_max:
        raise UsageError(
            f"`second_step` is {changed.second_step}: from {config.t_min} to {config.t_max}",
            hint="leave it out to take the preset's",
        )
    return SamplingOptions(changed.steps, changed.second_step, precision)
