"""Class labels of samples: names and numbers as a user writes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from inrflow_core.errors import UsageError, did_you_mean
from inrflow_core.models import Model
from inrflow_core.numerics import keyed_random
from inrflow_core.sampling.request import check_seeds

NO_CLASS = "none"
"""Requests samples without a class."""
ALL = "all"
"""Requests each class in turn."""
UNIFORM = "uniform"
"""Requests random classes, all equally likely."""


def resolve_labels(
    model: Model,
    seeds: Sequence[int],
    requested: str | None = None,
    reference_counts: Mapping[str, int] | None = None,
) -> list[int] | None:
    """One class per seed, or None for a model without classes.

    `requested` is a class's number or name, several with commas, `all`, `none` or `uniform`; a seed takes class number `seed`
    modulo their count. Without it a seed has a random class, with the frequencies of `reference_counts` (items of each class of
    the data that samples are compared with) where they apply (`class_frequencies`), else uniform.

    Raises:
        UsageError: the model has no such class, or a seed is not a whole number from 0 to 2^63 - 1.
    """
    if not hasattr(seeds, "__len__") or len(seeds):
        check_seeds(seeds)
    if not isinstance(requested, str | None):
        raise UsageError(f"the class {requested!r} is not a text", hint='write numbers as text too, as in "3" or "0,1"')
    part = model.preset.condition
    count = None if part is None else part.module.num_classes(part.config)
    if count is None:
        if requested not in (None, NO_CLASS):
            raise UsageError(
                f"`--label {requested}`: the model `{model.name}` was trained without classes",
                hint="leave `--label` out",
            )
        return None
    if requested in (None, UNIFORM):
        u = keyed_random.uniform(torch.tensor(list(seeds), dtype=torch.int64), purpose="label")[:, 0]
        frequencies = class_frequencies(model, reference_counts or {}) if requested is None else None
        if frequencies is None:
            return (u * count).long().tolist()
        edges = torch.tensor(frequencies, dtype=torch.float64).cumsum(0)
        return torch.searchsorted(edges / edges[-1], u.double().contiguous(), right=True).clamp(max=count - 1).tolist()
    if requested == NO_CLASS:
        check_labels(model, [-1], 1)
        return [-1] * len(seeds)
    names = list(model.metadata.get("classes") or [])
    classes = (
        list(range(count))
        if requested == ALL
        else [_label(text.strip(), names, count) for text in requested.split(",")]
    )
    return [classes[seed % len(classes)] for seed in seeds]


def check_labels(model: Model, labels: Any, count: int) -> None:
    """Raise UsageError unless these are `count` classes of the model, -1 for none; None for a model without classes."""
    part = model.preset.condition
    classes = None if part is None else part.module.num_classes(part.config)
    if (labels is None) != (classes is None):
        has = "was trained without classes" if classes is None else f"has {classes} classes, and no labels are given"
        hint = "leave the labels out" if classes is None else 'give one per seed, by number or name, or "uniform"'
        raise UsageError(f"the model `{model.name}` {has}", hint=hint)
    if labels is None or part is None or classes is None:
        return
    if not hasattr(labels, "__len__"):
        raise UsageError(f"the labels {labels!r} are not a list of numbers", hint="give one label per seed")
    if len(labels) != count:
        raise UsageError(f"{len(labels)} labels for {count} seeds", hint="give one label per seed")
    for label in labels:
        if isinstance(label, bool | str) or not hasattr(label, "__index__"):
            raise UsageError(
                f"the label {label!r} is not a whole number", hint="`resolve_labels` makes class numbers from names"
            )
        if not -1 <= int(label) < classes:
            raise UsageError(
                f"the label {int(label)}: the model has {classes} classes",
                hint=f"give numbers from 0 to {classes - 1}, or -1 for none",
            )
        if int(label) == -1 and part.config.dropout == 0:
            raise UsageError(
                f"the model `{model.name}` never learned to sample without a class: its `dropout` is 0",
                hint="give a class",
            )


def class_frequencies(model: Model, counts: Mapping[str, int]) -> list[float] | None:
    """Each class's share of items of these counts; None unless all are classes of the model, by name, and not equally frequent."""
    names = list(model.metadata.get("classes") or [])
    if not counts or not set(counts) <= set(names):
        return None
    numbers = [counts.get(name, 0) for name in names]
    return None if len(set(numbers)) == 1 else [number / sum(numbers) for number in numbers]


def _label(text: str, names: list[str], count: int) -> int:
    if text in names:
        return names.index(text)
    if text.isascii() and text.isdigit():
        if int(text) < count:
            return int(text)
        raise UsageError(
            f"`--label {text}`: the model has {count} classes", hint=f"give a number from 0 to {count - 1}"
        )
    hint = did_you_mean(text, names, listed=12) if names else f"give a number from 0 to {count - 1}"
    raise UsageError(f"`--label {text}`: the model has no class of that name", hint=hint)
