"""What a page requests, from the parameters of an address: which function, and where it is evaluated."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from inrflow_core.config.training import LAST_SEED
from inrflow_core.errors import UsageError, did_you_mean
from inrflow_core.fields import Camera

MOST_STEPS = 1000
"""Solver steps of one sample, at most: the papers' presets have 500."""
MOST_RESIDUES = 1024
"""Letters of a sequence."""
MOST_SAMPLES = 16
"""Proteins of one sequence that are shown together."""
MOST_LETTERS = 200
"""Letters of a class's name."""


@dataclass(frozen=True)
class Selection:
    """One function: a run with its weights, and what it is sampled with. Equal selections are the same function."""

    run: int = 0
    """Its index among the runs of the page."""
    step: int | None = None
    """The checkpoint; None is the newest."""
    ema: float | None = None
    """The decay of the weights' EMA, 0 without; None is the first one."""
    seed: int = 0
    label: str | None = None
    """A class by number or name, or `none`; None is a random one of the seed."""
    guidance: float | None = None
    interval: tuple[float, float] | None = None
    """Times between which guidance acts."""
    guide: tuple[int, int | None] | None = None
    """The index of a run that guides it in place of its own velocity without a class, and that run's checkpoint."""
    sampler: str | None = None
    steps: int | None = None
    """Solver steps; None is the preset's."""
    text: str | None = None
    """What the sample is described by, of a run that is conditioned on texts."""
    sequence: str | None = None
    """The amino acids of a protein."""
    image: str | None = None
    """The name of an image that was dropped on the page: what the run is conditioned on, or what it encodes."""
    camera: Camera | None = None
    """The camera that took that image."""


Parser = Callable[[str, str], Any]
"""A value from the name and the text of a parameter."""


def whole(low: int, high: int) -> Parser:
    """A parser of whole numbers from `low` to `high`."""

    def parse(name: str, text: str) -> int:
        if text.isascii() and text.isdigit() and len(text) < 20 and low <= int(text) <= high:
            return int(text)
        raise UsageError(f"`{name}={_short(text)}`", hint=f"give a whole number from {low} to {high}")

    return parse


def number(low: float, high: float) -> Parser:
    """A parser of numbers from `low` to `high`."""

    def parse(name: str, text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if low <= value <= high:
            return value
        raise UsageError(f"`{name}={_short(text)}`", hint=f"give a number from {low:g} to {high:g}")

    return parse


def word(most: int = MOST_LETTERS) -> Parser:
    """A parser of texts without control characters, of at most `most` letters."""

    def parse(name: str, text: str) -> str:
        if len(text) <= most and not any(unicodedata.category(letter) == "Cc" for letter in text):
            return text
        raise UsageError(f"`{name}={_short(text)}`", hint=f"give at most {most} letters, without control characters")

    return parse


def one_of(*allowed: str) -> Parser:
    """A parser of one of some words."""

    def parse(name: str, text: str) -> str:
        if text in allowed:
            return text
        raise UsageError(f"`{name}={_short(text)}`", hint=did_you_mean(text, allowed))

    return parse


def sides(most: int) -> Parser:
    """A parser of one side, or of rows and columns, as in `64x96`, of at most `most` each; the value is the text."""

    def parse(name: str, text: str) -> str:
        match = re.fullmatch(r"([0-9]{1,9})(?:x([0-9]{1,9}))?", text)
        if match and all(1 <= int(side) <= most for side in match.groups() if side is not None):
            return text
        raise UsageError(
            f"`{name}={_short(text)}`", hint=f"give one side, or rows x columns as in `64x96`, from 1 to {most}"
        )

    return parse


def parse_window(name: str, text: str) -> tuple[float, float, float, float]:
    """Top, left, bottom and right, each from 0 to 1."""
    try:
        numbers = tuple(float(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    if len(numbers) == 4 and 0 <= numbers[0] < numbers[2] <= 1 and 0 <= numbers[1] < numbers[3] <= 1:
        return numbers[0], numbers[1], numbers[2], numbers[3]
    raise UsageError(f"`{name}={_short(text)}`", hint="give top, left, bottom and right, from 0 to 1")


def parse_camera(name: str, text: str) -> Camera:
    """A camera from azimuth, elevation, distance and field of view, of which the last ones may be left out."""
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if 1 <= len(numbers) <= 4 and all(map(math.isfinite, numbers)):
        return Camera(*numbers)
    raise UsageError(
        f"`{name}={_short(text)}`", hint="give azimuth, elevation, distance and field of view, as in `30,20,3.5,40`"
    )


def parse_interval(name: str, text: str) -> tuple[float, float]:
    """Two times from 0 to 1, the lower one first."""
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError:
        low, high = 1.0, 0.0
    if 0 <= low < high <= 1:
        return low, high
    raise UsageError(f"`{name}={_short(text)}`", hint="give two times from 0 to 1, as in `0.1,0.9`")


def parse_guide(name: str, text: str) -> tuple[int, int | None]:
    """The index of a run, and the step of a checkpoint where there is a second number."""
    if re.fullmatch(r"[0-9]{1,5}(,[0-9]{1,15})?", text):
        run, _, step = text.partition(",")
        return int(run), int(step) if step else None
    raise UsageError(f"`{name}={_short(text)}`", hint="give the number of a run, or a run and a step, as in `0,500`")


SELECTION: Mapping[str, Parser] = {
    "run": whole(0, 10_000),
    "step": whole(0, 2**53),
    "ema": number(0, 1),
    "seed": whole(0, LAST_SEED),
    "label": word(),
    "guidance": number(0, 1e6),
    "interval": parse_interval,
    "guide": parse_guide,
    "sampler": word(),
    "steps": whole(1, MOST_STEPS),
    "text": word(1000),
    "sequence": word(MOST_RESIDUES),
    "image": word(64),
    "camera": parse_camera,
}
"""The parameters of `Selection`."""


def parse(items: Iterable[tuple[str, str]], own: Mapping[str, Parser]) -> tuple[Selection, dict[str, Any]]:
    """The selection, and the values of further parameters `own`, which may be absent.

    Raises:
        UsageError: an unknown or repeated parameter, or a value that cannot be.
    """
    parsers = {**SELECTION, **own}
    values: dict[str, Any] = {}
    for name, text in items:
        if name not in parsers:
            raise UsageError(f"there is no parameter `{_short(name)}`", hint=did_you_mean(name, parsers))
        if name in values:
            raise UsageError(f"the parameter `{name}` is repeated", hint="give it once")
        values[name] = parsers[name](name, text)
    return Selection(**{name: values.pop(name) for name in SELECTION if name in values}), values


def required(values: Mapping[str, Any], *names: str) -> list[Any]:
    """The values of parameters; raises UsageError if one is absent."""
    for name in names:
        if name not in values:
            raise UsageError(f"the parameter `{name}` is missing", hint=f"add `{name}=...`")
    return [values[name] for name in names]


def _short(text: str) -> str:
    return text if len(text) <= 60 and text.isprintable() else f"{ascii(text[:60])[1:-1]}..."
