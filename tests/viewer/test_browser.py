"""The page in a headless Chromium: it draws tiles and points, follows its controls, and fetches nothing from elsewhere."""

from __future__ import annotations

import io
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import uvicorn
from PIL import Image

from inrflow_core.viewer import guard, server, viewed_run
from inrflow_core.viewer.functions import Functions
from inrflow_core.viewer.worker import Worker
from tests import tiny

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
OPTIONS = [
    *("--no-sandbox", "--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"),
]
pytestmark = pytest.mark.slow


@contextmanager
def served(*folders: Path) -> Iterator[str]:
    """The address of a page of some runs, served by a thread."""
    functions = Functions(viewed_run.open_runs(folders))
    token, listener = guard.new_token(), server.listen("127.0.0.1", None)
    app = server.Page(functions, Worker(1)).app(token=token)
    config = uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=1)
    web = uvicorn.Server(config)
    thread = threading.Thread(target=web.run, kwargs={"sockets": [listener]})
    thread.start()
    yield guard.own_address("127.0.0.1", listener.getsockname()[1], token)
    web.should_exit = True
    thread.join(20)
    listener.close()


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a page of two runs."""
    parent = tmp_path_factory.mktemp("runs")
    tiny.run_folder(parent / "images", tiny.LOCAL_IMAGE)
    tiny.run_folder(parent / "clouds", tiny.POINTS)
    with served(parent / "images", parent / "clouds") as address:
        yield address


@pytest.fixture
def page(url: str) -> Iterator[Any]:
    """The page in a browser; it records problems, and every address that is requested."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    browser_file = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    if browser_file is None:
        pytest.skip(f"no browser is installed: none of {', '.join(BROWSERS)}")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=browser_file, args=OPTIONS)
        page = browser.new_page(viewport={"width": 1200, "height": 760})
        page.problems, page.addresses = [], []
        page.on("pageerror", lambda error: page.problems.append(str(error)))
        page.on("console", lambda message: page.problems.extend([message.text] * ("failed to load:" in message.text)))
        page.on("request", lambda request: page.addresses.append(request.url))
        yield page
        browser.close()


def wait(is_true: Callable[[], Any], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not is_true():
        assert time.monotonic() < end, "the page does not get there"
        time.sleep(0.1)


def test_the_page_draws_follows_its_controls_and_stays_on_this_machine(page: Any, url: str, tmp_path: Path):
    page.goto(f"{url}#seed=4&points=300")
    count = lambda: page.inner_text("#num-points")  # noqa: E731
    wait(lambda: count() == "300" and "tile in" in page.inner_text(".panel:nth-child(1) .time"))
    view = "window.inrflowPage.panels[1].views[0]"
    first = page.evaluate(f"Array.from({view}.positions.slice(0, 900))")
    assert any(first)
    page.locator("#points").fill("40")  # the slider
    wait(lambda: count() == "4,053")
    assert page.evaluate(f"Array.from({view}.positions.slice(0, 900))") == first
    requested = [address for address in page.addresses if "/api/points" in address]
    assert "first=0&num=300" in requested[0] and "first=300&num=3753" in requested[1]

    page.click("#next")
    wait(lambda: "seed=5" in page.evaluate("location.hash"))
    page.select_option("#label", "dog")
    page.check("#strip")
    wait(lambda: page.inner_text(".panel:nth-child(1) .what").startswith("dog"))
    wait(lambda: page.evaluate("document.querySelectorAll('.steps img[src^=blob]').length") >= 4)
    page.select_option("#compare", "bicubic")
    page.check("#grid")
    wait(lambda: page.evaluate("document.querySelectorAll('.panel:nth-child(1) .view').length") == 2)

    with page.expect_download() as download:
        page.hover(".panel:nth-child(1) .download")
        page.click(".panel:nth-child(1) .download")
    download.value.save_as(tmp_path / "shown.png")
    assert (tmp_path / "shown.png").read_bytes()[:4] == b"\x89PNG"

    page.fill("#guidance", "3")
    page.select_option("#sampler", "dopri5")
    page.fill("#steps", "7")
    page.press("#steps", "Enter")
    wait(lambda: "chooses its own steps" in page.inner_text(".panel:nth-child(1) .foot"))
    shared = page.evaluate("location.hash")
    assert all(
        part in shared for part in ("seed=5", "label=dog", "steps=7", "sampler=dopri5", "compare=bicubic", "grid=1")
    )
    assert page.problems == []
    outside = [address for address in page.addresses if not address.startswith((url, "blob:", "data:"))]
    assert outside == []


DROP = """([bytes, name]) => {
  const data = new DataTransfer();
  data.items.add(new File([new Uint8Array(bytes)], name, { type: "image/png" }));
  for (const kind of ["dragover", "drop"]) {
    document.body.dispatchEvent(new DragEvent(kind, { dataTransfer: data, bubbles: true, cancelable: true }));
  }
}"""


def test_a_dropped_image_becomes_the_function_beside_the_truth(page: Any, url: str):
    page.goto(f"{url}#seed=4&panels=0&steps=3")
    first = ".panel:nth-child(1)"
    wait(lambda: "tile in" in page.inner_text(f"{first} .time") and page.is_visible("#about-input"))
    page.evaluate(DROP, [list(png()), "a.png"])
    names = lambda: page.locator(f"{first} .view .name").all_inner_texts()  # noqa: E731
    wait(lambda: names() == ["function", "bicubic enlargement", "input image"])
    wait(
        lambda: (
            "reconstructed to" in page.inner_text(f"{first} .what") and "tile in" in page.inner_text(f"{first} .time")
        )
    )
    assert "image=" in page.evaluate("location.hash") and page.is_visible("#thumbnail") and page.is_disabled("#seed")
    wait(lambda: any("kind=truth&level=0" in address for address in page.addresses))
    encoded = [at for at in page.addresses if "/api/tile" in at and "image=" in at and "kind=function" in at]
    assert encoded and not any("seed=" in at or "sampler=" in at for at in encoded)

    page.evaluate(DROP, [[1, 2, 3], "b.png"])
    wait(lambda: "cannot be read as an image" in page.inner_text("#message"))
    assert len(names()) == 3, "what is shown stays"
    page.set_input_files("#file", {"name": "c.png", "mimeType": "image/png", "buffer": png()})
    wait(lambda: not page.inner_text("#message"))
    page.click("#remove-input")
    wait(lambda: names() == [] and "seed" not in page.inner_text("#message") and page.is_enabled("#seed"))
    assert "image=" not in page.evaluate("location.hash")
    page.select_option(f"{first} .run", "1")
    page.evaluate(DROP, [list(png()), "a.png"])
    wait(lambda: page.inner_text("#message") == "no run on the page takes an image")
    assert page.is_hidden("#input-controls") and page.problems == []


def test_the_address_says_which_panels_are_closed(page: Any, url: str):
    page.goto(f"{url}#seed=1")
    number = lambda: page.evaluate("document.querySelectorAll('.panel').length")  # noqa: E731
    wait(lambda: number() == 2)
    assert "panels" not in page.evaluate("location.hash")
    written = "import('./page/state.js').then(({ DEFAULTS, toFragment }) => toFragment({ ...DEFAULTS, sequence: 'MK\\n TA ' }, { runs: [0] }))"
    assert page.evaluate(written) == "sequence=MKTA", "a sequence of several lines"
    page.click(".panel:nth-child(2) .close")
    assert "panels=0" in page.evaluate("location.hash")
    page.reload()
    wait(lambda: number() == 1 and "tile in" in page.inner_text(".panel .time"))
    assert page.problems == []


def test_a_number_that_cannot_be_is_said_and_any_other_is_taken(page: Any, url: str):
    page.goto(f"{url}#seed=1&panels=0")
    wait(lambda: page.locator(".panel").count() == 1)
    page.fill("#guidance", "1.25")
    page.press("#guidance", "Enter")
    wait(lambda: "guidance=1.25" in page.evaluate("location.hash"))
    page.fill("#guidance", "-1")
    page.press("#guidance", "Enter")
    wait(lambda: page.inner_text("#message").startswith("Guidance: "))
    assert page.input_value("#guidance") == "1.25" and "guidance=1.25" in page.evaluate("location.hash")
    page.fill("#steps", "3")
    page.press("#steps", "Enter")
    wait(lambda: not page.inner_text("#message"))
    page.fill("#interval", "0.1; 0.9")
    page.press("#interval", "Enter")
    wait(lambda: page.inner_text("#message").startswith("Guidance interval: "))
    page.fill("#interval", "0.1, 0.9")
    page.press("#interval", "Enter")
    page.select_option("#guide", "0")
    wait(lambda: page.inner_text(".panel .what").endswith("guidance 1.25, between 0.1 and 0.9, autoguidance"))
    assert page.locator("#guide option").all_inner_texts() == ["no other run", "images"]
    tiles = [at for at in page.addresses if "/api/tile" in at and "guide=0" in at]
    assert tiles and all("interval=0.1%2C0.9" in at for at in tiles)


def test_tiles_of_a_replaced_image_are_aborted_and_are_no_errors(page: Any, url: str):
    aborted: list[str] = []
    page.on("requestfailed", lambda request: aborted.append(request.url))
    page.route("**/api/tile*seed=4*", lambda route: None)  # these are never answered
    page.goto(f"{url}#seed=4&panels=0")
    waiting = lambda seed: [at for at in page.addresses if "/api/tile" in at and f"seed={seed}" in at]  # noqa: E731
    wait(lambda: page.evaluate("1") and len(waiting(4)) >= 2)
    page.click("#next")
    wait(lambda: page.evaluate("1") and "tile in" in page.inner_text(".panel .time"))
    assert len(waiting(4)) == 2 and sorted(aborted) == sorted(waiting(4))
    assert page.evaluate("window.inrflowPage.panels[0].views[0].downloads.size") <= 2
    page.route("**/api/tile*", lambda route: None)
    page.evaluate("window.inrflowPage.panels[0].views[0].viewer.viewport.zoomBy(4)")
    wait(lambda: page.evaluate("window.inrflowPage.panels[0].views[0].downloads.size") == 2)
    page.evaluate("window.dispatchEvent(new PageTransitionEvent('pageshow', { persisted: true }))")
    wait(lambda: page.evaluate("window.inrflowPage.panels[0].views[0].downloads.size") == 2)
    page.goto("about:blank")
    assert page.problems == []


def test_what_needs_no_recording_is_shown_while_others_are_recorded(page: Any, url: str):
    finished: list[str] = []
    page.on("requestfinished", lambda request: finished.append(request.url))
    page.goto(f"{url}#seed=41&panels={';'.join('01010101')}")
    shown = lambda: page.locator(".time", has_text=re.compile("(tile|points) in")).count()  # noqa: E731
    stale = lambda: page.locator(".view.stale").count()  # noqa: E731
    events = lambda: page.evaluate("1")  # noqa: E731
    sent = lambda name, words: [at for at in page.addresses if events() and f"/api/{name}" in at and words in at]  # noqa: E731
    wait(lambda: shown() == 8 and stale() == 0)
    page.route("**/api/record*seed=42*", lambda route: None)  # these are never answered
    page.route("**/api/record*image=*", lambda route: None)
    page.click("#next")
    wait(lambda: len(sent("record", "seed=42")) == 2)
    assert stale() == 8 and shown() == 0 and not sent("tile", "seed=42") and not sent("points", "seed=42")
    page.click("#previous")
    wait(lambda: shown() == 8 and stale() == 0)  # without a turn: recorded functions
    page.click("#next")
    wait(lambda: len(sent("record", "seed=42")) == 4 and stale() == 8)
    page.evaluate(DROP, [list(png()), "a.png"])
    for kind in ("truth", "bicubic"):
        wait(
            lambda kind=kind: (
                events() and any(f"kind={kind}" in at and "level=0" in at and "image=" in at for at in finished)
            )
        )
    assert not [at for at in sent("tile", "image=") if "kind=function" in at]
    assert len(sent("record", "seed=42")) <= 6, "only in place of those that were aborted"
    assert stale() == 8 and page.problems == []


def test_the_number_of_points_to_come_is_said(page: Any, url: str):
    routes: list[Any] = []
    page.route("**/api/record*", lambda route: routes.append(route))
    page.goto(f"{url}#seed=44&panels=1;1&points=9000&steps=2")
    count = lambda: page.evaluate("document.getElementById('num-points').textContent")  # noqa: E731
    wait(lambda: count() == "9,000 to come" and len(routes) == 2)
    page.route("**/api/points*first=8192*", lambda route: routes.append(route))
    for route in routes[:2]:
        route.continue_()
    wait(lambda: count() == "8,192 of 9,000" and len(routes) == 4)
    routes[2].continue_()
    wait(lambda: page.evaluate("window.inrflowPage.panels.some((panel) => panel.views[0].loaded === 9000)"))
    assert count() == "8,192 of 9,000", "of the cloud that has fewer"
    routes[3].continue_()
    wait(lambda: count() == "9,000")
    assert page.problems == []


def test_values_of_several_presets_name_their_runs(page: Any, tmp_path: Path):
    other = {**tiny.LOCAL_IMAGE, "sampler": {"name": "heun", "steps": 7}, "method": {"guidance_interval": [0.2, 0.8]}}
    for folder, kind in (("a/one", tiny.LOCAL_IMAGE), ("b/one", other), ("a/clouds", tiny.POINTS)):
        (tmp_path / folder).parent.mkdir(exist_ok=True)
        tiny.run_folder(tmp_path / folder, kind)
    usual = lambda name: page.get_attribute(f"#{name}", "placeholder")  # noqa: E731
    note = lambda name: page.inner_text(f"#{name}-presets")  # noqa: E731
    with served(tmp_path / "a/one", tmp_path / "b/one", tmp_path / "a/clouds") as address:
        page.goto(f"{address}#panels=0;1;0")
        wait(lambda: page.locator(".panel").count() == 3)
        assert page.locator(".panel:nth-child(2) .run option").all_inner_texts() == ["one (1)", "one (2)", "clouds"]
        assert usual("steps") == usual("interval") == "each preset's"
        assert note("steps") == "one (1): 4\none (2): 7" and note("interval") == "one (1): 0,1\none (2): 0.2,0.8"
        assert page.inner_text("#sampler option:checked") == "each preset's"
        assert note("sampler") == "one (1): euler\none (2): heun" and note("guidance") == ""
        page.fill("#steps", "3")
        page.press("#steps", "Enter")
        assert note("steps") == "" and note("interval"), "the number holds for all"
        page.fill("#steps", "")
        page.press("#steps", "Enter")
        assert note("steps").endswith("one (2): 7")
        page.click(".panel:nth-child(2) .close")
        assert usual("steps") == "preset's: 4" and usual("interval") == "preset's: 0,1" and note("steps") == ""
        assert page.inner_text("#sampler option:checked") == "preset's (euler)" and page.problems == []


def test_a_recording_says_which_step_it_is_at(page: Any, url: str):
    steps = [
        {"done": None, "total": None},
        {"done": 0, "total": 0},
        {"done": 11, "total": 1250},
        {"done": 7, "total": 7},
    ]
    said: list[str] = []

    def answer(route: Any) -> None:
        current = steps[min(len(said), 3)]
        route.fulfill(json={"is_recorded": False, **current})

    page.route("**/api/record*", lambda route: None)  # these are never answered
    page.route("**/api/progress*", answer)
    page.goto(f"{url}#seed=4&panels=0;0;0")
    what = lambda number: page.inner_text(f".panel:nth-child({number}) .what")  # noqa: E731
    words = ["waiting", "recording", "recording, step 12 of 1,250", "recording, step 7"]
    for expected in words:
        wait(lambda expected=expected: what(1) == f"{expected} ...")
        said.append(what(1))
    assert what(3) == "waiting ...", "it is not its turn"
    page.unroute("**/api/record*")
    page.unroute("**/api/progress*")
    page.fill("#steps", "400")
    page.press("#steps", "Enter")
    wait(lambda: re.fullmatch(r"recording, step \d+ of 400 ...", what(1)) or "recorded in" in what(1))
    assert page.problems == []


def png() -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.arange(768, dtype=np.uint8).reshape(16, 16, 3)).save(file, "PNG")
    return file.getvalue()


def test_proteins_are_colored_by_the_deviation_between_samples(page: Any, tmp_path: Path):
    tiny.run_folder(tmp_path / "proteins", tiny.PROTEIN)
    with served(tmp_path / "proteins") as address:
        page.goto(f"{address}#tint=deviation&sequence=MKTAYIAK&steps=3")
        wait(lambda: page.locator(".panel").count() == 1)
        legend = page.locator(".legend")
        wait(lambda: legend.is_visible() and "from the mean of 5 samples" in legend.inner_text())
        drawn = page.evaluate("window.inrflowPage.panels[0].views[0].viewer.getModel(4).selectedAtoms({}).length")
        assert drawn > 8 * 4, "all five are drawn"
        page.fill("#samples", "2")
        page.press("#samples", "Enter")
        wait(lambda: "of 2 samples" in legend.inner_text())
        page.select_option("#tint", "amino")
        wait(legend.is_hidden)
        requested = [at for at in page.addresses if "/api/structures" in at]
        assert "samples=5" in requested[0] and "samples=2" in requested[-1] and page.problems == []


def test_without_webgl_the_other_panels_go_on(page: Any, url: str):
    page.add_init_script(
        "const plain = HTMLCanvasElement.prototype.getContext;"
        "HTMLCanvasElement.prototype.getContext = function (kind, ...rest) {"
        " return kind.startsWith('webgl') ? null : plain.call(this, kind, ...rest); };"
    )
    page.goto(f"{url}#seed=4&panels=1;0")
    wait(lambda: "tile in" in page.inner_text(".panel:nth-child(2) .time"))
    assert "WebGL" in page.inner_text(".panel:nth-child(1) .view")
    page.click("#next")
    wait(lambda: "seed=5" in page.evaluate("location.hash"))
    assert page.problems == []


def test_a_page_has_sixteen_panels_at_most(page: Any, url: str):
    page.goto(f"{url}#seed=4&points=256&panels={';'.join(['1'] * 15)}")
    wait(lambda: page.evaluate("document.querySelectorAll('.panel').length") == 15)
    page.click("#add")
    assert page.evaluate("document.querySelectorAll('.panel').length") == 16
    assert page.is_disabled("#add")
    page.click(".panel:nth-child(1) .close")
    assert page.is_enabled("#add")


def test_a_shared_address_restores_what_it_says(page: Any, url: str):
    page.goto(f"{url}#seed=9&label=owl&panels=1;1,2,0&points=512&pose=0,0,5&steps=3")
    wait(lambda: page.evaluate("document.querySelectorAll('.panel').length") == 2)
    wait(lambda: page.inner_text(".panel:nth-child(2) .what").startswith("owl"))
    assert page.input_value("#seed") == "9" and page.input_value("#steps") == "3"
    assert page.input_value(".panel:nth-child(2) .ema") == "0"
    poses = page.evaluate("window.inrflowPage.panels.map((panel) => panel.views[0].pose())")
    np.testing.assert_allclose(poses, [[0, 0, 5]] * 2, atol=1e-9)
    assert page.problems == []
