"""The animation of the page: its zoom and turns, its frames in a file, and a short one of the page in a browser."""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("uvicorn", reason="the extra `view` is not installed")
from tools import page_animation


class StillPage:
    """A stand-in for a page of Playwright: a white image, and one element in its middle."""

    def screenshot(self) -> bytes:
        content = io.BytesIO()
        Image.new("RGB", (64, 40), "white").save(content, "PNG")
        return content.getvalue()

    def locator(self, name: str) -> Any:
        return SimpleNamespace(bounding_box=lambda: {"x": 10, "y": 10, "width": 20, "height": 8})


def test_a_zoom_shrinks_by_one_factor_around_a_point_that_stays_where_it_is():
    regions = np.array([[0.5, 0.5, 1.0], *page_animation.regions(5)])
    factors = regions[1:, 2] / regions[:-1, 2]
    np.testing.assert_allclose(factors, factors[0])
    end = page_animation.ZOOM
    np.testing.assert_allclose(regions[-1], [end["x"], end["y"], end["width"]])
    for axis, name in enumerate("xy"):
        still = 0.5 + (end[name] - 0.5) / (1 - end["width"])
        np.testing.assert_allclose((still - regions[:, axis]) / regions[:, 2], still - 0.5)


def test_a_turn_preserves_height_and_distance_and_ends_where_it_began():
    poses = np.array([page_animation.turned(angle) for angle in range(0, 361, 30)])
    np.testing.assert_allclose(np.linalg.norm(poses, axis=1), np.linalg.norm(page_animation.POSE))
    assert set(poses[:, 1]) == {page_animation.POSE[1]}
    np.testing.assert_allclose(poses[-1], page_animation.POSE)
    steps = np.linalg.norm(np.diff(poses, axis=0), axis=1)
    np.testing.assert_allclose(steps, 2 * np.hypot(page_animation.POSE[0], page_animation.POSE[2]) * np.sin(np.pi / 12))


def test_frames_are_written_with_their_times_and_the_pointer_at_its_element(tmp_path: Path):
    film = page_animation.Film(StillPage())  # type: ignore[arg-type]
    film.take(300)
    film.take(90, "#next", share=0.25)
    film.write(tmp_path / "a.webp")
    with Image.open(tmp_path / "a.webp") as file:
        assert (getattr(file, "n_frames", 0), file.size) == (2, (64, 40))
        times = []
        for number in range(2):
            file.seek(number)
            file.load()
            times.append(file.info["duration"])
    assert times == [300, 90]
    plain, pointed = (np.asarray(frame).min(2) for frame in film.frames)
    rows, columns = np.nonzero(pointed < 128)
    assert plain.min() == 255
    assert 0 <= columns.min() - 15 <= 2 and 0 <= rows.min() - 14 <= 2, (
        "the tip is at a quarter of the width and half of the height"
    )


def test_without_a_browser_the_error_names_those_that_are_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="none of chromium, chromium-browser, google-chrome"):
        page_animation.browser_file()
    (tmp_path / "chromium").write_text("")
    (tmp_path / "chromium").chmod(0o755)
    assert page_animation.browser_file() == str(tmp_path / "chromium")


@pytest.mark.slow
def test_a_short_animation_of_the_page_moves(tmp_path: Path):
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    try:
        file = page_animation.browser_file()
    except FileNotFoundError as error:
        pytest.skip(str(error))
    with page_animation.served() as url, playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=file, args=list(page_animation.OPTIONS))
        film = page_animation.Film(browser.new_page(viewport=page_animation.SIZE))
        page_animation.play(film, url, zooms=1, degrees=180, slider=(38,))
        browser.close()
    film.write(tmp_path / "a.webp")
    assert len(film.frames) == 11 and all(frame.size == tuple(page_animation.SIZE.values()) for frame in film.frames)
    changes = [
        np.abs(np.asarray(one, np.int16) - np.asarray(other, np.int16)).mean()
        for one, other in zip(film.frames, film.frames[1:], strict=False)
    ]
    assert min(changes[:1] + changes[4:8]) > 0.1, "zoom, seed, turn and points change the page"
