"""Outlines of the characters of the TrueType fonts that come with Matplotlib, and the same with thicker or thinner strokes."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float64

from inrflow_core.errors import MissingError
from inrflow_core.geometry import outline_coverage
from inrflow_core.geometry.outline_coverage import Outline

Family = Literal["dejavu-sans", "dejavu-serif", "dejavu-mono", "stix", "computer-modern"]
FAMILIES: dict[Family, tuple[str, ...]] = {
    "dejavu-sans": ("DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique", "DejaVuSans-BoldOblique"),
    "dejavu-serif": ("DejaVuSerif", "DejaVuSerif-Bold", "DejaVuSerif-Italic", "DejaVuSerif-BoldItalic"),
    "dejavu-mono": ("DejaVuSansMono", "DejaVuSansMono-Bold", "DejaVuSansMono-Oblique", "DejaVuSansMono-BoldOblique"),
    "stix": ("STIXGeneral", "STIXGeneralBol", "STIXGeneralItalic", "STIXGeneralBolIta"),
    "computer-modern": ("cmr10", "cmb10", "cmss10", "cmti10", "cmtt10"),
}
"""Font files by family, without their suffix."""
TOLERANCE = 1e-5
"""Distance of the polygons from the fonts' curves, in em: 0.01 pixels of an image of 1,000."""
THINNER, THICKER = -0.006, 0.014
"""Largest offsets of the sides of a stroke, in em: the finest strokes are 0.02 wide, those of regular fonts 0.07 to 0.1."""
WEIGHTS = (0.2, 0.4, 0.6, 0.8, 1.0)
"""Shares of the largest offset at which overlaps are searched: they do not always grow with the offset."""
LARGEST_MITER = 8.0
"""Square of the most by which a corner moves as a multiple of the offset of its sides, before the bound by their length.

A right angle has 2: its corner moves by 1.41 offsets. Here 2.83 is reached where the line turns by 139 degrees.
"""
CHECKED_AT = 192
"""Rows and columns that the longer side of a character has where its parts are searched for overlaps."""
OVERLAP = 0.02
"""Share of a pixel of these that may be covered twice: one font's g has 0.0135 by itself."""


class Contour(NamedTuple):
    """One closed line of a character: straight edges and quadratic Bezier curves, in em, y up."""

    points: Float64[np.ndarray, "N 2"]
    is_corner: Bool[np.ndarray, " N"]
    """Whether the line passes through the point; the others are the control points between two corners."""


def font_files(families: tuple[Family, ...]) -> list[Path]:
    """The font files of families, in the order of `FAMILIES`.

    Raises:
        MissingError: the installed Matplotlib comes without one.
    """
    files = [font_file(font) for family, fonts in FAMILIES.items() if family in families for font in fonts]
    for file in files:
        if not file.is_file():
            raise MissingError(
                f"the installed Matplotlib has no font `{file.name}`",
                hint="`pip install 'matplotlib>=3.11'` brings the fonts; or leave the family out with `--set families=...`",
            )
    return files


def font_file(font: str) -> Path:
    """The file of a font."""
    import matplotlib

    return Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{font}.ttf"


def outlines(font: str, character: str, weight: float) -> list[Outline]:
    """The polygons of a character, in em from its origin, y up; outer ones turn clockwise.

    `weight` from -1 to 1 is the share of the largest offset by which the character's strokes can become thinner or thicker on each
    side; 0 is the font's own outline.
    """
    thinner, thicker = largest_offsets(font, character)
    return _polygons(_contours(font, character), weight * (thicker if weight > 0 else -thinner))


@functools.cache
def largest_offsets(font: str, character: str) -> tuple[float, float]:
    """`THINNER` and `THICKER`, each halved until no parts of the outline overlap at any of `WEIGHTS`; after four times 0."""
    contours = _contours(font, character)

    def largest(offset: float) -> float:
        for halved in (offset / 2**halvings for halvings in range(5)):
            if all(overlap(_polygons(contours, weight * halved)) <= OVERLAP for weight in reversed(WEIGHTS)):
                return halved
        return 0.0

    return largest(THINNER), largest(THICKER)


def overlap(polygons: list[Outline]) -> float:
    """The largest share of a pixel of `CHECKED_AT` that is covered twice, or less than not at all where a side has crossed another."""
    corners = np.concatenate(polygons)
    low, side = corners.min(0), np.ptp(corners, axis=0).max() * (1 + 1e-9)
    pixels = outline_coverage.coverage([(polygon - low) / side for polygon in polygons], CHECKED_AT)
    return float(np.abs(pixels + 0.5).max()) - 0.5  # y is up here, so that the sign is the other one


def _polygons(contours: list[Contour], offset: float) -> list[Outline]:
    """Contours whose sides are moved outward by an offset in em, as polygons."""
    polygons = []
    for contour in contours:
        points = _moved(contour.points, offset)
        corners = np.flatnonzero(contour.is_corner)
        starts, ends = points[corners], points[np.roll(corners, -1)]
        following = (corners + 1) % len(points)
        is_straight = contour.is_corner[following][:, None]
        controls = np.where(is_straight, (starts + ends) / 2, points[following])
        polygons.append(outline_coverage.flatten(starts, controls, ends, TOLERANCE))
    return polygons


def _moved(points: Outline, offset: float) -> Outline:
    """A closed polygon whose sides are moved outward, which is to the left of a clockwise one with y up.

    Where a side is shorter than the move of its corner, this goes no further than the side is long.
    """
    sides = np.roll(points, -1, axis=0) - points
    lengths = np.linalg.norm(sides, axis=1, keepdims=True)
    directions = sides / lengths
    normals = directions[:, ::-1] * [-1, 1]
    alignment = (directions * np.roll(directions, 1, axis=0)).sum(1, keepdims=True)
    moves = offset * (normals + np.roll(normals, 1, axis=0)) / np.maximum(1 + alignment, 2 / LARGEST_MITER)
    shortest = np.minimum(lengths, np.roll(lengths, 1, axis=0))
    return points + moves * np.minimum(1, shortest / np.maximum(np.linalg.norm(moves, axis=1, keepdims=True), 1e-12))


@functools.cache
def _contours(font: str, character: str) -> list[Contour]:
    """The contours of a character as the font file states them, without hinting."""
    from matplotlib import ft2font
    from matplotlib.path import Path as Lines

    face = ft2font.FT2Font(str(font_file(font)))
    assert face.get_char_index(ord(character)), f"{font} has no `{character}`"
    # The faces of Matplotlib 3.10 and older have a transform for hinting, which makes unscaled glyphs eight times narrower.
    face.load_char(ord(character), flags=ft2font.LoadFlags.NO_SCALE | ft2font.LoadFlags.IGNORE_TRANSFORM)
    vertices, codes = face.get_path()
    assert Lines.CURVE4 not in codes, f"`{character}` of {font} has cubic curves"
    # Matplotlib divides by the 64 units of a pixel, which font units are not.
    vertices = vertices * (64 / face.units_per_EM)
    firsts, lasts = np.flatnonzero(codes == Lines.MOVETO), np.flatnonzero(codes == Lines.CLOSEPOLY)
    contours = []
    for first, last in zip(firsts, lasts, strict=True):
        is_curve = codes[first:last] == Lines.CURVE3
        is_corner = ~is_curve | (np.cumsum(is_curve) % 2 == 0)  # of the two points of each curve the second
        contours.append(_without_repeats(Contour(vertices[first:last], is_corner)))
    return [contour for contour in contours if len(contour.points) > 2]  # one of a single point encloses nothing


def _without_repeats(contour: Contour) -> Contour:
    """The same line where no point equals the next: of a control point and an equal corner beside it the corner stays."""
    points, is_corner = contour
    equals_previous = (points == np.roll(points, 1, axis=0)).all(1)
    stays = is_corner | ~(equals_previous | np.roll(equals_previous, -1))
    points, is_corner = points[stays], is_corner[stays]
    stays = (points != np.roll(points, 1, axis=0)).any(1)
    return Contour(points[stays], is_corner[stays])
