"""The page's server: tiles and points are the function's own values, bad requests are refused, the client's leaving cancels."""

from __future__ import annotations

import asyncio
import io
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from inrflow_cli.app import run
from inrflow_core.errors import UsageError
from inrflow_core.sampling.request import SizeOptions
from inrflow_core.viewer import viewed_run
from inrflow_core.viewer.functions import Functions
from inrflow_core.viewer.job import CancelledJob
from inrflow_core.viewer.selection import Selection
from inrflow_core.viewer.server import Page
from inrflow_core.viewer.worker import Worker
from tests import tiny

URL = "http://127.0.0.1:8420"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    parent = tmp_path_factory.mktemp("runs")
    tiny.run_folder(parent / "images", tiny.LOCAL_IMAGE)
    tiny.run_folder(parent / "clouds", tiny.POINTS)
    tiny.run_folder(parent / "weaker", {**tiny.LOCAL_IMAGE, "network": {**tiny.LOCAL_IMAGE["network"], "depth": 1}})
    return parent


def functions_of(folders: Path, **settings: Any) -> Functions:
    runs = viewed_run.open_runs([folders / name for name in ("images", "clouds", "weaker")])
    return Functions(runs, **{"max_side": 1024, **settings})


@pytest.fixture(scope="module")
def client(folders: Path) -> Iterator[TestClient]:
    with TestClient(Page(functions_of(folders), Worker(1)).app(), base_url=URL) as client:
        yield client


def tile(client: TestClient, **parameters: Any) -> np.ndarray:
    response = client.get("/api/tile", params=parameters)
    assert response.status_code == 200, response.text
    return np.asarray(Image.open(io.BytesIO(response.content)))


def points(client: TestClient, **parameters: Any) -> np.ndarray:
    response = client.get("/api/points", params={"run": 1, **parameters})
    assert response.status_code == 200, response.text
    return np.frombuffer(response.content, "<f4").reshape(-1, int(response.headers["x-channels"]))


@pytest.mark.parametrize(
    ("parameters", "options"),
    [
        ({}, []),
        ({"label": "dog", "guidance": 2, "ema": 0}, ["--label", "dog", "--guidance", "2", "--ema", "0"]),
        ({"guidance": 3, "interval": "0.2,0.8"}, ["--guidance", "3", "--guidance-interval", "0.2,0.8"]),
        ({"guidance": 3, "guide": "2"}, ["--guidance", "3", "--guide-run", "RUNS/weaker"]),
        ({"sampler": "heun", "steps": 3, "step": 2}, ["--sampler", "heun", "--steps", "3", "--checkpoint", "2"]),
    ],
    ids=["the preset's", "guided", "guided at some times", "guided by a run", "another sampler"],
)
def test_a_tile_equals_to_the_bit_the_window_that_sample_writes(
    client: TestClient, folders: Path, tmp_path: Path, parameters: dict[str, Any], options: list[str]
):
    drawn = tile(client, seed=5, level=2, row=1, column=3, size=80, **parameters)
    where = ["--resolution", "80", "--window", "0.25,0.75,0.5,1", "--seed", "5"]
    options = [option.replace("RUNS", str(folders)) for option in options]
    assert run(["sample", "--run", str(folders / "images"), *where, *options, str(tmp_path / "out.png")]) == 0
    np.testing.assert_array_equal(drawn, np.asarray(Image.open(tmp_path / "out.png")))


@pytest.mark.parametrize("kind", ["function", "bicubic"])
def test_four_neighboring_tiles_are_one_large_tile(client: TestClient, kind: str):
    whole = tile(client, seed=2, kind=kind, level=1, row=0, column=1, size=64)
    parts = [
        [tile(client, seed=2, kind=kind, level=2, row=row, column=column, size=32) for column in (2, 3)]
        for row in (0, 1)
    ]
    np.testing.assert_array_equal(np.block(parts), whole)


def test_a_finer_tile_meets_the_training_pixels_at_their_centers(client: TestClient):
    fine = tile(client, seed=3, level=0, row=0, column=0, size=18)
    training = tile(client, seed=3, level=0, row=0, column=0, size=6, kind="pixels")
    assert np.abs(fine[1::3, 1::3].astype(int) - training).max() <= 1
    assert training.std() > 10


def test_more_points_only_add_to_those_before(client: TestClient):
    few, many = points(client, num=100), points(client, num=700)
    np.testing.assert_allclose(many[:100], few, atol=1e-4)
    np.testing.assert_allclose(points(client, first=100, num=600), many[100:], atol=1e-4)
    assert many.shape == (700, 3)


def test_a_download_is_the_file_of_sample(client: TestClient, folders: Path, tmp_path: Path):
    for number, (suffix, parameters, options) in enumerate(
        [
            ("png", {"resolution": "20x30", "window": "0,0.25,0.5,1"}, ["--window", "0,0.25,0.5,1"]),
            ("ply", {"run": 1, "points": 90}, ["--points", "90"]),
        ]
    ):
        response = client.get("/api/file", params={"seed": 4, "suffix": suffix, **parameters})
        assert response.headers["content-disposition"] == f'attachment; filename="seed-4.{suffix}"'
        size = ["--resolution", "20x30"] if number == 0 else []
        source = folders / ("images", "clouds")[number]
        assert run(["sample", "--run", str(source), "--seed", "4", *size, *options, str(tmp_path / f"a.{suffix}")]) == 0
        assert response.content == (tmp_path / f"a.{suffix}").read_bytes()


def test_a_download_ends_at_the_next_step_once_its_client_has_left(folders: Path):
    functions, steps = functions_of(folders), []

    def leave(done: int, total: int) -> None:
        steps.append(done)
        if len(steps) > 2:
            raise CancelledJob

    functions.record(selection(3))
    with pytest.raises(CancelledJob):
        functions.file(selection(3), ".png", SizeOptions(resolution="16"), progress=leave)
    assert len(steps) == 3
    content = functions.file(selection(3), ".png", SizeOptions(resolution="16"), progress=lambda done, total: None)
    assert content == functions.file(selection(3), ".png", SizeOptions(resolution="16"))


def test_a_solver_step_reports_before_each_chunk_of_queries(folders: Path):
    functions = functions_of(folders)
    functions.record(selection(3))
    reports: list[tuple[int, int]] = []
    functions.image(selection(3), 128, None, lambda done, total: reports.append((done, total)))
    chunks = 128**2 // 4096
    assert reports == sorted(reports) and reports[-1] == (4, 4)
    assert all(reports.count((done, 4)) > chunks for done in range(4))


def test_a_request_that_the_server_s_stop_cancels_is_answered_and_its_job_ends(folders: Path):
    functions, worker, is_started, may_go = functions_of(folders), Worker(1), threading.Event(), threading.Event()

    def record(selected: Selection, progress: Any = None) -> Any:
        is_started.set()
        may_go.wait(10)
        progress(1, 2)

    functions.record = record  # type: ignore[method-assign]
    sent: list[int] = []

    async def request_and_stop() -> None:
        task = asyncio.create_task(_request(Page(functions, worker).app(), sent, b"steps=400"))
        await asyncio.to_thread(is_started.wait, 10)
        task.cancel()  # as uvicorn does, a second after Ctrl-C
        await task

    asyncio.run(request_and_stop())
    may_go.set()
    worker.close()
    assert sent == [499] and not worker._unfinished


def test_the_answers_say_what_was_sampled_and_how_long_it_took(client: TestClient):
    info = client.get("/api/info").json()
    assert [(one["name"], one["view"], one["emas"]) for one in info["runs"]] == [
        ("images", "image", [0.999, 0]),
        ("clouds", "cloud", [0.999, 0]),
        ("weaker", "image", [0.999, 0]),
    ]
    first = client.get("/api/record", params={"seed": 77, "label": "owl", "steps": 2})
    assert (first.json()["class"], first.json()["is_cached"]) == ("owl", False)
    assert "steps=2" in first.json()["options"]["sampler"] and first.json()["milliseconds"] > 0
    again = client.get("/api/record", params={"seed": 77, "label": "owl", "steps": 2})
    assert again.json()["is_cached"] and "work;dur=" in again.headers["server-timing"]


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("tile?level=1&row=2&column=0", "the level 1 has no tile in row 2"),
        ("tile?level=1&row=0", "`column` is missing"),
        ("tile?level=99&row=0&column=0", "`level=99`: give a whole number from 0 to 14"),
        ("tile?level=0&row=0&column=0&size=2000", "from 1 to 1024"),
        ("tile?level=0&row=0&column=0&kind=cubic", "did you mean `bicubic`?"),
        ("tile?run=1&level=0&row=0&column=0", "samples point clouds: request a cloud"),
        ("points?run=1&num=128001", "`num=128001`"),
        ("points?run=1&first=127000&num=2000", "129,000 points: give at most 128,000"),
        ("points?run=0&num=4", "samples images: request an image"),
        ("record?seed=-1", "`seed=-1`"),
        ("record?seed=1&seed=2", "`seed` is repeated"),
        ("record?sed=1", "there is no parameter `sed`: did you mean `seed`?"),
        ("record?run=7", "there is no run 7"),
        ("record?label=cow", "the model has no class of that name"),
        ("record?label=%00", "control characters"),
        ("record?label=do%C2%A0g%E3%80%80x", "the model has no class of that name"),
        ("record?sampler=hein", "did you mean `heun`?"),
        ("record?interval=0.9,0.1", "`interval=0.9,0.1`: give two times from 0 to 1, as in `0.1,0.9`"),
        ("record?guide=x", "`guide=x`: give the number of a run, or a run and a step"),
        ("record?guide=9", "there is no run 9"),
        ("record?guide=1&guidance=2", "guide"),
        ("record?guidance=nan", "`guidance=nan`"),
        ("record?ema=0.5", "0.999"),
        ("file?suffix=exe", "no format of images has the suffix `.exe`: give one of png, npz"),
        ("file?suffix=png&resolution=8x9999", "from 1 to 1024"),
        ("file?suffix=png&window=0,0,2,1", "give top, left, bottom and right"),
        ("file?suffix=../x", "no format of images"),
        ("file?suffix=png&points=5000", "`points` does not apply: the model samples images: use `resolution`"),
    ],
)
def test_a_bad_request_gets_400_with_a_reason_and_a_hint(client: TestClient, query: str, words: str):
    response = client.get(f"/api/{query}")
    assert response.status_code == 400, response.text
    body = response.json()
    assert words in f"{body['error']}: {body['hint']}"


def test_a_message_names_runs_as_the_page_does_and_no_paths(folders: Path):
    weights = folders / "images" / "checkpoints" / "00000002" / "weights.safetensors"
    page = Page(Functions(viewed_run.open_runs([folders / "images", weights])), Worker(1))
    with TestClient(page.app(), base_url=URL) as client:
        for query in ("run=1&step=7", "run=1&ema=0.5", "step=7", "ema=0.5"):
            words = " ".join(client.get(f"/api/record?{query}").json().values())
            assert str(folders) not in words and "`--" not in words and "`" in words, words
        assert client.get("/api/record?run=1&step=7").json()["error"].startswith("`weights` holds step 2")


def test_what_does_not_exist_is_404(client: TestClient):
    assert client.get("/api/record", params={"step": 7}).status_code == 404
    for path in (
        "/page/../server.py",
        "/page/../../viewer/server.py",
        "/page/./../server.py",
    ):  # httpx would shorten them
        sent: list[int] = []
        asyncio.run(_request(client.app, sent, path=path))
        assert sent == [404], path
    assert client.post("/api/info").status_code == 405


def test_recorded_fields_stay_within_their_bytes_and_the_newest_stays(folders: Path):
    functions = functions_of(folders)
    size = functions.record(selection(0)).field.size()
    functions.fields.limit = 3 * size
    for seed in range(6):
        functions.record(selection(seed))
        assert functions.fields.num_bytes <= 3 * size
    assert [selection(seed) in functions.fields for seed in range(6)] == [False] * 3 + [True] * 3
    functions.fields.limit = 1
    functions.record(selection(9))
    assert len(functions.fields) == 1 and selection(9) in functions.fields


def selection(seed: int) -> Selection:
    return Selection(seed=seed)


def test_a_request_whose_client_leaves_is_cancelled_and_the_next_is_answered(folders: Path):
    functions, worker = functions_of(folders), Worker(1)
    steps, is_started, is_gone = [0], threading.Event(), threading.Event()
    plain = functions.record

    def record(selected, progress=None):
        def counting(done: int, total: int) -> None:
            is_started.set()
            is_gone.wait(10)
            steps[0] = done
            assert progress is not None
            progress(done, total)

        return plain(selected, counting)

    functions.record = record  # type: ignore[method-assign]
    app = Page(functions, worker).app()
    sent = asyncio.run(_leave_during(app, is_started, is_gone))
    worker.close()
    assert sent == [499]
    assert steps == [0], "the job ends within its first step, of 400"
    assert len(functions.fields) == 0 and not worker._unfinished


class BlockedRecording:
    """Makes the recording of a seed stop at its second step until it may continue; `repeats` reports its progress meanwhile."""

    def __init__(self, functions: Functions, seed: int, *, repeats: bool) -> None:
        self.is_started, self.may_go, self._record = threading.Event(), threading.Event(), functions.record
        self._seed, self._repeats = seed, repeats
        functions.record = self  # type: ignore[method-assign]

    def __call__(self, selected: Selection, progress: Any = None) -> Any:
        def blocking(done: int, total: int) -> None:
            progress(done, total)
            if done < 1:
                return
            self.is_started.set()
            end = time.monotonic() + 20
            while self._repeats and not self.may_go.wait(0.002) and time.monotonic() < end:
                progress(done, total)
            assert self.may_go.wait(20)

        return self._record(selected, blocking if selected.seed == self._seed else progress)


@pytest.mark.parametrize(
    ("settings", "total"), [({}, 4), ({"sampler": "euler-maruyama", "steps": 5}, 6)], ids=["ODE", "SDE"]
)
def test_what_is_recorded_is_answered_while_another_is_recorded_with_the_same_bits(
    folders: Path, settings: dict[str, Any], total: int
):
    where = {"level": 1, "row": 0, "column": 1, "size": 96, **settings}
    functions = functions_of(folders)
    with TestClient(Page(functions, Worker(1)).app(), base_url=URL) as client, ThreadPoolExecutor(1) as pool:
        before = {kind: tile(client, seed=3, kind=kind, **where) for kind in ("function", "bicubic")}
        cloud, alone = points(client, num=200), tile(client, seed=9, **where)
        functions.fields.drop(lambda one: int(one.field.seeds[0]) == 9)
        recording = BlockedRecording(functions, 9, repeats=True)
        waiting = pool.submit(tile, client, seed=9, **where)
        assert recording.is_started.wait(20)
        steps = client.get("/api/progress", params={"seed": 9, **settings}).json()
        assert steps == {"is_recorded": False, "done": 1, "total": total}
        for kind, pixels in before.items():
            np.testing.assert_array_equal(tile(client, seed=3, kind=kind, **where), pixels)
        np.testing.assert_array_equal(points(client, num=200), cloud)
        assert client.get("/api/record", params={"seed": 3, **settings}).json()["is_cached"]
        assert not waiting.done()
        recording.may_go.set()
        np.testing.assert_array_equal(waiting.result(20), alone)
        assert client.get("/api/progress", params={"seed": 9, **settings}).json() == {
            **{"is_recorded": True, "done": None, "total": None}
        }


async def _leave_during(app: Any, is_started: threading.Event, is_gone: threading.Event) -> list[int]:
    """Request a sample of many steps, leave once it is under way; returns the statuses that were sent."""
    sent: list[int] = []
    await _request(app, sent, b"steps=400", is_started)
    is_gone.set()
    return sent


async def _request(
    app: Any, sent: list[int], query: bytes = b"", has_left: threading.Event | None = None, path: str = "/api/record"
) -> None:
    """Request a path as it is, of a client that leaves with an event; `sent` gets the status of the answer."""

    async def receive() -> dict[str, Any]:
        if has_left is None or not has_left.is_set():
            await asyncio.sleep(60)  # ends by the cancellation of whoever looks
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            sent.append(message["status"])

    scope = {
        **{"type": "http", "method": "GET", "path": path, "raw_path": path.encode(), "http_version": "1.1"},
        **{"query_string": query, "headers": [(b"host", b"localhost")], "scheme": "http", "root_path": ""},
    }
    await app(scope, receive, send)


def test_a_run_that_the_page_does_not_show_is_refused_with_a_hint(folders: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(viewed_run, "VIEWS", {"points": "cloud"})
    with pytest.raises(UsageError, match="samples images, which the page does not show") as error:
        viewed_run.open_runs([folders / "images"])
    assert "`inrflow sample --run" in str(error.value.hint)


def test_a_bug_is_answered_with_500_and_keeps_its_traceback(client: TestClient, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Functions, "image", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        client.get("/api/tile?level=0&row=0&column=0")
    quiet = TestClient(client.app, base_url=str(client.base_url), raise_server_exceptions=False)
    assert quiet.get("/api/tile?level=0&row=0&column=0").status_code == 500
