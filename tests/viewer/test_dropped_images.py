"""Images dropped on the page: what a run encodes or samples under, with the truth beside it; bad files are refused."""

from __future__ import annotations

import base64
import hashlib
import io
import re
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from inrflow_cli.app import run
from inrflow_core.errors import MissingError, UsageError
from inrflow_core.runtime.progress import Progress
from inrflow_core.viewer import dropped_images, viewed_run
from inrflow_core.viewer.dropped_images import DroppedImages
from inrflow_core.viewer.functions import Functions
from inrflow_core.viewer.job import CancelledJob
from inrflow_core.viewer.selection import Selection
from inrflow_core.viewer.server import Page
from inrflow_core.viewer.worker import Worker
from tests import tiny

KINDS = {
    **{"flow": tiny.LOCAL_IMAGE, "consistency": tiny.INR, "latent": tiny.LATENT, "scenes": tiny.RADIANCE},
    **{"objects": tiny.IMAGE_TO_POINTS, "clouds": tiny.POINTS},
}
DATA = re.compile(r"data:image/png;base64,([^\"]+)")
WHOLE = (0.0, 0.0, 1.0, 1.0)
URL = "http://127.0.0.1:8420"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    parent = tmp_path_factory.mktemp("runs")
    for name, kind in KINDS.items():
        tiny.run_folder(parent / name, kind)
    rows, columns = np.mgrid[:50, :60]
    pixels = np.stack([4 * columns, 5 * rows, 128 + 100 * np.sin(rows / 5)], -1)
    Image.fromarray(pixels.round().clip(0, 255).astype(np.uint8)).save(parent / "photo.png")
    return parent


@pytest.fixture(scope="module")
def client(folders: Path) -> Iterator[TestClient]:
    functions = Functions(viewed_run.open_runs([folders / name for name in KINDS]), max_side=512)
    with TestClient(Page(functions, Worker(1)).app(), base_url=URL) as client:
        yield client


def drop(client: TestClient, content: bytes) -> str:
    response = client.post("/api/image", content=content)
    assert response.status_code == 200, response.text
    return response.json()["image"]


@pytest.fixture(scope="module")
def image(client: TestClient, folders: Path) -> str:
    return drop(client, (folders / "photo.png").read_bytes())


def tile(client: TestClient, **parameters: Any) -> np.ndarray:
    response = client.get("/api/tile", params={"level": 0, "row": 0, "column": 0, **parameters})
    assert response.status_code == 200, response.text
    return np.asarray(Image.open(io.BytesIO(response.content)))


@pytest.mark.parametrize("name", ["flow", "consistency", "latent"])
def test_a_tile_and_a_download_are_those_of_upsample_file(
    client: TestClient, folders: Path, tmp_path: Path, image: str, name: str
):
    which = {"run": list(KINDS).index(name), "image": image} | ({"steps": 6} if name == "flow" else {})
    options = ["--steps", "6"] if name == "flow" else []
    command = ["upsample", "--run", str(folders / name), *options, str(folders / "photo.png")]
    assert run([*command, "--resolution", "40", "--window", "0.5,0,1,0.5", str(tmp_path / "part.png")]) == 0
    part = tile(client, **which, level=1, row=1, size=40)
    np.testing.assert_array_equal(part, np.asarray(Image.open(tmp_path / "part.png")))
    file = client.get("/api/file", params={**which, "suffix": "png", "resolution": "40", "window": "0.5,0,1,0.5"})
    assert file.content == (tmp_path / "part.png").read_bytes()
    answer = client.get("/api/record", params=which).json()
    assert len(answer["error"]) == 1 and answer["error"][0].endswith("dB at the training's positions")


def test_the_truth_is_the_middle_square_at_its_own_pixels_and_bicubic_enlarges_what_the_model_read(
    client: TestClient, folders: Path, image: str
):
    pixels = np.asarray(Image.open(folders / "photo.png"))[:, 5:55]
    np.testing.assert_array_equal(tile(client, image=image, kind="truth", size=50), pixels)
    np.testing.assert_array_equal(
        tile(client, image=image, kind="truth", size=50, level=1, row=0, column=1),
        pixels[:25, 25:].repeat(2, 0).repeat(2, 1),
    )
    small = Image.open(folders / "photo.png").convert("L").crop((5, 0, 55, 50)).resize((12, 12), Image.Resampling.BOX)
    which = {"run": 1, "image": image}
    read = tile(client, **which, kind="pixels", size=12)
    assert np.abs(read.astype(int) - np.asarray(small)).max() < 20
    bicubic = Image.fromarray(read).resize((48, 48), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(tile(client, **which, kind="bicubic", size=48), np.asarray(bicubic))


def test_a_scene_is_that_of_a_view_and_its_camera(client: TestClient, image: str):
    def view(**camera: str) -> bytes:
        response = client.get("/api/scene", params={"run": 3, "image": image, "resolution": 9, **camera})
        assert response.status_code == 200, response.text
        return response.content

    assert view() != view(camera="70,30") and view() == view()


def test_a_cloud_is_sampled_under_the_image_and_its_camera(
    client: TestClient, folders: Path, tmp_path: Path, image: str
):
    options = ["--image", str(folders / "photo.png"), "--azimuth", "30", "--seed", "4", "--points", "60"]
    assert run(["sample", "--run", str(folders / "objects"), *options, str(tmp_path / "a.ply")]) == 0
    which = {"run": 4, "seed": 4, "image": image, "camera": "30"}
    file = client.get("/api/file", params={**which, "suffix": "ply", "points": 60})
    assert file.content == (tmp_path / "a.ply").read_bytes()


def test_the_runs_say_what_they_do_with_an_image(client: TestClient):
    uses = {one["name"]: one["image"] for one in client.get("/api/info").json()["runs"]}
    encode = dict.fromkeys(("flow", "consistency", "latent", "scenes"), "encode")
    assert uses == {**encode, "objects": "condition", "clouds": None}


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("record?run=0&image={}&seed=3", "`seed` does not apply to an image that the model encodes: leave it out"),
        ("record?run=0&image={}&sampler=heun", "`sampler` does not apply"),
        ("record?run=0&image={}&label=0,1", "the class '0,1' is not one class: give one, by number or name"),
        ("record?run=0&image={}&label=all", "the class 'all' is not one class"),
        ("record?run=0&image=123", "the image `123` is not here any longer: drop it on the page again"),
        ("record?run=5&image={}", "the model `clouds` is not conditioned on images"),
        ("record?run=4", "samples under an image: drop one on the page"),
        ("record?run=4&image={}&camera=1,2,x", "`camera=1,2,x`: give azimuth, elevation, distance and field of view"),
        ("tile?level=0&row=0&column=0&kind=truth", "there is no image beside the sample: drop one on the page"),
    ],
)
def test_a_request_that_an_image_does_not_fit_is_refused(client: TestClient, image: str, query: str, words: str):
    response = client.get(f"/api/{query.format(image)}")
    assert response.status_code in (400, 404), response.text
    assert words in f"{response.json()['error']}: {response.json()['hint']}"


def test_a_bad_file_gets_400_with_the_reason(client: TestClient, folders: Path, monkeypatch: pytest.MonkeyPatch):
    whole = (folders / "photo.png").read_bytes()
    for content, words in [
        (b"", "it is empty"),
        (b"%!PS-Adobe EPSF", "its content is not JPEG, PNG"),
        (whole[:-40], "it cannot be decoded"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "its content is not JPEG, PNG"),
    ]:
        response = client.post("/api/image", content=content)
        assert response.status_code == 400, response.text
        assert words in response.json()["error"] and response.json()["hint"].startswith("give a whole PNG")
    monkeypatch.setattr(dropped_images, "MOST_BYTES", 100)
    for content in (whole, iter([whole[:90], whole[90:]])):  # with its length, and in parts of an unknown number
        response = client.post("/api/image", content=content)
        assert response.status_code == 400 and "a file of 0.0 MiB" in response.json()["error"]
    assert client.get("/api/image").status_code == 405


def test_an_image_needs_the_token_and_the_page_s_own_origin(folders: Path):
    page = Page(Functions(viewed_run.open_runs([folders / "flow"])), Worker(1))
    content = (folders / "photo.png").read_bytes()
    with TestClient(page.app(token="secret"), base_url=URL) as client:
        assert client.post("/api/image", content=content).status_code == 403
        for headers in ({"origin": "http://other.example"}, {"sec-fetch-site": "cross-site"}):
            refused = client.post("/secret/api/image", content=content, headers=headers)
            assert refused.status_code == 403
        assert client.post("/secret/api/image", content=content, headers={"origin": URL}).status_code == 200


def test_images_are_bounded_and_leave_no_file(folders: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    content = (folders / "photo.png").read_bytes()
    images = DroppedImages(max_side=32)
    dropped = images.add(content)
    assert dropped.square.shape == (32, 32, 3) and dropped.name == hashlib.sha256(content).hexdigest()[:16]
    with images.file(dropped.name) as path:
        assert path.read_bytes() == content and path.is_relative_to(tmp_path)
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr(dropped_images, "MOST_BYTES", 10)
    with pytest.raises(UsageError, match="a file of"):
        images.add(content)


def test_a_small_file_of_many_pixels_is_refused_by_its_header(client: TestClient):
    file = io.BytesIO()
    Image.new("1", (8001, 8000)).save(file, "PNG")
    assert len(file.getvalue()) < 1 << 16
    response = client.post("/api/image", content=file.getvalue())
    assert response.status_code == 400
    assert "8,001 x 8,000 pixels, more than 64 megapixels: make it smaller" in response.json()["error"]


def test_the_first_image_stays_whatever_is_dropped_later(folders: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(dropped_images, "MEMORY", 10_000)
    functions = Functions(viewed_run.open_runs([folders / "flow"]))
    functions.add_first_image(folders / "photo.png")
    names = []
    for shade in range(3):
        file = io.BytesIO()
        Image.new("RGB", (50, 50), (shade, 0, 0)).save(file, "PNG")
        names.append(functions.images.add(file.getvalue()).name)
    assert functions.images.get(str(functions.first_image)).content == (folders / "photo.png").read_bytes()
    with pytest.raises(MissingError, match="is not here any longer"):
        functions.images.get(names[0])


def test_an_inversion_ends_within_its_first_step(folders: Path):
    functions = Functions(viewed_run.open_runs([folders / "flow"]))
    name = functions.images.add((folders / "photo.png").read_bytes()).name
    steps: list[tuple[int, int]] = []

    def leave(done: int, total: int) -> None:
        steps.append((done, total))
        raise CancelledJob

    with pytest.raises(CancelledJob):
        functions.record(Selection(image=name), leave)
    assert steps == [(0, 200)] and len(functions.fields) == 0


def test_the_input_image_and_its_enlargement_need_no_model(folders: Path):
    functions = Functions(viewed_run.open_runs([folders / name for name in ("flow", "latent")]))
    name, worker = functions.images.add((folders / "photo.png").read_bytes()).name, Worker(1)
    may_go, is_started = threading.Event(), threading.Event()

    def block(progress: Progress) -> None:
        is_started.set()
        may_go.wait(20)

    with TestClient(Page(functions, worker).app(), base_url=URL) as client:
        recording = worker.submit(block)
        assert is_started.wait(10)
        shown = {
            (run, kind): tile(client, image=name, run=run, size=40, kind=kind)
            for run in (0, 1)
            for kind in ("bicubic", "pixels", "truth")
        }
        assert not recording.future.done() and len(functions.fields) == 0 and len(functions._models) == 0
        may_go.set()
        for run in (0, 1):
            example = functions.record(Selection(run=run, image=name)).example
            assert example is not None
            for kind in ("bicubic", "pixels"):
                expected = dropped_images.enlarged(example.values, (40, 40), WHOLE, is_sharp=kind == "pixels")
                np.testing.assert_array_equal(shown[run, kind], expected.squeeze())
        np.testing.assert_array_equal(shown[0, "truth"], shown[1, "truth"])


def test_a_frozen_page_holds_the_image_beside_its_function(folders: Path, tmp_path: Path):
    out = tmp_path / "page.html"
    command = ["view", str(folders / "flow"), str(folders / "clouds"), "--image", str(folders / "photo.png")]
    fragment = "zoom=0.5,0.25,0.5&steps=6&points=256"
    assert run([*command, "--export", str(out), "--fragment", fragment]) == 0
    text = out.read_text(encoding="utf-8")
    captions = re.findall(r"<figcaption>([^<]*)</figcaption>", text)
    assert captions == ["function", "bicubic enlargement", "input image"]
    tiles = [np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))) for data in DATA.findall(text)[:3]]
    assert [one.shape[:2] for one in tiles] == [(768, 768)] * 3
    pixels = Image.open(folders / "photo.png").crop((5, 0, 55, 50))
    box = (12.5, 0, 37.5, 25)
    np.testing.assert_array_equal(tiles[2], np.asarray(pixels.resize((768, 768), Image.Resampling.NEAREST, box=box)))
    function = ["upsample", "--run", str(folders / "flow"), "--steps", "6", str(folders / "photo.png")]
    assert run([*function, "--resolution", "768", "--window", "0,0.25,0.5,0.75", str(tmp_path / "a.png")]) == 0
    np.testing.assert_array_equal(tiles[0], np.asarray(Image.open(tmp_path / "a.png")))
    assert "dB at the training" in text and "seed 0" in text, "the cloud is a new sample"


def test_a_panel_that_waits_for_an_image_is_frozen_with_its_message(
    client: TestClient, folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    command = ["view", str(folders / "clouds"), str(folders / "objects"), "--export", str(tmp_path / "a.html")]
    assert run([*command, "--fragment", "points=256"]) == 0
    assert "`objects` needs an image, and its panel is empty: name one with `--image FILE`" in capsys.readouterr().err
    text = (tmp_path / "a.html").read_text(encoding="utf-8")
    assert text.count("<section") == 2 and "<h2>objects</h2></section><p>needs an image</p>" in text
    response = client.get("/api/frozen", params={"fragment": "panels=5;4&points=256"})
    assert response.text == text, "the page freezes the same"
    assert run(["view", str(folders / "objects"), "--export", str(tmp_path / "b.html")]) == 2
    printed = capsys.readouterr().err
    assert "`objects` needs an image" in printed and "`inrflow view --image FILE`" in printed
    assert not (tmp_path / "b.html").exists()


def test_a_forgotten_image_is_left_out_of_an_export(folders: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path):
    command = ["view", str(folders / "flow"), "--overwrite", "--export", str(tmp_path / "a.html")]
    pages = []
    for fragment in ("seed=3", "seed=3&image=0123456789abcdef"):
        assert run([*command, "--fragment", fragment]) == 0
        pages.append((tmp_path / "a.html").read_bytes())
        said = " ".join(capsys.readouterr().err.split())
        assert ("note: the image `0123456789abcdef` of the fragment is not here any longer" in said) == (
            "image" in fragment
        )
    assert pages[0] == pages[1]


def test_an_image_that_no_run_takes_is_refused(folders: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path):
    out = ["--export", str(tmp_path / "a.html"), "--image", str(folders / "photo.png")]
    assert run(["view", str(folders / "clouds"), *out]) == 2
    assert "no run on the page takes an image" in capsys.readouterr().err
    assert run(["view", str(folders / "flow"), *out[:3], str(tmp_path / "none.png")]) == 3
