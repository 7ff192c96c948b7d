"""Glyphs: every character of every font is whole, images are exact at any size, an item depends on its seed alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from inrflow_core.datasets import _font_outlines, glyphs
from inrflow_core.datasets._contract import Item
from inrflow_core.datasets.glyphs import CHARACTERS, Config, Glyph
from inrflow_core.errors import MissingError
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
def test_no_glyph_is_empty_or_cut_and_none_is_a_box_for_a_missing_one(family: str):
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


def signed_area(polygons: list[np.ndarray]) -> float:
    """Of clockwise polygons with y up, less their holes."""
    x, y = np.concatenate(polygons).T
    following = np.concatenate([np.roll(polygon, -1, axis=0) for polygon in polygons])
    return float((following[:, 0] * y - x * following[:, 1]).sum() / 2)


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
    assert "--set families" in str(caught.value.hint)


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
