"""Letters and figures of the fonts that come with Matplotlib, slanted, scaled, thickened and shifted at random: nothing to download.

A glyph is an outline, so its image is known at every resolution: each pixel is the share of its area inside the outline, in closed
form (`geometry/outline_coverage.py`). Items do not depend on the resolution: those of 192 px are the truth of those of 24 px, whose
pixels are means of 8 x 8 of theirs.
"""

from __future__ import annotations

import hashlib
import string
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float64

from inrflow_core.datasets import _font_outlines, _image_decoding
from inrflow_core.datasets._contract import DatasetIndex, Example, Item
from inrflow_core.datasets._font_outlines import FAMILIES, Family
from inrflow_core.geometry import outline_coverage
from inrflow_core.numerics import keyed_random

DOMAIN = "image"
DESCRIPTION = "letters and figures of the fonts inside Matplotlib, no source needed -> gray images of any size, 62 classes, train and val"
NEEDS_SOURCE = False
IS_READ_BY_SCAN = False
CHARACTERS = string.digits + string.ascii_uppercase + string.ascii_lowercase
"""The figures come first, so that their names are their numbers."""
HELD_OUT_EVERY = 6
SIZE = 0.85
"""Sides of the image in one em, before the random scale."""
MIDDLE = 0.26
"""Height above the base line, in em, that is in the middle of the image: half way between ascenders and descenders."""
MARGIN = 0.04
"""The least distance of ink from the sides of the image, in sides: a pixel of 24."""
SHEAR, SCALE, STRETCH, SHIFT = 0.15, 0.12, 0.08, 0.06
"""Largest shear (to either side), relative change of size and of width, and shift in sides of the image."""


@dataclass(frozen=True)
class Config:
    """Which characters, of which fonts, how many and how large."""

    resolution: int = 24
    """Rows and columns."""
    items: int = 240
    """Items of each character; every sixth is in the split `val`, the others in `train`."""
    characters: str = CHARACTERS
    """The classes, in this order: letters and figures of ASCII."""
    families: tuple[Family, ...] = tuple(FAMILIES)
    """Families of fonts, each with its regular, bold and slanted ones."""
    seed: int = 0
    """Of the fonts and of how the items differ from them."""

    def __post_init__(self) -> None:
        _image_decoding.check_resolution(self.resolution)
        if self.items < 1:
            raise ValueError(f"`items` is {self.items}: at least 1")
        if not self.characters or not set(self.characters) <= set(CHARACTERS):
            raise ValueError(f"`characters` is `{self.characters}`: some of {CHARACTERS}")
        if len(set(self.characters)) < len(self.characters):
            raise ValueError(f"`characters` is `{self.characters}`: each of them once")
        if not self.families:
            raise ValueError(f"`families` is empty: some of {', '.join(FAMILIES)}")
        for family in self.families:
            if family not in FAMILIES:
                raise ValueError(f"`families` has `{family}`: some of {', '.join(FAMILIES)}")
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"`seed` is {self.seed}: from 0 to 2^63 - 1")


class Glyph(NamedTuple):
    """A character of a font and its random changes, each from -1 to 1 as a share of the largest."""

    font: str
    """Name of the font's file without its suffix."""
    character: str
    shear: float
    """1: the top is shifted to the right by `SHEAR` times its height."""
    scale: float
    """1: larger by the share `SCALE`."""
    stretch: float
    """1: wider by the share `STRETCH`, and as much less high."""
    weight: float
    """1: the thickest strokes, -1 the thinnest; see `_font_outlines.outlines`."""
    down: float
    """1: down by `SHIFT`, or by what the margin leaves."""
    right: float
    """1: to the right by `SHIFT`, or by what the margin leaves."""


def scan(source: Path, config: Config) -> DatasetIndex:
    """The glyphs of all items; `source` is ignored. Raises MissingError where Matplotlib comes without its fonts."""
    files = _font_outlines.font_files(config.families)
    splits: dict[str, list[Item]] = {"train": [], "val": []}
    for label, character in enumerate(config.characters):
        seeds = keyed_random.derive_seeds(config.seed, ord(character), torch.arange(config.items))
        for number, row in enumerate(keyed_random.uniform(seeds, purpose="glyphs", count=7).tolist(), start=1):
            font = files[int(row[0] * len(files))].stem
            item = Item(f"{character}-{number:05d}", label, Glyph(font, character, *(2 * u - 1 for u in row[1:])))
            splits["val" if number % HELD_OUT_EVERY == 0 else "train"].append(item)
    # Fonts of one name and size may differ between versions of Matplotlib.
    sources = [(f"{file.name} {hashlib.sha256(file.read_bytes()).hexdigest()}", file.stat().st_size) for file in files]
    return _image_decoding.plan(splits, config.resolution, channels=1, classes=config.characters, sources=sources)


def read(item: Item, config: Config) -> Example:
    """One item: white on black, uint8 (R R 1)."""
    pixels = render(item.location, config.resolution)[..., None]
    return Example((pixels * 255).round().astype(np.uint8), item.label, item.name)


def render(glyph: Glyph, resolution: int) -> Float64[np.ndarray, "R R"]:
    """The share of each pixel that is inside the outline, from 0 to 1: at twice the resolution the means of 2 x 2 are the same.

    The outline is a polygon within 1e-5 em of the font's curves (`_font_outlines.TOLERANCE`). Where parts of it overlap by less than is
    seen at 192 px, finer images than that count the overlap once.
    """
    polygons = _font_outlines.outlines(glyph.font, glyph.character, glyph.weight)
    shear = np.array([[1.0, 0.0], [SHEAR * glyph.shear, 1.0]])
    stretch = [1 + STRETCH * glyph.stretch, 1 - STRETCH * glyph.stretch]
    polygons = [(polygon - [0.0, MIDDLE]) @ shear * stretch for polygon in polygons]
    corners = np.concatenate(polygons)
    low, high = corners.min(0), corners.max(0)
    # Characters are centered along the line; across it the base line is where it is for all of them.
    center = np.array([(low[0] + high[0]) / 2, 0.0])
    reach = np.maximum(high - center, center - low)
    scale = min(SIZE * (1 + SCALE * glyph.scale), (0.5 - MARGIN) / reach.max())
    free = np.minimum(SHIFT, 0.5 - MARGIN - scale * reach)
    shift = free * [glyph.right, -glyph.down]
    on_screen = [(scale * (polygon - center) + shift) * [1, -1] + 0.5 for polygon in polygons]
    return np.clip(outline_coverage.coverage(on_screen, resolution), 0, 1)
