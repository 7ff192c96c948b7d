"""Scenes at the command line: turntables, meshes of densities, a photo with its camera, and what neither has."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from inrflow_cli import app, console
from inrflow_core.geometry import cameras
from inrflow_core.mesh_files import reading
from inrflow_core.sample_files import readers, sample_folder, scene_views
from tests import tiny

FOV = 51.98948897809546


Inrflow = Callable[..., str]
"""Runs a command with the arguments; returns its stderr. `code` is the expected exit code."""


@pytest.fixture
def inrflow(capsys: pytest.CaptureFixture[str]) -> Iterator[Inrflow]:
    def call(*arguments: Any, code: int = 0) -> str:
        console.stderr.cache_clear()
        assert app.run([str(argument) for argument in arguments]) == code
        return " ".join(capsys.readouterr().err.split())

    yield call
    console.stderr.cache_clear()


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("scenes")
    tiny.run_folder(folder / "scenes", tiny.RADIANCE)
    tiny.run_folder(folder / "images", tiny.IMAGE)
    return {"scenes": folder / "scenes", "images": folder / "images"}


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def test_views_are_written_with_their_cameras(inrflow: Inrflow, runs: dict[str, Path], tmp_path: Path):
    inrflow(
        "sample",
        tmp_path / "out.npz",
        "--run",
        runs["scenes"],
        "--num",
        2,
        "--views",
        4,
        "--elevation",
        10,
        "--radius",
        2,
    )
    with np.load(tmp_path / "out.npz") as file:
        assert file["views"].shape == (2, 4, 8, 8, 3) and file["cameras"].shape == (4, 4, 4)
        expected = [cameras.orbit(turn, 10, 2, field_of_view=FOV) for turn in (0, 90, 180, 270)]
        np.testing.assert_allclose(file["cameras"], expected, atol=1e-6)
        assert json.loads(str(file["origin"]))["size"] == "8x8x4 elevation 10 distance 2"


def test_shards_of_scenes_record_their_cameras_and_export_and_eval_read_them(
    inrflow: Inrflow, runs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(sample_folder, "SAMPLES_PER_SHARD", 2)
    expected = [cameras.orbit(turn, 10, 2, field_of_view=FOV) for turn in (0, 90, 180, 270)]
    options = ("--run", runs["scenes"], "--num", 3, "--views", 4, "--elevation", 10, "--radius", 2)
    for out in ("scenes.h5", "scenes"):
        inrflow("sample", tmp_path / out, *options)
        opened = scene_views.check_posed(readers.open_collection(tmp_path / out))
        assert opened.count == 3 and len(list((tmp_path / "scenes").glob("*.h5"))) in (0, 2)
        for scene in range(3):
            np.testing.assert_allclose(scene_views.read_cameras(opened, scene), expected, atol=1e-6)
        inrflow("export", tmp_path / out, tmp_path / f"{out}.npz", "--items", "1,2")
        with np.load(tmp_path / f"{out}.npz") as file:
            np.testing.assert_array_equal(file["views"], opened.read([1, 2]).values)
            np.testing.assert_allclose(file["cameras"], [expected] * 2, atol=1e-6)
        answer = ("--reference", tmp_path / "scenes.h5", "--metrics", "fid:random", "--out", tmp_path / f"{out}-eval")
        inrflow("eval", "--samples", tmp_path / out, *answer)
        (result,) = json.loads((tmp_path / f"{out}-eval" / "metrics.json").read_text())["results"]
        assert result["scores"][0]["value"] == pytest.approx(0, abs=1e-6) and result["scores"][0]["samples"] == 12
    inrflow("sample", tmp_path / "one.h5", *options[:4])
    one = scene_views.read_cameras(readers.open_collection(tmp_path / "one.h5"), 0)
    np.testing.assert_allclose(one, [cameras.orbit(0, 20, 1.3, field_of_view=FOV)], atol=1e-6)


def test_one_view_of_a_turntable_is_that_of_its_camera(inrflow: Inrflow, runs: dict[str, Path], tmp_path: Path):
    inrflow("sample", tmp_path / "all.npz", "--run", runs["scenes"], "--views", 4)
    inrflow("sample", tmp_path / "one.npz", "--run", runs["scenes"], "--azimuth", 90)
    with np.load(tmp_path / "all.npz") as whole, np.load(tmp_path / "one.npz") as part:
        np.testing.assert_array_equal(whole["views"][:, 1], part["views"][:, 0])


def test_a_video_is_a_turntable_of_60_views_unless_another_number_is_named(
    inrflow: Inrflow, runs: dict[str, Path], tmp_path: Path
):
    for name, options, count in (
        ("a.gif", (), 60),
        ("b.webp", ("--views", 5), 5),
        ("c.gif", ("--resolution", "8x8x3"), 3),
    ):
        inrflow("sample", tmp_path / name, "--run", runs["scenes"], *options)
        with Image.open(tmp_path / name) as film:
            assert film.size == (8, 8) and getattr(film, "n_frames", 1) == count


@pytest.mark.parametrize("suffix", ["ply", "obj", "glb"])
def test_a_mesh_is_the_surface_of_the_density(inrflow: Inrflow, runs: dict[str, Path], tmp_path: Path, suffix: str):
    out = tmp_path / f"out.{suffix}"
    inrflow("sample", out, "--run", runs["scenes"], "--level", 0.01, "--resolution", 9)
    body = reading.load(tmp_path, out.name, with_colors=True)
    assert np.abs(body.mesh.vertices).max() == pytest.approx(0.5) and body.has_colors
    corners = np.sort(body.mesh.faces[:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2), axis=1)
    counts = np.unique(corners, axis=0, return_counts=True)[1]
    assert (counts % 2 == 0).all()  # closed: no edge has a free side


def test_a_mesh_of_fog_is_at_half_its_highest_density_whatever_the_chunk(
    inrflow: Inrflow, runs: dict[str, Path], tmp_path: Path
):
    for name, chunk in (("a.ply", 4096), ("b.ply", 50)):
        inrflow("sample", tmp_path / name, "--run", runs["scenes"], "--resolution", 9, "--chunk", chunk)
    first, second = (reading.load(tmp_path, name, with_colors=False).mesh for name in ("a.ply", "b.ply"))
    np.testing.assert_array_equal(first.faces, second.faces)
    np.testing.assert_allclose(first.vertices, second.vertices, atol=1e-5)


def test_a_mesh_of_a_saved_field_is_that_of_its_sample(inrflow: Inrflow, runs: dict[str, Path], tmp_path: Path):
    options = ("--level", 0.01, "--resolution", 9)
    field = tmp_path / "field.safetensors"
    inrflow("sample", tmp_path / "a.ply", "--run", runs["scenes"], "--save-field", field, *options)
    inrflow("upsample", field, tmp_path / "b.ply", *options)
    first, second = ((tmp_path / name).read_bytes().partition(b"end_header\n")[2] for name in ("a.ply", "b.ply"))
    assert first == second and len(first) > 100


def test_a_photo_becomes_views_of_its_scene(inrflow: Inrflow, runs: dict[str, Path], tmp_path: Path, photo: Path):
    given = ("upsample", photo, "--run", runs["scenes"], "--json")
    for name, camera in (("front", "0,20,1.3"), ("side", "90,20,1.3"), ("default", None)):
        camera_option = () if camera is None else ("--camera", camera)
        inrflow(*given[:2], tmp_path / f"{name}.npz", *given[2:], "--views", 4, *camera_option)
    views = {name: np.load(tmp_path / f"{name}.npz")["views"][0] for name in ("front", "side", "default")}
    assert views["front"].shape == (4, 8, 8, 3)
    np.testing.assert_array_equal(views["front"], views["default"])  # the preset's camera is that of --camera 0,20,1.3
    assert (views["front"] != views["side"]).any()
    inrflow(*given[:2], tmp_path / "own.npz", *given[2:], "--camera", "90,20,1.3")
    with np.load(tmp_path / "own.npz") as own:  # without cameras of views, the photo's own
        np.testing.assert_allclose(own["cameras"][0, 0], cameras.orbit(90, 20, 1.3, field_of_view=FOV), atol=1e-6)


@pytest.mark.parametrize(
    ("run", "out", "options", "message"),
    [
        ("images", "out.png", ("--views", "3"), "`--views` does not apply: the model samples images"),
        ("images", "out.png", ("--elevation", "3"), "`--elevation` does not apply: the model samples images"),
        ("images", "out.png", ("--level", "3"), "`--level` does not apply: the model samples images"),
        ("scenes", "out.png", ("--elevation", "91"), "`elevation` is 91.0: from -90 to 90"),
        ("scenes", "out.png", ("--views", "2000"), "a turntable of 2,000 views"),
        ("scenes", "out.gif", ("--views", "3", "--resolution", "8x8x4"), "exclude each other"),
        ("scenes", "out.png", ("--level", "3"), "`.png` files hold views"),
        ("scenes", "out.glb", ("--views", "3"), "of views, which a `.glb` file does not hold"),
        ("scenes", "out.ply", ("--resolution", "8x9"), "its grid has one number of points a side"),
        ("scenes", "out.ply", ("--level", "1e9", "--resolution", "5"), "no density in the box is above the level"),
        ("scenes", "out.ply", ("--level", "0", "--resolution", "5"), "the level of a surface is 0"),
        ("scenes", "out.ply", ("--resolution", "5000"), "a grid of 5,000 points along a side"),
        ("scenes", "out.png", ("--radius", "1e30"), "`distance` is 1e+30: above 0, at most 1e+06"),
        ("scenes", "out.pdb", (), "samples scenes, which a `.pdb` file cannot hold"),
        ("scenes", "out.png", ("--points", "5"), "`--points` does not apply"),
    ],
)
def test_what_a_file_or_a_model_does_not_have_is_refused(
    inrflow: Inrflow, runs: dict[str, Path], tmp_path: Path, run: str, out: str, options: tuple[str, ...], message: str
):
    stderr = inrflow("sample", tmp_path / out, "--run", runs[run], *options, code=2)
    assert message in stderr and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("run", "camera", "message"),
    [
        ("scenes", "1,2,3,4,5", "`--camera 1,2,3,4,5` is not a camera"),
        ("scenes", "north", "`--camera north` is not a camera"),
        ("scenes", "0,20,-1", "`distance` is -1.0: above 0"),
        ("scenes", "nan", "the azimuth nan is not a number of degrees"),
        ("images", "0", "`--camera` does not apply: the model samples images"),
    ],
)
def test_a_camera_that_cannot_be_is_refused(
    inrflow: Inrflow, runs: dict[str, Path], tmp_path: Path, photo: Path, run: str, camera: str, message: str
):
    stderr = inrflow("upsample", photo, tmp_path / "out.png", "--run", runs[run], "--camera", camera, code=2)
    assert message in stderr and not (tmp_path / "out.png").exists()


def test_a_camera_without_a_photo_is_refused(inrflow: Inrflow, runs: dict[str, Path], tmp_path: Path):
    stderr = inrflow("upsample", tmp_path / "out.png", "--run", runs["scenes"], "--camera", "0", code=2)
    assert "`--camera` is the camera of an input file" in stderr


def test_values_of_scenes_are_no_meshes(inrflow: Inrflow, runs: dict[str, Path], tmp_path: Path):
    inrflow("sample", tmp_path / "out.h5", "--run", runs["scenes"])
    stderr = inrflow("export", tmp_path / "out.h5", tmp_path / "out.glb", code=2)
    assert "hold meshes of scenes, which cannot be made of sampled values" in stderr


@pytest.mark.parametrize("kind", [tiny.RADIANCE, tiny.SCENES], ids=["radiance-mlp", "basis-radiance"])
def test_a_distance_whose_views_cut_scenes_off_is_warned_of(
    inrflow: Inrflow, tmp_path: Path, kind: dict[str, dict[str, Any] | None]
):
    network = kind["network"] or {}
    tiny.run_folder(tmp_path / "run", kind, network={"readout": network["readout"] | {"near": 0.8, "far": 1.8}})
    cut_off = "the model renders depths from 0.8 to 1.8, and scenes are within 0.5 of the origin"
    for distance, is_cut in ((1.3, False), (1.2, True), (2.5, True)):
        for command in ("sample", "upsample"):
            out = tmp_path / f"{command}-{distance}.npz"
            said = inrflow(command, out, "--run", tmp_path / "run", "--distance", distance)
            assert (cut_off in said) == is_cut
