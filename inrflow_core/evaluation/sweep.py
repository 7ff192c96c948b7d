"""Sweeps of sampling settings: each run is sampled and evaluated with every combination of some values.

The samples of all combinations have the same seeds, so that differences between them are those of the settings.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from inrflow_core.config.preset import NONE
from inrflow_core.config.toml import parse_value
from inrflow_core.errors import UsageError, did_you_mean
from inrflow_core.evaluation.metric_specs import MetricSpec
from inrflow_core.evaluation.sampling_plan import EvaluatedModel, SamplingSettings, SamplingWork, load_model, run_name
from inrflow_core.runs.run import resolve_weights

MOST = 200
"""Most combinations of a sweep."""
OF_GUIDANCE = ("guidance-interval", "guide-run")
"""What changes nothing where the scale of guidance is 1."""
OF_NAMES = ("guide-run", "sampler")
"""Settings whose values are names, also `1e3`."""
TABLES = ("sampler", "method")
Values = Mapping[str, Any]
"""One value of each setting in a sweep; None is the preset's."""


@dataclass(frozen=True)
class Sweep:
    """Values to try of one setting."""

    setting: str
    """`guidance`, `guidance-interval`, `guide-run`, `sampler` or `steps`, or a setting as after `--set`: `sampler.KEY`, `method.KEY`."""
    values: tuple[Any, ...]
    """None is the preset's value."""


def parse(text: str) -> Sweep:
    """A sweep from `steps=10,20`, the values as in TOML or bare words: `guidance-interval=[0.1, 0.9],none`.

    Raises:
        UsageError: the text is none, or names a setting that has no sweep.
    """
    name, equals, listed = text.partition("=")
    name = name.strip()
    texts = [part.strip() for part in _split(listed)]
    if not equals or not all(texts):
        raise UsageError(f"`--sweep {text}` has no values", hint="write NAME=VALUE,VALUE, as in `--sweep steps=10,20`")
    table, dot, key = name.partition(".")
    if name not in SETTERS and not (dot and key and table in TABLES):
        raise UsageError(
            f"`--sweep` cannot change `{name}`",
            hint=did_you_mean(name, [*SETTERS, *(f"{table}.KEY" for table in TABLES)]),
        )
    values = [None if word == NONE else word if name in OF_NAMES else parse_value(word) for word in texts]
    if any(value in values[:index] for index, value in enumerate(values)):
        raise UsageError(f"`--sweep {text}` repeats a value", hint="leave it out")
    return Sweep(name, tuple(values))


def points(sweeps: Sequence[Sweep], settings: SamplingSettings) -> list[tuple[str, SamplingSettings]]:
    """Every combination of the values by its name, as in `guidance=2, steps=10`, with the settings of its samples.

    An interval of guidance and a guide are left out where the scale is 1, and equal combinations are one.

    Raises:
        UsageError: a setting is there twice, also in `settings`; a value cannot be; there are more than `MOST`.
    """
    names = [sweep.setting for sweep in sweeps]
    own_names = [name.removeprefix("method.").removeprefix("sampler.").replace("-", "_") for name in names]
    for name, own in zip(names, own_names, strict=True):
        if own_names.count(own) > 1 or _is_set(name, settings):
            raise UsageError(f"`{name}` is set twice", hint="name its values in one `--sweep` and nowhere else")
    combined = dict[str, tuple[str, SamplingSettings]]()
    for values in itertools.product(*(sweep.values for sweep in sweeps)):
        point = dict(zip(names, values, strict=True))
        if point.get("guidance", settings.method_settings.get("guidance")) == 1:
            point = {name: value for name, value in point.items() if name not in OF_GUIDANCE}
        shown = {key: run_name(Path(value)) if key == "guide-run" and value else value for key, value in point.items()}
        name = ", ".join(f"{key}={_text(value)}" for key, value in shown.items())
        combined[str(point)] = name.replace("/", "-"), _applied(point, settings)  # the name becomes that of a file
    if len(combined) > MOST:
        raise UsageError(f"the sweep has {len(combined):,} combinations, at most {MOST}", hint="name fewer values")
    return list(combined.values())


def combined(
    targets: Sequence[EvaluatedModel], sweeps: Sequence[Sweep], settings: SamplingSettings
) -> list[EvaluatedModel]:
    """Every target with every combination, in the name of which a single target's own is left out; raises as `points`."""
    combinations = points(sweeps, settings)
    several = len(targets) > 1
    return [
        replace(
            target,
            name=f"{target.name}, {name}" if several else name,
            run=f"{target.run}, {name}" if several else name,
            sampling=sampling,
            label=None if target.label is None else f"{target.label}, {name}",
            run_label=None if target.run_label is None else f"{target.run_label}, {name}",
        )
        for target in targets
        for name, sampling in combinations
    ]


def check_metrics(metrics: Sequence[MetricSpec]) -> None:
    """Raise UsageError for a metric of what a run encodes: how it samples does not change it."""
    for metric in metrics:
        if metric.inputs.matched_by == "reconstruction":
            raise UsageError(
                f"`{metric.full}` compares what a run encodes, which no setting of a sweep changes",
                hint="leave the metric out, or evaluate it without `--sweep`",
            )


def check(targets: Sequence[EvaluatedModel], work: SamplingWork) -> None:
    """Raise UsageError for a combination that a run cannot be sampled with, before anything is sampled."""
    for _, group in itertools.groupby(targets, key=lambda target: target.weights):
        first, *others = group
        if first.sampling is None:
            continue
        model = load_model(first, work)
        for target in (first, *others):
            try:
                work.of(target).sampling.options(model)
            except UsageError as error:
                raise UsageError(f"`{target.name}`: {error.message}", hint=error.hint) from error


def _split(text: str) -> list[str]:
    """The parts between commas that are in no brackets."""
    parts, depth = [""], 0
    for letter in text:
        depth += {"[": 1, "]": -1}.get(letter, 0)
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return parts


def _is_set(name: str, settings: SamplingSettings) -> bool:
    table, _, key = name.partition(".")
    if name in ("guidance", "guidance-interval") or table == "method":
        return (key or name).replace("-", "_") in settings.method_settings
    if key:
        return key in settings.sampler_settings
    return getattr(settings, {"guide-run": "guide"}.get(name, name)) is not None


def _applied(point: Values, settings: SamplingSettings) -> SamplingSettings:
    """The settings with a combination's values; at guidance 1 no guide and no interval, also none of `settings`."""
    for name, value in point.items():
        if value is None:
            continue
        table, _, key = name.partition(".")
        if name in SETTERS:
            settings = SETTERS[name](settings, value)
        elif table == "sampler":
            settings = replace(settings, sampler_settings={**settings.sampler_settings, key: value})
        else:
            settings = _with_method(settings, key, value)
    if settings.method_settings.get("guidance") == 1:
        method = {key: value for key, value in settings.method_settings.items() if key != "guidance_interval"}
        settings = replace(settings, guide=None, method_settings=method)
    return settings


def _with_method(settings: SamplingSettings, key: str, value: Any) -> SamplingSettings:
    return replace(settings, method_settings={**settings.method_settings, key: value})


def _with_steps(settings: SamplingSettings, value: Any) -> SamplingSettings:
    if type(value) is not int or value < 1:
        raise UsageError(f"`--sweep steps={_text(value)}`: steps are whole numbers from 1 on")
    return replace(settings, steps=value)


SETTERS: Mapping[str, Callable[[SamplingSettings, Any], SamplingSettings]] = {
    "guidance": lambda settings, value: _with_method(settings, "guidance", value),
    "guidance-interval": lambda settings, value: _with_method(settings, "guidance_interval", value),
    "guide-run": lambda settings, value: replace(settings, guide=resolve_weights(Path(str(value)))),
    "sampler": lambda settings, value: replace(settings, sampler=str(value)),
    "steps": _with_steps,
}
"""Settings with a name of their own, and how each is changed."""


def _text(value: Any) -> str:
    if isinstance(value, list):
        return "-".join(_text(item) for item in value)
    return NONE if value is None else f"{value:g}" if isinstance(value, float) else str(value)
