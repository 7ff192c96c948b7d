"""What Python callers pass: classes by number or name, sizes in several forms, options by keyword."""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import numpy as np

from inrflow_core import registry
from inrflow_core.config.preset import Part
from inrflow_core.domains._contract import HasFrames
from inrflow_core.errors import UsageError, did_you_mean
from inrflow_core.fields import Clip, Orbit, Surface
from inrflow_core.models import Model
from inrflow_core.sampling.labels import ALL, UNIFORM, check_labels, resolve_labels

Labels = Sequence[int | str] | np.ndarray | str
"""Classes: one per seed, by number or name, or a text as of `--label`."""


def class_numbers(model: Model, seeds: Sequence[int], labels: Labels | None) -> list[int] | None:
    """One class number per seed, -1 for none, from numbers or names, or from a text that `resolve_labels` takes.

    Raises:
        UsageError: as `resolve_labels` and `check_labels`.
    """
    if isinstance(labels, str):
        return resolve_labels(model, seeds, labels)
    if labels is not None and hasattr(labels, "__iter__") and any(isinstance(label, str) for label in labels):
        labels = [class_number(model, label) for label in labels]
    check_labels(model, labels, len(seeds))
    return None if labels is None else [int(label) for label in labels]


def class_number(model: Model, label: int | str) -> int:
    """The number of one class that may be named, -1 of `none`.

    Raises:
        UsageError: the model does not have a class of that name, or the text is of several.
    """
    if not isinstance(label, str):
        return label
    if "," in label or label in (ALL, UNIFORM):
        raise UsageError(f"the class {label!r} is not one class", hint="give one, by number or name")
    resolved = resolve_labels(model, [0], label)
    return -1 if resolved is None else resolved[0]


def check_size(domain: Any, size: Any) -> Any:
    """A size that a Python user passes, with lists and arrays as tuples and whole numbers of NumPy and torch as int.

    Raises:
        UsageError: samples of the domain have no such size.
    """
    if size is None or isinstance(size, Surface):  # `sample.evaluate` says which samples have a mesh
        return size
    if isinstance(size, Orbit | Clip):
        if domain.HAS_CAMERAS if isinstance(size, Orbit) else isinstance(domain, HasFrames):
            return size
        raise UsageError(f"the size {size}: the model samples {domain.NOUN}", hint="leave it out")
    has_sides = isinstance(size, list | tuple) or getattr(size, "ndim", 0) > 0
    sides = [_whole_number(side) for side in (size if has_sides else (size,))]
    is_grid = domain.SIZE_OPTION == "--resolution"
    if None not in sides and domain.SIZE_OPTION:
        if not has_sides:
            return sides[0]
        if is_grid and len(sides) == 2:
            return tuple(sides)
    expected = "give rows and columns, as in (96, 96)" if is_grid else "give a number of points, as in 2048"
    raise UsageError(
        f"the size {size!r} is not one of {domain.NOUN}", hint=expected if domain.SIZE_OPTION else "leave it out"
    )


def _whole_number(value: Any) -> int | None:
    """A whole number of Python, NumPy or torch; None of anything else, as of an array of several."""
    try:
        return None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        return None


def option_hint(name: str, known: Sequence[str], sampler: Part | None) -> str:
    """What to write for an option that the method does not have: a setting of the sampler, of another one, or a near name."""
    if sampler is None:
        return did_you_mean(name, known) if known else "leave it out: the method has none"
    own = _setting_names(sampler.module)
    if name in own:
        return f'it is a setting of the sampler `{sampler.name}`: `sampler_settings={{"{name}": ...}}` (`--set sampler.{name}=...`)'
    others = [other for other, part in registry.parts("samplers").items() if name in _setting_names(part)]
    if others:
        return f"it is a setting of {', '.join(f'`{other}`' for other in others)}, and the sampler is `{sampler.name}`"
    hint = did_you_mean(name, [*known, *own])
    if not hint.startswith("allowed"):
        return hint
    of_sampler = ", ".join(f"`{key}`" for key in own)
    return f"{did_you_mean(name, known)}; settings of the sampler `{sampler.name}`: {of_sampler}"


def _setting_names(sampler: ModuleType) -> list[str]:
    """The settings of a sampler."""
    return [field.name for field in dataclasses.fields(sampler.Config)]
