"""Captions of solids by their true proportions: `a tall cone`, `a low wide table`.

Proportions are those of the body before its turn about the up axis: `height` is its height over its longer horizontal side,
`rise` its height over its shorter one, `width` its shorter horizontal side over its longer one. Between the two thresholds of a
class there is no word; each word applies to about a third of the class.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float64

NUM = 3
"""Captions of a solid, at most."""


class Proportion(NamedTuple):
    """A proportion of a class, and its words below and above its thresholds."""

    of: Literal["height", "rise", "width"]
    low: float
    low_word: str
    high: float
    high_word: str


PROPORTIONS: dict[str, tuple[Proportion, ...]] = {
    "arrow": (Proportion("height", 1.9, "thick", 2.3, "thin"),),
    "ball": (),
    "box": (Proportion("height", 0.7, "flat", 1.0, "tall"), Proportion("width", 0.7, "narrow", 0.86, "wide")),
    "cone": (Proportion("height", 0.86, "flat", 1.03, "tall"),),
    "cylinder": (Proportion("height", 1.55, "short", 1.9, "tall"),),
    "dumbbell": (Proportion("height", 0.277, "thin", 0.301, "thick"),),
    "table": (Proportion("rise", 1.0, "low", 1.13, "tall"), Proportion("width", 0.6, "narrow", 0.74, "wide")),
    "torus": (Proportion("height", 0.167, "thin", 0.2, "thick"),),
}
"""By class. The heights of a cone over its diameter are from 0.7 to 1.2, those of a torus from 0.13 to 0.23."""


def proportion_words(name: str, sides: Float64[np.ndarray, " 3"]) -> list[str]:
    """The words that apply to a solid of a class, by its sides along x, y and z, which is up; height first."""
    longer, shorter = max(sides[:2]), min(sides[:2])
    ratios = {"height": sides[2] / longer, "rise": sides[2] / shorter, "width": shorter / longer}
    words = []
    for rule in PROPORTIONS[name]:
        ratio = ratios[rule.of]
        words += [rule.low_word] if ratio < rule.low else [rule.high_word] if ratio > rule.high else []
    return words


def captions(name: str, sides: Float64[np.ndarray, " 3"]) -> list[str]:
    """Texts of a solid: `a low wide table`, `table, wide and low`, and `a table`; without words `a table` and `table`."""
    words = proportion_words(name, sides)
    article = "an" if (words or [name])[0][0] in "aeiou" else "a"
    bare = f"{'an' if name[0] in 'aeiou' else 'a'} {name}"
    after = ", ".join([name, *([" and ".join(words[::-1])] if words else [])])
    return list(dict.fromkeys([" ".join([article, *words, name]), after, bare]))
