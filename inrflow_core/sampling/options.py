"""Sampling options of a model: sampler, guidance and precision, checked against what the model can do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from inrflow_core import registry
from inrflow_core.config.typed import settings
from inrflow_core.errors import UsageError, did_you_mean
from inrflow_core.models import Model

PRECISIONS = ("fp32", "bf16")


def sampling_options(
    model: Model,
    *,
    sampler: str | None = None,
    steps: int | None = None,
    sampler_settings: Mapping[str, Any] | None = None,
    guide: Model | None = None,
    precision: str = "fp32",
    **method_settings: Any,
) -> Any:
    """How to draw: the preset's sampler and guidance, with what is given in their place.

    Args:
        sampler: another solver's name; its settings are then its defaults.
        steps: solver steps, for solvers that take a number of steps.
        sampler_settings: further settings of the sampler by name; the others stay the preset's, or that sampler's defaults.
        guide: a second model to guide with (autoguidance).
        method_settings: `guidance`, `guidance_interval`, `noise`; None keeps the preset's.

    Raises:
        UsageError: an unknown sampler or precision, or a setting that the sampler does not have.
    """
    part = model.preset.sampler
    config = part.config
    name = part.name
    if sampler is not None and sampler.replace("-", "_") != name.replace("-", "_"):
        name, config = sampler, settings(registry.find("samplers", sampler).Config, {}, "sampler")
    if steps is not None:
        if not hasattr(config, "steps"):
            raise UsageError(
                f"the sampler `{name}` chooses its own steps", hint="leave `--steps` out, or choose `--sampler euler`"
            )
        config = replace(config, steps=steps)
    if sampler_settings:
        kept = {key: value for key, value in vars(config).items() if value is not None}
        config = settings(type(config), {**kept, **sampler_settings}, "sampler")
    given = {key: value for key, value in method_settings.items() if value is not None}
    method = model.preset.method.module
    own = {key: value for key, value in vars(model.preset.method.config).items() if value is not None}
    wanted = settings(method.Config, {**own, **given}, "method")
    if precision not in PRECISIONS:
        raise UsageError(f"nothing is computed in `{precision}`", hint=did_you_mean(precision, PRECISIONS))
    _check_guidance(model, guide, wanted.guidance, is_asked=given.get("guidance") is not None)
    return method.SamplingOptions(
        sampler=registry.find("samplers", name),
        config=config,
        guidance=wanted.guidance,
        interval=wanted.guidance_interval,
        noise=wanted.noise,
        guide=None if guide is None else guide.method.velocity_model(),
        precision=precision,
    )


def _check_guidance(model: Model, guide: Model | None, scale: float, *, is_asked: bool) -> None:
    """What is asked for must be able to act: a scale needs classes or a guide, and a guide needs a scale."""
    if guide is None:
        if is_asked and scale != 1 and not model.method.is_guidable:
            raise UsageError(
                f"guidance {scale:g}: the model `{model.preset.name}` never learned without a condition, so that nothing "
                f"guides it",
                hint="leave `--guidance` out, or name a weaker run with `--guide`",
            )
        return
    if scale == 1:
        raise UsageError(
            f"the guide `{guide.preset.name}` changes nothing with guidance 1",
            hint="add a scale, as in `--guidance 1.5`",
        )
    _check_guide(model, guide)


def _check_guide(model: Model, guide: Model) -> None:
    for table in ("domain", "condition"):
        if getattr(model.preset, table) != getattr(guide.preset, table):
            raise UsageError(
                f"the guide `{guide.preset.name}` has another [{table}] than the model `{model.preset.name}`",
                hint="autoguidance needs two runs on the same data",
            )
    if model.domain.shape != guide.domain.shape or model.method.config.path != guide.method.config.path:
        raise UsageError(
            "the guide sees other sets or another path than the model",
            hint="guide with a smaller or earlier run of the same data",
        )
