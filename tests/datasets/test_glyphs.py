"""Glyphs: every character of every font is whole, images are exact at any size, an item depends on its seed alone."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from matplotlib.font_manager import FontProperties
from matplotlib.ft2font import FT2Font, LoadFlags
from matplotlib.path import Path as Lines
from matplotlib.textpath import TextPath

from inrflow_core.datasets import _font_outlines, glyphs
from inrflow_core.datasets._contract import Item
from inrflow_core.datasets.glyphs import CHARACTERS, Config, Glyph
from inrflow_core.errors import MissingError
from inrflow_core.geometry import outline_coverage
from inrflow_core.preparation import pipeline
from inrflow_core.preparation.job import resolve_job
from tests import prepare_jobs

FONTS = [font for fonts in _font_outlines.FAMILIES.values() for font in fonts]


def scan(**settings) -> dict[str, list[Item]]:
    return {split: list(items) for split, items in glyphs.scan(Path("nowhere"), Config(**settings)).splits.items()}


def pixels(made: list[Item], **settings) -> np.ndarray:
    """Values of items, flat, from 0 to 1."""
    config = Config(**settings)
    return np.stack([glyphs.read(item, config).values.ravel() for item in made]) / 255


def test_every_sixth_item_of_each_character_is_held_out_and_names_are_characters():
    index = glyphs.scan(Path("nowhere"), Config(items=12))
    assert index.classes == tuple(CHARACTERS) and len(index.classes) == 62
    assert {split: len(items) for split, items in index.splits.items()} == {"train": 620, "val": 124}
    assert {item.name.partition("-")[2] for item in index.splits["val"]} == {"00006", "00012"}
    for item in (*index.splits["train"], *index.splits["val"]):
        assert item.name[0] == index.classes[item.label] == item.location.character


def test_an_item_is_the_same_whatever_else_is_made_and_another_with_another_seed():
    few, many = scan(items=7, characters="aB7")["train"], scan(items=18)
    by_name = {item.name: item.location for item in (*many["train"], *many["val"])}
    assert all(by_name[item.name] == item.location for item in few)
    others = scan(items=7, characters="aB7", seed=1)["train"]
    assert all(first.location[2:] != other.location[2:] for first, other in zip(few, others, strict=True))


def test_every_font_is_used_and_changes_fill_their_range():
    made = [item.location for item in scan(items=60)["train"]]
    counts = [sum(glyph.font == font for glyph in made) for font in FONTS]
    assert min(counts) > 0.6 * len(made) / len(FONTS)
    changes = np.array([glyph[2:] for glyph in made])
    assert np.abs(changes.mean(0)).max() < 0.05 and (np.abs(changes).max(0) > 0.99).all()


@pytest.mark.slow
def test_a_finer_image_is_the_truth_of_a_coarser_one():
    items = scan(items=12)["train"][::7]
    coarse = pixels(items).reshape(-1, 24, 24)
    for resolution in (96, 192):
        fine = pixels(items, resolution=resolution).reshape(-1, 24, resolution // 24, 24, resolution // 24)
        assert np.abs(fine.mean((2, 4)) - coarse).max() < 1 / 255  # what rounding to bytes takes, twice


def test_before_rounding_the_means_agree_to_a_hundred_thousandth_at_sizes_that_share_no_factor():
    for item in scan(items=3, characters="gKQ4m")["train"]:
        images = [glyphs.render(item.location, size) for size in (24, 48, 35)]
        blocks = images[1].reshape(24, 2, 24, 2).mean((1, 3))
        np.testing.assert_allclose(blocks, images[0], atol=1e-5)
        assert images[2].mean() == pytest.approx(images[0].mean(), abs=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("family", _font_outlines.FAMILIES)
def test_no_glyph_is_empty_or_cut_and_none_is_a_box_for_a_missing_one(family: _font_outlines.Family):
    for font in _font_outlines.FAMILIES[family]:
        images = np.stack([glyphs.render(Glyph(font, character, 1, 1, 1, 0, 1, 1), 50) for character in CHARACTERS])
        inner = images[:, 2:-2, 2:-2].sum((1, 2))
        np.testing.assert_allclose(inner, images.sum((1, 2)), atol=1e-9)
        assert (inner > 0.01 * 50**2).all() and (inner < 0.5 * 50**2).all()
        flat = images.reshape(len(images), -1)
        distances = ((flat[:, None] - flat[None]) ** 2).mean(2) + np.eye(len(flat))
        assert distances.min() > 1e-4, font  # boxes would be equal


@pytest.mark.parametrize("font", ["DejaVuSans-Bold", "STIXGeneralItalic", "cmtt10"])
def test_ink_grows_with_the_weight(font: str):
    for character in "AgMWm8":
        areas = [
            signed_area(_font_outlines.outlines(font, character, weight)) for weight in (-1.0, -0.5, 0.0, 0.5, 1.0)
        ]
        assert (np.diff(areas) >= 0).all() and 0 < areas[0] < areas[2], (font, character)


def test_an_offset_moves_straight_sides_by_itself_and_corners_to_where_the_moved_sides_meet():
    ((low, high), *_) = [(p.min(0), p.max(0)) for p in _font_outlines.outlines("DejaVuSans", "l", 0.0)]
    (thick,) = _font_outlines.outlines("DejaVuSans", "l", 1.0)
    np.testing.assert_allclose([low - thick.min(0), thick.max(0) - high], _font_outlines.THICKER, atol=1e-9)


@pytest.mark.parametrize(
    ("font", "characters"),
    [("cmti10", "3gQ"), ("cmr10", "9S&"), ("DejaVuSans", "8aR"), ("STIXGeneralItalic", "fkB"), ("cmtt10", "0@m")],
)
def test_without_a_change_of_weight_an_outline_is_the_path_that_the_font_gives(font: str, characters: str):
    # Both are drawn with 192 rows an em; polygons within 1e-5 em of the curves differ by 0.002 of the pixels that they cross.
    for character in characters:
        expected, polygons = font_path(font, character), _font_outlines.outlines(font, character, 0.0)
        low, side = np.concatenate(expected).min(0) - 0.01, 1.5
        images = [outline_coverage.coverage([(p - low) / side for p in each], 288) for each in (polygons, expected)]
        assert np.abs(images[0] - images[1]).max() < 0.005, (font, character)


def font_path(font: str, character: str) -> list[np.ndarray]:
    """Matplotlib's own path of a character as polygons of 64 chords a curve, in em."""
    face = FT2Font(str(_font_outlines.font_file(font)))
    face.load_char(ord(character), flags=LoadFlags.NO_SCALE | LoadFlags.IGNORE_TRANSFORM)
    polygons, line, t = [], [], np.linspace(0, 1, 65)[1:, None]
    for points, code in Lines(*face.get_path()).iter_segments(simplify=False, curves=True):
        points = points.reshape(-1, 2) * 64 / face.units_per_EM
        if code == Lines.CURVE3:
            line.extend((1 - t) ** 2 * line[-1] + 2 * t * (1 - t) * points[0] + t**2 * points[1])
        elif code == Lines.CLOSEPOLY:
            polygons.append(np.array(line))
        else:
            line = [*line, points[0]] if code == Lines.LINETO else [points[0]]
    return polygons


@pytest.mark.parametrize("font", FONTS)
def test_a_character_is_as_wide_and_high_as_the_text_of_matplotlib(font: str):
    # Matplotlib scales its text from 100 pixels an em, whose coordinates are rounded to 1/64.
    text = TextPath((0, 0), "B", size=1, prop=FontProperties(fname=_font_outlines.font_file(font)))
    size = np.ptp(np.concatenate(_font_outlines.outlines(font, "B", 0.0)), axis=0)
    np.testing.assert_allclose(size, text.get_extents().size, atol=1 / 3200)


@pytest.mark.slow
def test_offsets_are_reduced_for_a_tenth_of_the_characters_and_few_are_never_thickened():
    pairs = [(font, character) for font in FONTS for character in CHARACTERS]
    assert len(pairs) == 1302
    offsets = np.array([_font_outlines.largest_offsets(*pair) for pair in pairs])
    reduced = offsets != [_font_outlines.THINNER, _font_outlines.THICKER]
    assert (reduced.sum(0).tolist(), (offsets == 0).sum(0).tolist()) == ([4, 129], [0, 7])


@pytest.mark.parametrize(("font", "character"), [("cmr10", "9"), ("cmti10", "g"), ("STIXGeneralItalic", "Q")])
def test_parts_of_an_outline_do_not_overlap_at_any_weight(font: str, character: str):
    for weight in np.linspace(-1, 1, 41):
        overlap = _font_outlines.overlap(_font_outlines.outlines(font, character, float(weight)))
        assert overlap < 1.5 * _font_outlines.OVERLAP, weight


def signed_area(polygons: list[np.ndarray]) -> float:
    """Of clockwise polygons with y up, less their holes."""
    x, y = np.concatenate(polygons).T
    following = np.concatenate([np.roll(polygon, -1, axis=0) for polygon in polygons])
    return float((following[:, 0] * y - x * following[:, 1]).sum() / 2)


def test_the_families_of_the_settings_are_those_that_have_fonts():
    assert tuple(_font_outlines.FAMILIES) == get_args(_font_outlines.Family) == Config().families


def test_the_fingerprint_depends_on_the_content_of_the_fonts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    original = glyphs.scan(Path("nowhere"), Config(families=("stix",), items=1)).fingerprint
    for font in _font_outlines.FAMILIES["stix"]:
        content = bytearray(_font_outlines.font_file(font).read_bytes())
        content[-1] ^= 1
        (tmp_path / f"{font}.ttf").write_bytes(content)
    monkeypatch.setattr(_font_outlines, "font_file", lambda font: tmp_path / f"{font}.ttf")
    changed = glyphs.scan(Path("nowhere"), Config(families=("stix",), items=1)).fingerprint
    assert changed.bytes == original.bytes and changed != original


def test_figures_are_readable_by_the_nearest_training_image():
    settings = {"characters": "0123456789", "families": ("dejavu-sans", "dejavu-serif"), "items": 72}
    splits = scan(**settings)
    train, val = (pixels(splits[split], **settings) for split in ("train", "val"))
    nearest = ((val**2).sum(1)[:, None] - 2 * val @ train.T + (train**2).sum(1)).argmin(1)
    labels = {split: np.array([item.label for item in items]) for split, items in splits.items()}
    assert (labels["train"][nearest] == labels["val"]).mean() >= 0.9


@pytest.mark.slow
def test_the_bytes_do_not_depend_on_the_number_of_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("inrflow_core.preparation.job.MIN_ITEMS", 12)
    config = Config(items=12, characters="2fQ")
    for workers in (1, 2):
        pipeline.prepare(resolve_job("glyphs", out=tmp_path / str(workers), config=config), workers=workers)
    one, two = (prepare_jobs.content(tmp_path / name) for name in "12")
    assert one == two and sum(name.endswith(".h5") for name in one) == 4


def test_a_matplotlib_without_its_fonts_is_an_error_with_the_remedy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(_font_outlines, "font_file", lambda font: tmp_path / f"{font}.ttf")
    with pytest.raises(MissingError, match=r"has no font `STIXGeneral.ttf`") as caught:
        scan(families=("stix",))
    assert "matplotlib>=3.11" in str(caught.value.hint) and "--set families" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"items": 0}, "`items` is 0"),
        ({"characters": ""}, "`characters` is ``"),
        ({"characters": "aß"}, "`characters` is `aß`"),
        ({"characters": "abca"}, "each of them once"),
        ({"families": ()}, "`families` is empty"),
        ({"seed": -1}, "`seed` is -1"),
        ({"resolution": 0}, "`resolution` is 0"),
    ],
)
def test_a_setting_out_of_range_is_refused(settings: dict, message: str):
    with pytest.raises(ValueError, match=message):
        Config(**settings)


def test_a_family_that_is_none_of_them_is_refused():
    config = Config()
    # The constructor's types are checked in the tests, which would refuse it first.
    object.__setattr__(config, "families", ("stix", "nope"))
    with pytest.raises(ValueError, match="`families` has `nope`: some of dejavu-sans"):
        config.__post_init__()
