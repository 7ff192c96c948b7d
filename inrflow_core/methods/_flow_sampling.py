"""Sampling options of flow matching: its own settings, the sampler and guidance, checked against the model."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Literal

from inrflow_core.config.preset import Part
from inrflow_core.config.typed import settings
from inrflow_core.errors import UsageError
from inrflow_core.models import Model
from inrflow_core.numerics import solver


@dataclass(frozen=True)
class SamplingConfig:
    """Settings of `[method]` that a command can change when it samples; the preset's are the defaults."""

    guidance: float
    """Scale of guidance; 1 is none."""
    guidance_interval: tuple[float, ...]
    """Times between which guidance acts."""
    noise: Literal["linear", "cubic", "independent"]
    """Interpolation of the noise between training positions."""

    def __post_init__(self) -> None:
        check_guidance(self.guidance, self.guidance_interval)


@dataclass(frozen=True)
class SamplingOptions:
    """How flow matching samples: the solver with its settings, and guidance.

    With a `guide`, the second velocity is that model's under the same condition (autoguidance, Karras et al. 2024,
    arXiv:2406.02507); without, it is this model's without condition (classifier-free guidance).
    """

    sampler: ModuleType
    config: Any
    guidance: float = 1.0
    interval: tuple[float, ...] = (0.0, 1.0)
    noise: str = "linear"
    guide: Any = None
    """The model of the second velocity: a `VelocityModel`, or of latent diffusion a `LatentDiffusion`."""
    precision: Literal["fp32", "bf16"] = "fp32"

    @property
    def num_evaluations(self) -> int:
        """Evaluations of the network for one sample; of an adaptive solver, about as many."""
        return solver.num_function_evaluations(self.sampler, self.config)

    def provenance(self, guide_digest: str | None = None) -> dict[str, str]:
        """The options as text, for the files of the samples."""
        config_text = " ".join(
            f"{key}={value}" for key, value in sorted(vars(self.config).items()) if value is not None
        )
        texts = {
            "sampler": f"{self.sampler.__name__.rpartition('.')[2]} {config_text}".strip(),
            "guidance": f"{self.guidance:g}",
            "noise": self.noise,
            "precision": self.precision,
        }
        if guide_digest is not None:
            texts["guide"] = guide_digest
        if tuple(self.interval) != (0.0, 1.0):
            texts["guidance_interval"] = ",".join(f"{end:g}" for end in self.interval)
        return texts


def sampling_options(
    model: Model, overrides: Mapping[str, Any], *, sampler: Part | None, guide: Model | None, precision: str
) -> SamplingOptions:
    """The preset's sampling settings, replaced by `overrides`; see `models.SamplingOptions`.

    Raises:
        UsageError: a setting is out of range, guidance cannot act, or the guide was trained with another coupling.
    """
    assert sampler is not None, "[sampler] is required where USES_SAMPLER = True"
    own = vars(model.preset.method.config)
    values = {f.name: own[f.name] for f in dataclasses.fields(SamplingConfig)} | dict(overrides)
    config = settings(SamplingConfig, values, "method")
    scale, interval = acting_guidance(model, sampler, guide, config, overrides)
    if guide is not None and guide.method.config.coupling != own["coupling"]:
        raise UsageError(
            f"the guide was trained with `coupling` `{guide.method.config.coupling}`, the model with `{own['coupling']}`: their "
            "velocities are those of different paths",
            hint="guide with a smaller or earlier run of the same settings",
        )
    assert precision == "fp32" or precision == "bf16"
    return SamplingOptions(
        sampler=sampler.module,
        config=sampler.config,
        guidance=scale,
        interval=interval,
        noise=config.noise,
        guide=None if guide is None else guide.method.velocity_model(),
        precision=precision,
    )


def acting_guidance(
    model: Model, sampler: Part, guide: Model | None, config: Any, overrides: Mapping[str, Any]
) -> tuple[float, tuple[float, ...]]:
    """Scale and interval of the guidance that acts: 1 where nothing guides a model, or no step of the sampler is in the interval.

    Args:
        config: has `guidance` and `guidance_interval`, with `overrides` in the place of the preset's settings.

    Raises:
        UsageError: guidance is requested and cannot act.
    """
    _check_guide(model, guide, config.guidance, is_requested="guidance" in overrides)
    acts = config.guidance != 1 and (guide is not None or model.method.is_guidable)
    if not acts and "guidance_interval" in overrides:
        raise UsageError(
            f"a guidance interval without guidance: nothing guides `{model.name}` here",
            hint="leave the interval out, or add a scale, as in `--guidance 1.5`",
        )
    if acts and not _reaches_interval(model, sampler, config.guidance_interval):
        if overrides.get("guidance_interval") is not None or overrides.get("guidance") is not None:
            low, high = config.guidance_interval
            raise UsageError(
                f"guidance between the times {low:g} and {high:g} never acts: `{sampler.name}` has no step there",
                hint="take more `--steps` or a wider `--guidance-interval`",
            )
        acts = False
    return (config.guidance, config.guidance_interval) if acts else (1.0, (0.0, 1.0))


def _reaches_interval(model: Model, sampler: Part, interval: tuple[float, ...]) -> bool:
    """Whether the velocity is evaluated at a time in the interval; assumed of an adaptive sampler."""
    if tuple(interval) == (0.0, 1.0) or sampler.module.IS_ADAPTIVE:
        return True
    times = solver.evaluation_times(sampler.module, sampler.config, model.method.path)
    return any(interval[0] <= t <= interval[1] for t in times)


def check_guidance(guidance: float, interval: tuple[float, ...]) -> None:
    """Raise ValueError unless the scale and the interval of guidance are valid."""
    low, high = interval if len(interval) == 2 else (1.0, 0.0)
    if not 0.0 <= low < high <= 1.0:
        raise ValueError(f"`guidance_interval` is {list(interval)}: two times, as in [0.0, 1.0]")
    if not 0 <= guidance < math.inf:
        raise ValueError(f"`guidance` is {guidance}: 0 or more, 1 is none")


def _check_guide(model: Model, guide: Model | None, scale: float, *, is_requested: bool) -> None:
    """Raise UsageError unless guidance can act: a scale needs a condition or a guide, and a guide needs a scale."""
    if guide is None:
        if is_requested and scale != 1 and not model.method.is_guidable:
            raise UsageError(
                f"guidance {scale:g}: the model `{model.name}` never learned without a condition, so that nothing "
                f"guides it",
                hint="leave `--guidance` out, or name a weaker run with `--guide-run`",
            )
        return
    if scale == 1:
        raise UsageError(
            f"the guide `{guide.name}` changes nothing with guidance 1",
            hint="add a scale, as in `--guidance 1.5`",
        )
    for table in ("domain", "condition"):
        if getattr(model.preset, table) != getattr(guide.preset, table):
            raise UsageError(
                f"the guide `{guide.name}` has another [{table}] than the model `{model.name}`",
                hint="autoguidance needs two runs on the same data",
            )
    if model.domain.shape != guide.domain.shape or model.method.config.path != guide.method.config.path:
        raise UsageError(
            "the guide sees other sets or another path than the model",
            hint="guide with a smaller or earlier run of the same data",
        )
