"""Draw docs/images/view.webp: the page of `inrflow view` in use, with the models that come with inrflow.

    python -m tools.page_animation docs/images/view.webp

It opens the page in a headless Chromium through Playwright, zooms into a letter, changes the seed, turns a cloud and adds points to
it. A frame is taken once everything that it shows is computed, so the animation is faster than a slow machine, and the same
on each.
"""

from __future__ import annotations

import argparse
import io
import shutil
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import uvicorn
from PIL import Image, ImageDraw

from inrflow_core.runs import shipped
from inrflow_core.storage.atomic_write import atomic_write
from inrflow_core.viewer import guard, server, viewed_run
from inrflow_core.viewer.functions import Functions
from inrflow_core.viewer.worker import Worker

if TYPE_CHECKING:
    from playwright.sync_api import Page

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
OPTIONS = ("--no-sandbox", "--disable-background-networking", "--use-gl=angle", "--use-angle=swiftshader")
SIZE = {"width": 940, "height": 580}
SEEDS = (35, 36)
"""Of the first sample and of the next one: letters and solids of different kinds."""
ZOOM = {"x": 0.6, "y": 0.72, "width": 0.22}
"""Where the zoom ends: center and width in sides of the square."""
POSE = (2.7, 1.9, 3.5)
"""The first position of the camera (`page/stage.js`)."""
POINTS = 2048
ZOOMS, DEGREES = 8, 12
"""Steps of the zoom, and the angle by which the cloud turns from frame to frame."""
SLIDER = (36, 45, 54, 63, 72, 81, 90)
"""Positions of the slider, of which the last one has 128,000 points."""
MOVING, RESTING = 90, 1100
"""Milliseconds of a frame."""
POINTER = ((0, 0), (0, 17), (4, 13), (7, 20), (10, 19), (7, 12), (12, 12))
MOST_SECONDS = 300
"""Of one frame."""


class Film:
    """Frames of a page, each with how long it is shown."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.frames: list[Image.Image] = []
        self.milliseconds: list[int] = []

    def take(self, milliseconds: int = MOVING, pointer: str | None = None, share: float = 0.5) -> None:
        """One frame, with the mouse over an element, at a share of its width."""
        image = Image.open(io.BytesIO(self.page.screenshot())).convert("RGB")
        box = None if pointer is None else self.page.locator(pointer).bounding_box()
        if box is not None:
            x, y = box["x"] + box["width"] * share, box["y"] + box["height"] / 2
            ImageDraw.Draw(image).polygon([(x + right, y + down) for right, down in POINTER], "black", "white")
        self.frames.append(image)
        self.milliseconds.append(milliseconds)

    def until(self, script: str) -> None:
        """Wait until a script is true; raises TimeoutError where it never is."""
        end = time.monotonic() + MOST_SECONDS
        while not self.page.evaluate(script):
            if time.monotonic() > end:
                raise TimeoutError(f"the page does not get to {script}")
            time.sleep(0.1)

    def until_drawn(self) -> None:
        """Wait until tiles and points are complete."""
        image, cloud = (f"window.inrflowPage.panels[{index}].views[0]" for index in (0, 1))
        self.until(
            f"{image}.viewer.world.getItemCount() === 1 && {image}.viewer.world.getItemAt(0).getFullyLoaded() && "
            f"{image}.downloads.size === 0 && {cloud}.loaded >= {cloud}.wanted && "
            "[...document.querySelectorAll('.time')].every((one) => one.textContent.startsWith('recorded'))"
        )
        time.sleep(0.3)  # the last tile is drawn

    def write(self, path: Path) -> None:
        """Write all frames as WebP."""
        first, *others = self.frames
        with atomic_write(path) as beside:
            first.save(
                beside,
                "WEBP",
                save_all=True,
                append_images=others,
                duration=self.milliseconds,
                loop=0,
                quality=62,
                method=6,
            )


def play(film: Film, url: str, zooms: int = ZOOMS, degrees: int = DEGREES, slider: Sequence[int] = SLIDER) -> None:
    """The scenes of the animation, with a frame for each of `zooms` steps, each `degrees` of two half turns and each position of
    the slider."""
    page = film.page
    page.goto(f"{url}#seed={SEEDS[0]}&points={POINTS}")
    film.until("Boolean(window.inrflowPage) && window.inrflowPage.panels.length === 2")
    page.add_style_tag(content=".foot .time { visibility: hidden }")  # a frame does not show how long it took
    film.until_drawn()
    film.take(RESTING)
    for region in regions(zooms):
        page.evaluate("([x, y, width]) => window.inrflowPage.panels[0].views[0].place({ x, y, width })", region)
        film.until_drawn()
        film.take(pointer=".panel:nth-child(1) .view")
    film.take(RESTING // 2)
    page.check("#grid")
    film.take(RESTING, "#grid")
    page.click("#home")
    time.sleep(1)
    film.until_drawn()
    film.take(RESTING // 2, "#home")
    page.uncheck("#grid")
    page.locator("#seed").scroll_into_view_if_needed()
    film.take(RESTING // 3, "#next")
    for _ in range(SEEDS[1] - SEEDS[0]):
        page.click("#next")
        film.until_drawn()
        film.take(RESTING, "#next")
    turn(film, range(degrees, 180 + degrees, degrees))
    page.locator("#points").scroll_into_view_if_needed()
    for position in slider:
        page.locator("#points").fill(str(position))
        film.until_drawn()
        film.take(3 * MOVING, "#points", (position + 2) / 94)
    turn(film, range(180 + degrees, 360 + degrees, degrees))
    film.take(RESTING)


def regions(count: int) -> list[list[float]]:
    """Center x, y and width of each step of the zoom: the width shrinks by one factor, and one point stays where it is on the screen."""
    widths = [float(ZOOM["width"] ** (step / count)) for step in range(1, count + 1)]
    return [
        [*(0.5 + (ZOOM[name] - 0.5) * (1 - width) / (1 - ZOOM["width"]) for name in ("x", "y")), width]
        for width in widths
    ]


def turned(degrees: float) -> list[float]:
    """The first position of the camera, turned around the upright axis."""
    x, y, z = POSE
    angle = np.deg2rad(degrees)
    return [float(x * np.cos(angle) + z * np.sin(angle)), y, float(z * np.cos(angle) - x * np.sin(angle))]


def turn(film: Film, degrees: range) -> None:
    """Turn the cloud to each of some angles."""
    for angle in degrees:
        film.page.evaluate("(pose) => window.inrflowPage.panels[1].views[0].place(pose)", turned(angle))
        film.take(pointer=".panel:nth-child(2) .view")


@contextmanager
def served() -> Iterator[str]:
    """The address of a page of the shipped models, served by a thread."""
    functions = Functions(viewed_run.open_runs([shipped.weights_file(name) for name in ("glyphs", "solids")]))
    token, listener = guard.new_token(), server.listen("127.0.0.1", None)
    app = server.Page(functions, Worker()).app(token=token)
    web = uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=1))
    thread = threading.Thread(target=web.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        yield guard.own_address("127.0.0.1", listener.getsockname()[1], token)
    finally:
        web.should_exit = True
        thread.join(30)
        listener.close()


def browser_file() -> str:
    """The browser's program; raises FileNotFoundError if none is installed."""
    for name in BROWSERS:
        if (file := shutil.which(name)) is not None:
            return file
    raise FileNotFoundError(f"no browser is installed: none of {', '.join(BROWSERS)}")


def main(arguments: list[str] | None = None) -> int:
    """Write the animation."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("out", type=Path, help="the .webp file")
    out = parser.parse_args(arguments).out
    from playwright.sync_api import sync_playwright  # of the browser's tests; `--help` needs none

    with served() as url, sync_playwright() as driver:
        browser: Any = driver.chromium.launch(executable_path=browser_file(), args=list(OPTIONS))
        film = Film(browser.new_page(viewport=SIZE))
        play(film, url)
        browser.close()
    film.write(out)
    print(
        f"wrote {out}: {len(film.frames)} frames, {sum(film.milliseconds) / 1000:.1f} s, {out.stat().st_size:,} bytes"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
