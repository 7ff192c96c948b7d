"""Meshes, scenes and clips on the page: the values of the same functions as the files of `inrflow sample`."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from urllib.parse import urlencode

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from inrflow_cli.app import run
from inrflow_core.errors import UsageError
from inrflow_core.proteins import superposition
from inrflow_core.sampling import sample
from inrflow_core.sampling.request import SizeOptions
from inrflow_core.viewer import frozen, viewed_run
from inrflow_core.viewer.functions import Functions
from inrflow_core.viewer.job import CancelledJob
from inrflow_core.viewer.selection import Selection
from inrflow_core.viewer.server import Page
from inrflow_core.viewer.worker import Worker
from inrflow_core.visualization import protein_rendering
from tests import tiny

SEQUENCE = "MKTAYIAK"
KINDS = {
    **{"shapes": tiny.SHAPES, "scenes": tiny.RADIANCE, "videos": tiny.VIDEO},
    **{"proteins": tiny.PROTEIN, "described": tiny.TEXT},
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    parent = tmp_path_factory.mktemp("runs")
    for name, kind in KINDS.items():
        tiny.run_folder(parent / name, kind)
    return parent


@pytest.fixture(scope="module")
def client(folders: Path) -> Iterator[TestClient]:
    functions = Functions(viewed_run.open_runs([folders / name for name in KINDS]), max_side=512)
    with TestClient(Page(functions, Worker(1)).app(), base_url="http://127.0.0.1:8420") as client:
        yield client


def sampled(folders: Path, name: str, out: Path, *options: str) -> Path:
    assert run(["sample", "--run", str(folders / name), "--seed", "6", *options, str(out)]) == 0
    return out


def test_a_mesh_is_closed_over_its_vertices_and_the_file_is_that_of_sample(
    client: TestClient, folders: Path, tmp_path: Path
):
    response = client.get("/api/mesh", params={"seed": 6, "resolution": 12})
    vertices, faces = (int(response.headers[f"x-{name}"]) for name in ("vertices", "faces"))
    points = np.frombuffer(response.content, "<f4", 3 * vertices).reshape(-1, 3)
    normals = np.frombuffer(response.content, "<f4", 3 * vertices, 12 * vertices).reshape(-1, 3)
    corners = np.frombuffer(response.content, "<u4", 3 * faces, 24 * vertices).reshape(-1, 3)
    assert len(response.content) == 24 * vertices + 12 * faces
    edges = np.sort(np.concatenate([corners[:, [0, 1]], corners[:, [1, 2]], corners[:, [2, 0]]]), axis=1)
    assert (np.unique(edges, axis=0, return_counts=True)[1] % 2 == 0).all(), "every edge has two sides"
    assert np.abs(points).max() < 0.6
    np.testing.assert_allclose(np.linalg.norm(normals, axis=1), 1, atol=1e-3)
    file = client.get("/api/file", params={"seed": 6, "suffix": "glb", "resolution": 12})
    assert file.content == sampled(folders, "shapes", tmp_path / "a.glb", "--resolution", "12").read_bytes()


def test_a_view_of_a_scene_is_that_of_sample_for_the_same_camera(client: TestClient, folders: Path, tmp_path: Path):
    camera = {"azimuth": 40, "elevation": -10, "distance": 1.5}
    response = client.get("/api/scene", params={"run": 1, "seed": 6, "resolution": 14, **camera})
    options = [word for name, number in camera.items() for word in (f"--{name}", str(number))]
    sampled(folders, "scenes", tmp_path / "a.png", "--resolution", "14", "--views", "1", *options)
    shown, written = (np.asarray(Image.open(file)) for file in (io.BytesIO(response.content), tmp_path / "a.png"))
    np.testing.assert_array_equal(shown, written)


def test_a_clip_is_that_of_sample_and_twice_the_frames_hold_all_of_it(
    client: TestClient, folders: Path, tmp_path: Path
):
    def clip(frames: int) -> np.ndarray:
        response = client.get("/api/clip", params={"run": 2, "seed": 6, "resolution": 10, "frames": frames})
        shape = [int(side) for side in response.headers["x-shape"].split(",")]
        return np.frombuffer(response.content, np.uint8).reshape(shape)

    sampled(folders, "videos", tmp_path / "a.npz", "--resolution", "10", "--frames", "4")
    with np.load(tmp_path / "a.npz") as file:
        np.testing.assert_array_equal(clip(4), file["videos"][0])
    assert np.abs(clip(8)[::2].astype(int) - clip(4)).max() <= 1


def test_a_protein_and_a_described_shape_are_those_of_sample(client: TestClient, folders: Path, tmp_path: Path):
    protein = client.get("/api/file", params={"run": 3, "seed": 6, "suffix": "pdb", "sequence": SEQUENCE})
    written = sampled(folders, "proteins", tmp_path / "a.pdb", "--sequence", SEQUENCE)
    assert protein.content == written.read_bytes() and SEQUENCE.encode() in protein.content
    words = {"text": "a tall cone", "resolution": 10, "level": 0.3}
    shape = client.get("/api/file", params={"run": 4, "seed": 6, "suffix": "glb", **words})
    options = [word for name, value in words.items() for word in (f"--{name}", str(value))]
    assert shape.content == sampled(folders, "described", tmp_path / "b.glb", *options).read_bytes()


def test_proteins_of_several_seeds_are_superposed_and_their_deviation_is_that_of_each_residue(
    client: TestClient, folders: Path, tmp_path: Path
):
    which = {"run": 3, "sequence": SEQUENCE, "seed": 6}
    answer = client.get("/api/structures", params={**which, "samples": 3}).json()

    def trace(text: str) -> np.ndarray:
        lines = [line for line in text.splitlines() if line.startswith("ATOM") and line[12:16] == " CA "]
        return np.array([[float(line[start : start + 8]) for start in (30, 38, 46)] for line in lines])

    traces = np.stack([trace(text) for text in answer["structures"]])
    assert traces.shape == (3, len(SEQUENCE), 3)
    own = client.get("/api/file", params={**which, "seed": 8, "suffix": "pdb"}).text
    moved = superposition.superpose(trace(own), traces[0])(trace(own))
    np.testing.assert_allclose(traces[2], moved, atol=2e-3)
    expected = np.sqrt(np.square(traces - traces.mean(0)).sum(2).mean(0))
    np.testing.assert_allclose(answer["deviations"], expected, atol=2e-3)
    assert min(answer["deviations"]) > 0.01
    alone = client.get("/api/structures", params=which).json()
    assert alone["deviations"] == [0] * len(SEQUENCE) and alone["structures"] == answer["structures"][:1]


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("structures?run=3&samples=17", "`samples=17`: give a whole number from 1 to 16"),
        ("structures?run=0", "samples shapes: request a mesh"),
        (f"structures?run=3&seed={2**63 - 1}&samples=2&sequence=MK", "2 samples from the seed 9223372036854775807 on"),
        ("mesh?resolution=400", "a grid of 400 points along a side: give one whole number from 2 to 256"),
        ("file?suffix=glb&resolution=1", "a grid of 1 points along a side: give one whole number from 2 to 256"),
        ("file?suffix=glb&resolution=8&window=0,0,1,1", "a window of shapes: leave `window` out"),
        ("file?run=2&suffix=gif&fps=5", "`fps` alone needs the duration"),
        ("mesh?run=2&resolution=8", "samples videos: request a clip"),
        ("points?num=3", "samples shapes: request a mesh"),
        ("scene?run=1&resolution=600", "from 1 to 512"),
        ("scene?run=2", "samples videos: request a clip"),
        ("clip?run=2&frames=9999&resolution=512", "pixels in all frames"),
        ("file?run=1&suffix=gif&views=900&resolution=512", "pixels in all frames"),
        ("file?run=2&suffix=frames", "give one of png, npz, gif, webp, mp4"),
        ("file?suffix=npz&resolution=8", "set their number with `points`"),
        ("tile?level=0&row=0&column=0", "samples shapes"),
        ("record?run=3", "conditioned on sequences, and none is given"),
        ("record?run=3&sequence=MKZ", "no amino acid: `Z` at 3"),
        ("record?run=0&text=cone", "not conditioned on texts"),
        ("record?run=4&text=cone&sequence=MK", "`text` and `sequence` exclude each other"),
    ],
)
def test_what_the_page_does_not_take_gets_400_with_a_reason(client: TestClient, query: str, words: str):
    response = client.get(f"/api/{query}")
    assert response.status_code == 400, response.text
    assert words in f"{response.json()['error']}: {response.json()['hint']}"


def test_a_frozen_page_holds_every_panel_and_loads_nothing(folders: Path, tmp_path: Path):
    tiny.run_folder(folders / "images", tiny.LOCAL_IMAGE)
    tiny.run_folder(folders / "clouds", tiny.POINTS)
    sources = [str(folders / name) for name in (*KINDS, "images", "clouds")]
    fragment = (
        "seed=6&points=300&grid-side=8&view-side=9&frames=3&clip-side=8&zoom=0.25,0.5,0.5&sequence=MKT&pose=0,1,4"
    )
    fragment += "&panels=0;1;2;3;5;6,2,0"
    out = tmp_path / "page.html"
    command = ["view", *sources, "--export", str(out), "--fragment", f"#{fragment}"]
    assert run(command) == 0
    text = out.read_text(encoding="utf-8")
    assert text.count("<section") == 6 and "default-src 'none'" in text
    assert text.count("data:image/png;base64,") == 5 and text.count("data:image/webp;base64,") == 1
    assert not re.findall(r"(?:src|href)=.(?!data:)[a-z/]", text) and str(folders) not in text
    where = ["--resolution", "768x768", "--window", "0.25,0,0.75,0.5"]
    window = sampled(folders, "images", tmp_path / "window.png", *where).read_bytes()
    assert base64.b64encode(window).decode() in text
    assert run(command) == 2, "an existing file is not replaced"
    assert run([*command, "--overwrite"]) == 0 and out.read_text(encoding="utf-8") == text


@pytest.mark.parametrize(
    ("run", "view", "sizes"),
    [
        (0, "mesh", SizeOptions(resolution="48")),
        (1, "scene", SizeOptions(resolution="40", views=1)),
        (2, "clip", SizeOptions(resolution="24", frames=5)),
    ],
)
def test_a_view_of_a_recorded_function_ends_between_two_parts_of_its_points(
    folders: Path, run: int, view: str, sizes: SizeOptions, monkeypatch: pytest.MonkeyPatch
):
    functions = Functions(viewed_run.open_runs([folders / name for name in KINDS]))
    chosen = Selection(run=run, seed=6)
    functions.record(chosen)
    monkeypatch.setattr(sample, "evaluate", partial(sample.evaluate, chunk=500))
    steps: list[tuple[int, int]] = []
    whole = functions.values(chosen, view, sizes, lambda done, total: steps.append((done, total)))
    assert len(steps) > 4 and len(set(steps)) == 1
    calls = [0]

    def leave(done: int, total: int) -> None:
        calls[0] += 1
        if calls[0] == 3:
            raise CancelledJob

    with pytest.raises(CancelledJob):
        functions.values(chosen, view, sizes, leave)
    assert calls == [3]
    again = functions.values(chosen, view, sizes)
    np.testing.assert_array_equal(*(one.vertices if view == "mesh" else one for one in (whole, again)))


def test_a_frozen_page_holds_the_strip_of_growing_steps_and_what_proteins_deviate_by(folders: Path):
    for name, kind in (("strip-images", tiny.LOCAL_IMAGE), ("strip-clouds", tiny.POINTS)):
        tiny.run_folder(folders / name, kind)
    functions = Functions(
        viewed_run.open_runs([folders / name for name in ("strip-images", "strip-clouds", "proteins")])
    )
    text = frozen.html(functions, "seed=2&strip=1&compare=pixels&points=256&samples=3&sequence=MKTAY&zoom=0.5,0.5,0.1")
    image, cloud, protein = text.partition('<div class="sides">')[2].split("<section")[1:]
    steps = ["1 step", "2 steps", "3 steps", "4 steps"]
    captions = [re.findall(r"<figcaption>([^<]*)</figcaption>", part) for part in (image, cloud, protein)]
    assert captions == [["function", "training pixels", *steps], steps, []]
    assert "the part from 45 % to 55 % of the width and from 45 % to 55 % of the height" in image
    assert "seeds 2 to 4; the C-alphas deviate from the mean of 3 samples by" in protein
    (points,) = re.findall(r'data-points="([^"]+)"', protein)
    assert len(base64.b64decode(points)) == 3 * (4 * protein_rendering.STEPS + 1) * 6
    data = re.findall(r"data:image/png;base64,([^\"]+)", image)
    with Image.open(io.BytesIO(base64.b64decode(data[2]))) as thumbnail:
        one_step = functions.image(Selection(seed=2, steps=1), frozen.THUMBNAIL, None)
        np.testing.assert_array_equal(np.asarray(thumbnail), one_step[..., 0])


def test_a_panel_whose_run_lacks_what_another_has_says_so_in_the_frozen_page(folders: Path):
    for name, kind in (("labeled", tiny.LOCAL_IMAGE), ("others", tiny.POINTS)):
        tiny.run_folder(folders / name, kind, condition={"name": "label", "classes": 3 if name == "labeled" else 2})
    functions = Functions(viewed_run.open_runs([folders / "labeled", folders / "others"]))
    warnings: list[str] = []
    text = frozen.html(functions, "label=2", warn=warnings.append)
    image, cloud = text.partition('<div class="sides">')[2].split("<section")[1:]
    assert "data:image/png" in image and 'data-points="' not in cloud
    assert len(warnings) == 1 and warnings[0].startswith("the panel of `others` is empty: ")
    with pytest.raises(UsageError):
        frozen.html(functions, "label=7", warn=warnings.append)


def test_a_frame_rate_alone_freezes_the_training_frames_at_that_rate(client: TestClient):
    def frozen(fragment: str) -> bytes:
        response = client.get("/api/frozen", params={"fragment": f"panels=2&seed=6&{fragment}"})
        assert response.status_code == 200, response.text
        (data,) = re.findall(r"data:image/webp;base64,([^\"]+)", response.text)
        return base64.b64decode(data)

    frames = client.get("/api/info").json()["runs"][2]["frames"]
    assert frozen("rate=5") == frozen(f"rate=5&frames={frames}") != frozen(f"rate=10&frames={frames}")
    with Image.open(io.BytesIO(frozen("rate=5"))) as image:
        assert getattr(image, "n_frames", 1) == frames


def test_a_long_text_in_other_letters_is_frozen(client: TestClient):
    fragment = urlencode({"panels": "2", "clip-side": 8, "frames": 2, "text": "\u5186" * 1000})
    assert len(fragment) > 9000
    response = client.get("/api/frozen", params={"fragment": fragment})
    assert response.status_code == 200, response.text


def test_a_frozen_image_is_no_larger_than_the_page_evaluates(folders: Path, tmp_path: Path):
    tiny.run_folder(tmp_path / "images", tiny.LOCAL_IMAGE)
    functions = Functions(viewed_run.open_runs([tmp_path / "images"]), max_side=256)
    (data,) = re.findall(r"data:image/png;base64,([^\"]+)", frozen.html(functions, "seed=2&zoom=0.5,0.5,0.5"))
    with Image.open(io.BytesIO(base64.b64decode(data))) as image:
        assert image.size == (256, 256)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--fragment", "seed=1"], "`--fragment` needs `--export`"),
        (["--export", "a.pdf"], "the suffix .html"),
        (["--export", "a.html", "--fragment", "sed=1"], "did you mean `seed`?"),
        (["--export", "a.html", "--fragment", "panels=9"], "there is no run 9"),
        (["--export", "a.html", "--fragment", "panels=0,x"], "`step=x`"),
        (["--export", "a.html", "--fragment", "grid-side=300"], "from 2 to 256"),
    ],
)
def test_a_page_that_cannot_be_frozen_is_an_error(
    folders: Path,
    tmp_path: Path,
    options: list[str],
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    monkeypatch.chdir(tmp_path)
    assert run(["view", str(folders / "shapes"), *options]) == 2
    assert words in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
