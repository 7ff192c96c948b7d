"""Commands on the meshes, clouds and rendered views of the reported cases, where these are beside the checkout."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inrflow_cli import console
from inrflow_cli.app import run
from inrflow_core.geometry import ply_reader
from inrflow_core.shards.shard_dataset import ShardDataset
from tests import test_case_files as truth
from tests import tiny

pytestmark = pytest.mark.slow
Case = Callable[[str], Path]
CLOUDS: dict[str, dict[str, Any]] = {**tiny.POINTS, "domain": {"name": "points", "num_points": 32}}
CORNERS = {"m_concave.ply", "n_concave.obj", "r_concave.off"}
"""An L of area 7: nothing at x > 1 and y > 1, and 2 of 7 of the area at x > 2."""


@pytest.fixture(autouse=True)
def _working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    console.stderr.cache_clear()
    yield
    console.stderr.cache_clear()


def command(*words: object) -> int:
    return run([str(word) for word in words])


def prepared(source: Path, name: str, *words: object) -> tuple[dict[str, dict[str, np.ndarray]], dict[str, str]]:
    """Values and conditions by file, and the reasons of what is skipped."""
    code = command("prepare", name, "--source", source, "--workers", 1, "--out", "shards", *words)
    shards = ShardDataset("shards")
    items: dict[str, dict[str, np.ndarray]] = {}
    for split in shards.splits:
        batch = shards.read(split, range(shards.count(split)), with_names=True)
        for row, item in enumerate(batch.names):
            items[Path(item).name] = {"values": batch.values[row]} | {k: v[row] for k, v in batch.condition.items()}
    skipped = {Path(item.name).name: item.reason for item in shards.manifest.skipped}
    assert code == (6 if skipped else 0)
    return items, skipped


def positions(item: dict[str, np.ndarray]) -> np.ndarray:
    return item["values"][:, :3] * item["scale"] + item["offset"]


@pytest.mark.parametrize("case_name", truth.MESHES)
@pytest.mark.parametrize("data_set", ["mesh-folder", "objaverse"])
def test_prepare_draws_points_on_every_mesh_or_names_the_reason(case: Case, case_name: str, data_set: str) -> None:
    options = ["--set", "points=3000", "--set", "val=0"] if data_set == "mesh-folder" else ["--set", "views=1"]
    options += [] if data_set == "mesh-folder" else ["--resolution", 32, "--set", "embedder=patches"]
    folder = case(case_name)
    items, skipped = prepared(folder, data_set, *options)
    suffixes = (".ply", ".glb", ".obj", ".stl", ".off")
    files = {file.name for file in folder.iterdir() if file.suffix in suffixes}
    needs_colors = {"t_usemtl_missing.obj": "material file"} if data_set == "objaverse" else {}
    refused = truth.REFUSED | needs_colors
    assert set(skipped) == files & set(refused) and set(items) == files - set(skipped)
    for file, reason in skipped.items():
        assert refused[file] in reason, file
    for file, item in items.items():
        points, size = positions(item), np.array(truth.MESHES[case_name].get(file, truth.BOX)[1])
        extent = np.ptp(points, axis=0)
        assert (extent <= size + 1e-4).all() and (extent >= 0.95 * size - 1e-4).all(), file
        if file in CORNERS:
            assert not ((points[:, 0] > 1.001) & (points[:, 1] > 1.001)).any(), file
            assert (points[:, 0] > 2).mean() == pytest.approx(2 / 7, abs=0.03), file


def test_prepare_gives_points_of_glb_files_the_colors_of_gltf(case: Case) -> None:
    colors = ["--set", "colors=true", "--set", "points=2000", "--set", "val=0"]
    items, skipped = prepared(case("16_glb_colour"), "mesh-folder", *colors)
    assert set(skipped) == {"k_no_material.glb"} and "color" in skipped["k_no_material.glb"]
    quarters = {"e_texture", "h_texcoord1", "i_uv_u16", "m_webp"}
    for file, item in items.items():
        name, shown, at = file.removesuffix(".glb"), (item["values"][:, 3:] + 1) * 127.5, positions(item)
        if name in quarters:  # bottom left blue, bottom right white, top left red, top right green
            of_quarter = np.array([[0, 0, 255], [255, 255, 255], [255, 0, 0], [0, 255, 0]])
            expected = of_quarter[(at[:, 0] > 0.5) + 2 * (at[:, 1] > 0.5)]
            sure = (np.abs(at[:, :2] - 0.5) > 0.02).all(axis=1)
        else:
            expected, sure = np.broadcast_to(truth.COLORS[name], shown.shape), np.ones(len(shown), bool)
        np.testing.assert_allclose(shown[sure], expected[sure], atol=1, err_msg=file)


def test_prepare_reads_colors_of_vertices_beside_a_material(case: Case) -> None:
    colors = ["--set", "colors=true", "--set", "points=500", "--set", "val=0"]
    items, skipped = prepared(case("17_glb_colour2"), "mesh-folder", *colors)
    assert not skipped and len(items) == 6
    for file, item in items.items():
        light = 188 if file == "f_factor_half.glb" else 255
        expected = np.where(positions(item)[:, :1] < 0.5, [light, 0, 0], [0, light, 0])
        np.testing.assert_allclose((item["values"][:, 3:] + 1) * 127.5, expected, atol=1, err_msg=file)


@pytest.mark.parametrize(
    ("case_name", "groups"),
    [
        ("16_glb_colour", [["a_color_f32", "b_color_u8", "c_color_u16", "d_factor"], ["f_texture_factor", "n_texture_color"]]),
        ("17_glb_colour2", [["a_no_material_f32", "b_no_material_u16", "c_material_f32", "d_material_u16", "e_material_u8"]]),
    ],
)  # fmt: skip
def test_objaverse_renders_equal_colors_as_equal_images(case: Case, case_name: str, groups: list[list[str]]) -> None:
    items, _ = prepared(
        case(case_name), "objaverse", "--resolution", 32, "--set", "views=1", "--set", "embedder=patches"
    )
    for first, *others in groups:
        one = items[f"{first}.glb"]["image"].astype(int)
        assert one.min(axis=(0, 1, 2))[2] == 0 and one.max() == 255, (
            "neither red nor orange has blue; the margin is white"
        )
        for other in others:
            assert np.abs(items[f"{other}.glb"]["image"].astype(int) - one).max() <= 1, other


@pytest.mark.parametrize("name", ["a_blender", "b_nerfstudio", "c_frame_fl"])
def test_found_views_have_the_focal_length_of_their_file(case: Case, name: str) -> None:
    options = ["--set", "renders=found", "--set", "views=1", "--resolution", 32, "--set", "embedder=patches"]
    items, skipped = prepared(case("18_views") / name, "objaverse", *options)
    assert not skipped
    np.testing.assert_allclose(items["cube.obj"]["camera"][0, 3], [0.75**0.5, 0.75**0.5, 0.5, 0.5], atol=1e-6)
    np.testing.assert_allclose(items["cube.obj"]["camera"][0, :3, 3], [0, 0, 6], atol=1e-6)


def clouds_of(folder: Path) -> list[Path]:
    return [file for file in sorted(folder.iterdir()) if file.stem not in truth.CLOUDS_REFUSED]


def origin_of(file: Path) -> np.ndarray:
    return np.array([4.5e6, 5e5, 200.0]) if file.stem == "z_far" else np.zeros(3)


def columns_of(path: Path | str) -> np.ndarray:
    columns = ply_reader.read_columns(Path(path))
    return np.stack([columns[axis].astype(np.float64) for axis in "xyz"], axis=1)


def test_export_of_clouds_writes_the_positions_and_colors_of_the_file(case: Case) -> None:
    folder = case("15_ply_cloud")
    at, colors = np.load(folder.parent / "P.npy"), np.load(folder.parent / "C.npy")
    for file in clouds_of(folder):
        assert command("export", file, "out.ply", "--overwrite") == 0, file.name
        np.testing.assert_allclose(columns_of("out.ply"), at + origin_of(file), rtol=0, atol=1e-6, err_msg=file.name)
        columns = ply_reader.read_columns(Path("out.ply"))
        assert ("red" in columns) == (file.stem[0] in "abcdefghijkl"), file.name
        if "red" in columns:
            written = np.stack([columns[name] for name in ("red", "green", "blue")], axis=1)
            np.testing.assert_array_equal(written, colors, err_msg=file.name)


def test_upsample_of_clouds_answers_alike_where_the_file_is(case: Case) -> None:
    tiny.run_folder(Path("clouds"), CLOUDS)
    sources = clouds_of(case("15_ply_cloud"))
    Path("out").mkdir()
    assert command("upsample", *sources, "out", "--run", "clouds", "--points", 64, "--steps", 2) == 0
    made = {file.stem: columns_of(Path("out") / file.name) - origin_of(file) for file in sources}
    for stem, points in made.items():
        np.testing.assert_allclose(points, made["a_uchar"], rtol=0, atol=2e-3, err_msg=stem)
    assert np.ptp(made["z_far"], axis=0).min() > 0.1 and len(np.unique(made["z_far"][:, 0])) > 50


def test_eval_of_clouds_finds_the_sphere_of_each_file(case: Case) -> None:
    sources = clouds_of(case("15_ply_cloud"))
    colored = [file for file in sources if ply_reader.read_cloud(file)[0].shape[1] == 6]
    for number, files in enumerate((colored, [file for file in sources if file not in colored])):
        for folder, copied in ((f"samples{number}", files[:1]), (f"reference{number}", files)):
            Path(folder).mkdir()
            for copy in "ab":  # twice, because the metric needs several
                for file in copied:
                    (Path(folder) / f"{file.stem}-{copy}.ply").write_bytes(file.read_bytes())
        words = ["--samples", f"samples{number}", "--reference", f"reference{number}", "--metrics", "mmd:cd"]
        assert command("eval", *words, "--out", f"scores{number}") == 0
        metrics = json.loads(Path(f"scores{number}/metrics.json").read_text())
        (score,) = metrics["results"][0]["scores"]
        assert score["reference"] == 2 * len(files) and score["value"] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("words", [["export", "out.ply"], ["upsample", "out.ply", "--run", "clouds"], ["eval"]])
def test_damaged_clouds_are_refused_by_name_in_every_command(
    case: Case, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    tiny.run_folder(Path("clouds"), CLOUDS)
    for stem in truth.CLOUDS_REFUSED:
        file = case("15_ply_cloud") / f"{stem}.ply"
        Path(stem).mkdir()
        (Path(stem) / file.name).write_bytes(file.read_bytes())
        named = ["--samples", stem, "--reference", stem, "--out", "scores"] if words == ["eval"] else [file]
        assert command(words[0], *named, *words[1:]) == 4, stem
        said = " ".join(capsys.readouterr().err.split())
        assert file.name in said and "Traceback" not in said


def test_export_to_glb_writes_colors_in_linear_light(case: Case) -> None:
    import trimesh

    assert command("export", case("15_ply_cloud") / "a_uchar.ply", "out.glb") == 0
    scene = trimesh.load("out.glb", process=False)
    (body,) = scene.geometry.values() if isinstance(scene, trimesh.Scene) else [scene]
    stored = np.asarray(body.visual.vertex_colors)[:, 0]
    middle = np.abs(body.vertices[:, 0]) < 0.05  # sRGB 128 is linear 55
    assert middle.sum() > 10 and np.abs(stored[middle].mean() - 55) < 6
