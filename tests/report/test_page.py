"""The report: one file that fetches nothing, shows its content, and whose clouds rotate in a real browser."""

from __future__ import annotations

import base64
import dataclasses
import functools
import io
import json
import os
import re
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from inrflow_core.report import galleries, number_format
from inrflow_core.report.content import Entry, Gallery, Histogram, NearestNeighborsPanel, Page, Progress, Score
from inrflow_core.report.page import html, write

EVIL = "<script>alert('&\"')</script>"


def score(value: float, *, name: str = "FID", count: int = 100, higher: bool = False, **more: Any) -> Score:
    return Score(name, more.pop("protocol", "clean"), value, "", higher, count=count, **more)


def page_images(count: int, side: int = 8, channels: int = 1) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, side, side, channels), dtype=np.uint8)


def clouds(count: int, points: int = 256, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(0).uniform(-1, 1, (count, points, channels)).astype(np.float32)


def neighbors(samples: np.ndarray, distances: np.ndarray, held_out: np.ndarray | None) -> NearestNeighborsPanel:
    nearest = samples[np.arange(len(samples))[:, None].repeat(3, 1)]
    three = distances[: len(samples), None] + np.arange(3.0)
    return NearestNeighborsPanel(samples, nearest, three, "rms", distances, held_out)


def full_page() -> Page:
    """A page with everything, and names that would do harm if they were not escaped."""
    entries = [
        Entry(
            f"{run} {step} {EVIL}",
            {f"preset {EVIL}": run, "step": str(step), "weights": "9f2c" * 16, EVIL: EVIL},
            [score(900 / step**0.5, interval=(800 / step**0.5, 1000 / step**0.5), note=EVIL), score(0.5, name=EVIL)],
            Progress(run + EVIL, step, step * 64, step * 1e14),
        )
        for run in ("a", "b")
        for step in (100, 1000, 10_000)
    ]
    distances = np.linspace(1, 2, 50)
    return Page(
        title=f"A page {EVIL}",
        entries=entries,
        reference={EVIL: EVIL},
        interval=f"95 % {EVIL}",
        galleries=[
            Gallery(f"digits {EVIL}", page_images(3), page_images(5, channels=3), [EVIL] * 3, ["b"]),
            Gallery("clouds", clouds(2), clouds(3, channels=6), ["x"], [EVIL]),
        ],
        neighbors=neighbors(clouds(4), distances, distances + 0.5),
        histograms=[Histogram(EVIL, EVIL, {EVIL: distances, "reference": distances * 2})],
    )


@functools.cache
def full_text() -> str:
    return html(full_page())


class Reader(HTMLParser):
    """Elements of a page, in order, with their attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in {"meta", "link", "img", "input"}:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]


def cells(text: str) -> list[str]:
    return re.findall(r"<td[^>]*>(.*?)</td>", text)


def test_the_page_reaches_nothing_outside_itself() -> None:
    text = full_text()
    assert not re.search(r"(?:https?:|wss?:|//[a-z0-9]+\.)", text)
    assert "@import" not in text and "url(" not in text
    reader = Reader(text)
    for tag, attributes in reader.elements:
        for name in ("src", "href", "action", "data", "poster", "srcset"):
            assert attributes.get(name, "#").startswith(("data:", "#")), (tag, attributes)
        assert not [name for name in attributes if name.startswith("on") or name == "style"], (tag, attributes)
    policy = next(meta["content"] for meta in reader.all("meta") if "http-equiv" in meta)
    assert policy.startswith("default-src 'none'; img-src data:;") and "unsafe" not in policy


def test_elements_close_in_order_and_no_text_becomes_one() -> None:
    reader = Reader(full_text())
    assert reader.open == []
    assert len(reader.all("script")) == 1, "the page's own"
    ids = [attributes["id"] for _, attributes in reader.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    targets = {a["href"] for a in reader.all("a")}
    assert targets and targets <= {f"#{each}" for each in ids}


def test_the_same_page_gives_the_same_bytes_without_a_place(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    files = [tmp_path / "a.html", tmp_path / "other" / "b.html"]
    for path in files:
        write(path, full_page())
    assert files[0].read_bytes() == files[1].read_bytes()
    assert str(tmp_path).encode() not in files[0].read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.html", "other"]


def test_every_image_has_a_text_and_every_table_headings() -> None:
    reader = Reader(full_text())
    assert all(image["alt"] for image in reader.all("img"))
    assert all(th["scope"] in {"col", "row"} for th in reader.all("th"))
    assert all("aria-label" in svg or svg.get("aria-hidden") for svg in reader.all("svg"))


def test_the_best_is_bold_among_equal_protocols_and_counts_alone() -> None:
    entries = [
        Entry("a", {}, [score(12.0), score(0.5, name="IS", higher=True), score(7.0, protocol="adm")]),
        Entry("b", {}, [score(11.0), score(0.9, name="IS", higher=True)]),
        Entry("c", {}, [score(3.0, count=10), score(float("nan"), name="IS", higher=True)]),
    ]
    text = html(Page("t", entries))
    assert re.findall(r"<strong>(.*?)</strong>", text) == ["11.00", "0.9000"]
    assert '3.000<span class="count">n = 10</span>' in cells(text)
    assert cells(text).count("\N{EM DASH}") == 3, "two without `adm`, and one that could not be taken"


def test_equal_scores_are_all_the_best_or_none() -> None:
    pair = [Entry(name, {}, [score(1.0)]) for name in "ab"]
    assert "<strong>" not in html(Page("t", pair))
    assert html(Page("t", [*pair, Entry("c", {}, [score(2.0)])])).count("<strong>") == 2


@pytest.mark.parametrize(
    ("value", "interval", "shown"),
    [
        (12.3456, (11.9, 12.81), ("12.35", "11.90 \N{EN DASH} 12.81")),
        (41234.5, (40000.0, 42000.0), ("41,234", "40,000 \N{EN DASH} 42,000")),
        (-0.5, (-0.9, 0.1), ("\N{MINUS SIGN}0.50", "\N{MINUS SIGN}0.90 \N{EN DASH} 0.10")),
        (0.00231, None, ("0.002310", None)),
        (0.0, None, ("0", None)),
        (float("nan"), (0.0, 1.0), ("\N{EM DASH}", None)),
    ],
)
def test_values_have_the_digits_that_their_interval_warrants(value: float, interval: Any, shown: Any) -> None:
    assert number_format.with_interval(value, interval) == shown


@pytest.mark.parametrize("is_logarithmic", [False, True])
def test_ticks_are_round_within_the_range_and_few(is_logarithmic: bool) -> None:
    rng = np.random.default_rng(0)
    for _ in range(500):
        low = float(10 ** rng.uniform(-6, 18))
        high = low * float(10 ** rng.uniform(0.3 if is_logarithmic else 1e-3, 8))
        ticks = number_format.ticks(low, high, is_logarithmic=is_logarithmic)
        assert len(ticks) <= 5 and ticks == sorted(ticks)
        assert all(low * 0.999 <= tick <= high * 1.001 for tick in ticks)
        if not is_logarithmic:
            assert len(ticks) >= 1


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0, "0"), (0.25, "0.25"), (1500, "1,500"), (2e4, "20\N{NO-BREAK SPACE}k"), (1.5e6, "1.5\N{NO-BREAK SPACE}M")]
    + [(1e18, "10¹⁸"), (3e15, "3·10¹⁵"), (9.999e17, "10¹⁸"), (2e-5, "2·10⁻⁵")],
)
def test_short_forms_of_numbers(value: float, shown: str) -> None:
    assert number_format.format_compact(value) == shown


def test_curves_stand_against_steps_samples_and_flops_a_line_for_each_run() -> None:
    text = full_text()
    plots = re.findall(r'<div class="axis-(\d)">(.*?)</svg>', text)
    assert [axis for axis, _ in plots] == list("012012")
    for _, plot in plots:
        assert plot.count('class="line') == 2 and plot.count('class="dot') == 6
    assert text.count('type="radio"') == 3
    flops = plots[2][1]
    assert "10¹⁶" in flops and "10¹⁷" in flops, "FLOPs over decades have a logarithmic axis"


def test_a_line_falls_where_the_metric_does() -> None:
    entries = [
        Entry(str(step), {}, [score(100.0 - step)], Progress("run", step, step, 1e9 * step)) for step in (90, 10, 50)
    ]
    path = re.search(r'class="line s0" d="M([^"]+)"', html(Page("t", entries)))
    assert path is not None
    x, y = np.array([spot.split() for spot in path[1].split("L")], dtype=float).T
    assert (np.diff(x) > 0).all() and (np.diff(y) > 0).all()
    np.testing.assert_allclose(np.diff(y) / np.diff(x), np.diff(y)[0] / np.diff(x)[0], rtol=0.01)


@pytest.mark.parametrize(("shift", "share"), [(0.0, 1.0), (-2.0, 100.0), (2.0, 0.0)])
def test_the_memorisation_check_tells_the_share_that_is_too_near(shift: float, share: float) -> None:
    held_out = np.linspace(3, 4, 1000)
    page = Page("t", [], neighbors=neighbors(page_images(4), held_out + shift, held_out))
    assert f"<strong>{share:.1f}\N{NO-BREAK SPACE}% of the samples</strong>" in html(page)


def test_samples_that_lie_nearest_come_first_beside_their_neighbors() -> None:
    samples = page_images(3)
    content = neighbors(samples, np.array([5.0, 1.0, 3.0]), None)
    shown = re.findall(r"data:image/png;base64,([^\"]+)", galleries.neighbors(content))
    decoded = [np.asarray(Image.open(io.BytesIO(base64.b64decode(each)))) for each in shown]
    assert len(decoded) == 3 * 4
    for index, row in enumerate([1, 2, 0]):
        np.testing.assert_array_equal(decoded[4 * index], samples[row, ..., 0])


def test_no_more_of_the_reference_is_shown_than_samples() -> None:
    text = galleries.gallery(Gallery("t", page_images(3), page_images(9)))
    assert text.count("<img") == 6 and "3 of 9" in text


def test_images_keep_their_pixels_and_what_is_left_out_is_said() -> None:
    images = page_images(60, channels=3)
    text = galleries.gallery(Gallery("t", images))
    shown = re.findall(r"data:image/png;base64,([^\"]+)", text)
    assert len(shown) == 48 and "48 of 60" in text
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(base64.b64decode(shown[7])))), images[7])


def test_clouds_keep_their_places_to_a_ten_thousandth_of_their_radius() -> None:
    points = clouds(1, points=3000)
    raw = re.search(r'data-points="([^"]+)"', galleries.gallery(Gallery("t", points)))
    assert raw is not None
    back = (np.frombuffer(base64.b64decode(raw[1]), "<u2").reshape(-1, 3) / 65535 * 2 - 1) * galleries.REACH
    low, high = np.quantile(points[0], [0.005, 0.995], axis=0)
    centered = points[0] - (low + high) / 2
    scale = np.quantile(np.linalg.norm(centered, axis=1), 0.995)
    np.testing.assert_allclose(back, centered / scale, atol=1e-4)


def test_the_page_is_bounded_however_much_it_is_given() -> None:
    photos = page_images(100, side=320, channels=3)
    # The parts of a page of noise, which no PNG makes smaller: 1 Mi pixels of 3 bytes, a third more as text.
    assert len(galleries.gallery(Gallery("t", photos))) < 4.4e6
    assert len(galleries.gallery(Gallery("t", clouds(40, points=40_000)))) < 2.4e6
    near = neighbors(photos, np.linspace(1, 2, 100), None)
    assert len(galleries.neighbors(near)) < 4.4e6


def test_a_cloud_with_broken_points_or_none_does_not_break_the_page() -> None:
    broken = clouds(2)
    broken[0, :5], broken[1] = np.nan, np.inf
    text = galleries.gallery(Gallery("t", broken))
    assert "251 points" in text and "no finite point" in text


def test_facts_that_all_share_are_reported_once() -> None:
    entries = [Entry(name, {"preset": "xl", "step": name}, []) for name in ("one", "two")]
    text = html(Page("t", entries))
    assert text.count("<dd>xl</dd>") == 1 and cells(text) == ["one", "two"]


def test_a_page_of_nothing_but_a_title_is_whole() -> None:
    assert Reader(html(Page("t", [Entry("a", {}, [])]))).open == []


class Chromium:
    """A browser without a window, spoken to over two pipes."""

    def __init__(self, process: subprocess.Popen, send: int, receive: int) -> None:
        self.process, self.number, self.pending = process, 0, b""
        self._send, self._receive, self.session = send, receive, ""
        self.events: list[dict] = []

    def ask(self, method: str, **parameters: Any) -> dict:
        """Do something and return what came of it; what happens meanwhile goes to `events`."""
        self.number += 1
        message = {"id": self.number, "method": method, "params": parameters}
        if self.session:
            message["sessionId"] = self.session
        os.write(self._send, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self.number:
                assert "error" not in answer, answer
                return answer["result"]
            self.events.append(answer)

    def value(self, script: str) -> Any:
        """What a script in the page comes to."""
        result = self.ask("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def key(self, key: str) -> None:
        for kind in ("keyDown", "keyUp"):
            self.ask("Input.dispatchKeyEvent", type=kind, key=key)

    def mouse(self, kind: str, x: float, y: float) -> None:
        self.ask("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", buttons=1, clickCount=1)

    def _next(self) -> dict:
        while b"\0" not in self.pending:
            assert select.select([self._receive], [], [], 60)[0], "the browser is silent"
            part = os.read(self._receive, 1 << 20)
            assert part, "the browser is gone"
            self.pending += part
        message, _, self.pending = self.pending.partition(b"\0")
        return json.loads(message)


@contextmanager
def opened(path: Path, folder: Path) -> Iterator[Chromium]:
    """A page in a browser whose network is off."""
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("no Chromium on this machine")
    (to_read, to_send), (from_read, from_send) = os.pipe(), os.pipe()
    flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe", "--window-size=1000,800"]
    command = [program, *flags, f"--user-data-dir={folder}", "about:blank"]
    # The browser wants its pipes at 3 and 4.
    moves = (
        "import os, sys; from fcntl import F_DUPFD, fcntl; a, b = (fcntl(int(n), F_DUPFD, 10) for n in sys.argv[1:3])"
    )
    moves += "; os.dup2(a, 3); os.dup2(b, 4); os.execv(sys.argv[3], sys.argv[3:])"
    redirected = [sys.executable, "-c", moves, str(to_read), str(from_send), *command]
    pipes = (to_read, from_send)
    process = subprocess.Popen(redirected, pass_fds=pipes, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    for pipe in pipes:
        os.close(pipe)
    browser = Chromium(process, to_send, from_read)
    try:
        target = browser.ask("Target.createTarget", url="about:blank")["targetId"]
        browser.session = browser.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            browser.ask(f"{domain}.enable")
        browser.ask(
            "Network.emulateNetworkConditions", offline=True, latency=0, downloadThroughput=0, uploadThroughput=0
        )
        browser.ask("Page.navigate", url=path.as_uri())
        until(browser, "document.readyState === 'complete'")
        yield browser
    finally:
        process.terminate()
        process.wait(timeout=30)
        os.close(to_send)
        os.close(from_read)


def until(browser: Chromium, script: str) -> None:
    end = time.monotonic() + 30
    while not browser.value(script):
        assert time.monotonic() < end, script
        time.sleep(0.05)


def is_complaint(event: dict) -> bool:
    """Whether something failed: an exception, what the policy forbade, an error in the console."""
    if event["method"] == "Log.entryAdded":
        return event["params"]["entry"]["level"] == "error"
    return event["method"] in {"Runtime.exceptionThrown", "Runtime.consoleAPICalled"}


DRAWN = """(index => { const canvas = document.querySelectorAll("canvas")[index];
  const data = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
  let count = 0, sum = 0; data.forEach((value, i) => { if (value && i % 4 === 3) count++; sum = (sum * 31 + value) % 1000003; });
  return [canvas.width, count, sum]; })"""


@pytest.mark.slow
def test_in_a_real_browser_nothing_is_fetched_nothing_fails_and_clouds_turn(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    page = full_page()
    write(path, dataclasses.replace(page, galleries=page.galleries[1:]))
    with opened(path, tmp_path / "browser") as browser:
        browser.value("document.querySelector('.cloud').scrollIntoView({block: 'center'})")
        until(browser, f"{DRAWN}(0)[1] > 0 && {DRAWN}(1)[1] > 0")
        time.sleep(0.5)
        side, inked, first = browser.value(f"{DRAWN}(0)")
        assert 0.05 < inked / side**2 < 0.95, "a cloud, neither nothing nor everything"
        other = browser.value(f"{DRAWN}(1)[2]")

        browser.value("document.querySelector('canvas').focus()")
        browser.key("ArrowRight")
        until(browser, f"{DRAWN}(0)[0] === {side} && {DRAWN}(0)[2] !== {first}")
        assert browser.value(f"{DRAWN}(1)[2]") == other, "the others rest"
        browser.key("0")
        until(browser, f"{DRAWN}(0)[2] === {first}")

        box = browser.value(
            "(({x, y, width}) => [x, y, width])(document.querySelector('canvas').getBoundingClientRect())"
        )
        x, y = box[0] + box[2] / 2, box[1] + box[2] / 2
        browser.mouse("mousePressed", x, y)
        browser.mouse("mouseMoved", x + 25, y + 10)
        browser.mouse("mouseReleased", x + 25, y + 10)
        until(browser, f"{DRAWN}(0)[0] === {side} && {DRAWN}(0)[2] !== {first}")

        browser.value("document.querySelector('.turning input').click()")
        browser.value("document.querySelector('canvas').focus()")
        browser.key("ArrowUp")
        until(browser, f"{DRAWN}(1)[2] !== {other}")
        visible = "[...document.querySelectorAll('.axis-0, .axis-1, .axis-2')].map(e => e.offsetHeight > 0)"
        assert browser.value(visible) == [True, False, False] * 2
        browser.value("document.querySelector('label[for=axis-2]').click()")
        assert browser.value(visible) == [False, False, True] * 2
        assert not browser.value("document.documentElement.scrollWidth > innerWidth"), "no scrolling to the side"

        requested = [
            e["params"]["request"]["url"] for e in browser.events if e["method"] == "Network.requestWillBeSent"
        ]
        assert {url for url in requested if not url.startswith("data:")} <= {path.as_uri(), "about:blank"}
        assert [event for event in browser.events if is_complaint(event)] == []


@pytest.mark.slow
def test_the_policy_stops_what_would_reach_out_or_run_in_a_real_browser(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    text = html(Page("t", [Entry("a", {}, [score(1.0)])]))
    bad = '<img src="https://example.org/a.png"><p id="p" onclick="document.title = 1">x</p><script>document.title = "run"</script>'
    path.write_text(text.replace("<main>", f"<main>{bad}"), encoding="utf-8")
    with opened(path, tmp_path / "browser") as browser:
        browser.value("document.getElementById('p').click()")
        assert browser.value("document.title") == "t"
        assert len([event for event in browser.events if is_complaint(event)]) >= 3
