"""Sampling options of a model: its sampler and precision, and whatever its method adds to them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from inrflow_core import registry
from inrflow_core.config.preset import Part, Preset
from inrflow_core.config.typed import settings
from inrflow_core.errors import UsageError, did_you_mean
from inrflow_core.models import Model, SamplingOptions
from inrflow_core.sampling.python_inputs import option_hint

PRECISIONS = ("fp32", "bf16")


def sampling_options(
    model: Model,
    *,
    sampler: str | None = None,
    steps: int | None = None,
    sampler_settings: Mapping[str, Any] | None = None,
    method_settings: Mapping[str, Any] | None = None,
    guide: Model | None = None,
    precision: str = "fp32",
    **own: Any,
) -> SamplingOptions:
    """The sampling options of a model: its preset's settings, overridden by the arguments.

    Args:
        sampler: another solver's name; it then has its default settings.
        steps: solver steps, for solvers that take a number of steps.
        sampler_settings: further settings of the sampler by name. Default: the preset's, or another sampler's defaults.
        method_settings: settings of the method's `SamplingConfig` by name, such as `guidance`. Default: the preset's.
        guide: a second model to guide with (autoguidance).
        own: further settings of the method's `SamplingConfig`, as keywords; None keeps the preset's.

    Raises:
        UsageError: an unknown sampler or precision, or a setting that the sampler or the method does not have.
    """
    method = model.preset.method
    known = option_names(model.preset)
    if steps is not None and model.preset.sampler is None and "steps" in known:  # an option of the method
        method_settings, steps = {"steps": steps, **(method_settings or {})}, None
    part = _sampler(model, sampler, steps, sampler_settings or {})
    overrides = {**(method_settings or {}), **{key: value for key, value in own.items() if value is not None}}
    for name in overrides:
        if name not in known:
            raise UsageError(
                f"the method `{method.name}` of `{model.name}` has no sampling option `{name}`",
                hint=option_hint(name, known, part),
            )
    if precision not in PRECISIONS:
        raise UsageError(f"unknown precision `{precision}`", hint=did_you_mean(precision, PRECISIONS))
    return method.module.sampling_options(model, overrides, sampler=part, guide=guide, precision=precision)


def options_for_labels(model: Model, labels: Sequence[int] | None, **settings: Any) -> SamplingOptions:
    """`sampling_options` with these settings for samples of these labels, -1 for none.

    Where no sample has a class, both velocities of classifier-free guidance are the same, and the preset's guidance is off.

    Raises:
        UsageError: as `sampling_options`, or a scale of guidance for samples without a class.
    """
    has_class = labels is None or max(labels, default=0) >= 0
    if has_class or settings.get("guide") is not None or "guidance" not in option_names(model.preset):
        return sampling_options(model, **settings)
    scale = {**(settings.get("method_settings") or {}), **settings}.get("guidance")
    if scale is not None and scale != 1:
        raise UsageError(
            f"guidance {scale:g} of samples without a class: there is no class to guide to",
            hint="leave `--guidance` out, choose a class with `--label`, or name a weaker run with `--guide-run`",
        )
    return sampling_options(model, **{**settings, "guidance": 1.0})


def option_names(preset: Preset) -> list[str]:
    """The sampling options that a preset's method has beside sampler and precision."""
    return [f.name for f in dataclasses.fields(preset.method.module.SamplingConfig)]


def _sampler(model: Model, name: str | None, steps: int | None, changes: Mapping[str, Any]) -> Part | None:
    """The preset's sampler, or another one, with settings changed; None where the method samples without one."""
    part = model.preset.sampler
    if part is None:
        for option, value in (("sampler", name), ("steps", steps), ("set sampler", changes or None)):
            if value is not None:
                raise UsageError(
                    f"`--{option}`: the method `{model.preset.method.name}` of `{model.name}` samples without a sampler",
                    hint="leave it out",
                )
        return None
    if name is not None and registry.canonical("samplers", name) != part.name:
        part = Part.from_table("samplers", name, {}, "sampler")
    if steps is not None and not hasattr(part.config, "steps"):
        raise UsageError(
            f"the sampler `{part.name}` chooses its own steps", hint="leave `--steps` out, or choose `--sampler euler`"
        )
    changed = {**changes} if steps is None else {"steps": steps, **changes}
    if not changed:
        return part
    current = {key: value for key, value in vars(part.config).items() if value is not None}
    return dataclasses.replace(part, config=settings(type(part.config), current | changed, "sampler"))
