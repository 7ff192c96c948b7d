"""Meshes: points uniform on the surface, the same whatever the workers, colors where they are, odd files met."""

from __future__ import annotations

import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from inrflow_core.datasets import mesh_folder, objaverse, views
from inrflow_core.datasets._contract import Example
from inrflow_core.errors import MissingError, UnreadableItemError
from inrflow_core.preparation import job as preparation_job
from inrflow_core.preparation import pipeline
from inrflow_core.preparation.job import Report
from inrflow_core.shards import shard_dataset

# A roof: two squares of 1 x 1 and one of 1 x 2, quads, with indices counted from the end.
QUADS = "v 0 0 0\nv 1 0 0\nv 1 1 0\nv 0 1 0\nv 1 0 2\nv 1 1 2\nf -6 -5 -4 -3\nf -5 -2 -1 -4\n"


def read(folder: Path, name: str, **settings) -> Example:
    config = mesh_folder.Config(val=0.0, **settings)
    items = {item.name: item for item in mesh_folder.scan(folder, config).splits["train"]}
    return mesh_folder.read(items[name], config)


def restored(example: Example) -> np.ndarray:
    return example.values[:, :3] * example.condition["scale"] + example.condition["offset"]


def test_points_lie_on_the_faces_in_proportion_to_their_area(tmp_path: Path) -> None:
    (tmp_path / "roof.obj").write_text(QUADS)
    points = restored(read(tmp_path, "roof.obj", points=6000))
    flat, wall = np.abs(points[:, 2]) < 1e-5, np.abs(points[:, 0] - 1) < 1e-5
    assert (flat | wall).all()
    assert flat.mean() == pytest.approx(1 / 3, abs=0.02)
    assert points[flat, 0].mean() == pytest.approx(0.5, abs=0.03)
    assert points[wall, 2].mean() == pytest.approx(1.0, abs=0.05)
    assert flat[:600].mean() == pytest.approx(1 / 3, abs=0.08), "any part of the points is as uniform as all"


def test_a_texture_gives_each_point_the_color_of_its_position(tmp_path: Path) -> None:
    Image.fromarray(np.array([[[255, 0, 0], [0, 0, 255]]], dtype=np.uint8).repeat(8, 0).repeat(8, 1)).save(
        tmp_path / "t.png"
    )
    (tmp_path / "a.mtl").write_text("newmtl m\nmap_Kd t.png\n")
    square = "mtllib a.mtl\nusemtl m\nv 0 0 0\nv 1 0 0\nv 1 1 0\nv 0 1 0\nvt 0 0\nvt 1 0\nvt 1 1\nvt 0 1\n"
    (tmp_path / "a.obj").write_text(square + "f 1/1 2/2 3/3 4/4\n")
    example = read(tmp_path, "a.obj", points=500, colors=True)
    x = restored(example)[:, 0]
    sure = np.abs(x - 0.5) > 0.05
    np.testing.assert_allclose(example.values[sure, 3], np.where(x[sure] < 0.5, 1, -1), atol=0.01)
    np.testing.assert_allclose(example.values[sure, 5], np.where(x[sure] < 0.5, -1, 1), atol=0.01)


PLY = (
    "ply\nformat ascii 1.0\nelement vertex 4\nproperty float x\nproperty float y\nproperty float z\n"
    "property uchar red\nproperty uchar green\nproperty uchar blue\nelement face 1\n"
    "property list uchar int vertex_indices\nend_header\n"
    "0 0 0 0 10 255\n1 0 0 255 10 255\n1 1 0 255 10 255\n0 1 0 0 10 255\n4 0 1 2 3\n"
)


def test_colors_of_vertices_are_interpolated(tmp_path: Path) -> None:
    (tmp_path / "a.ply").write_text(PLY)
    example = read(tmp_path, "a.ply", points=300, colors=True)
    np.testing.assert_allclose(example.values[:, 3], 2 * restored(example)[:, 0] - 1, atol=0.01)
    np.testing.assert_allclose(example.values[:, 5], 1, atol=0.01)


def test_a_texture_of_16_bits_is_scaled_like_an_image(tmp_path: Path) -> None:
    Image.fromarray(np.full((2, 2), 30_000, np.uint16)).save(tmp_path / "t.png")
    (tmp_path / "a.mtl").write_text("newmtl m\nmap_Kd t.png\n")
    (tmp_path / "a.obj").write_text("mtllib a.mtl\nusemtl m\nv 0 0 0\nv 1 0 0\nv 1 1 0\nvt 0 0\nf 1/1 2/1 3/1\n")
    colors = read(tmp_path, "a.obj", points=10, colors=True).values[:, 3:]
    np.testing.assert_allclose(colors, 117 / 127.5 - 1, atol=1e-6)


def test_a_texture_outside_the_source_is_not_opened(tmp_path: Path) -> None:
    Image.new("RGB", (2, 2), "red").save(tmp_path / "secret.png")
    inside = tmp_path / "source"
    inside.mkdir()
    (inside / "a.mtl").write_text("newmtl m\nmap_Kd ../secret.png\n")
    (inside / "a.obj").write_text("mtllib a.mtl\nusemtl m\nv 0 0 0\nv 1 0 0\nv 1 1 0\nvt 0 0\nf 1/1 2/1 3/1\n")
    with pytest.raises(UnreadableItemError, match="its texture is not below the source"):
        read(inside, "a.obj", points=10, colors=True)


def test_the_color_of_a_material_without_texture_is_that_of_all_points(tmp_path: Path) -> None:
    (tmp_path / "a.mtl").write_text("newmtl m\nKd 1.0 0.0 0.0\n")
    (tmp_path / "a.obj").write_text("mtllib a.mtl\nusemtl m\nv 0 0 0\nv 1 0 0\nv 1 1 0\nvt 0 0\nf 1/1 2/1 3/1\n")
    np.testing.assert_array_equal(read(tmp_path, "a.obj", points=10, colors=True).values[:, 3:], [[1, -1, -1]] * 10)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("points.obj", b"v 0 0 0\nv 1 0 0\nv 0 1 0\n", "a mesh without faces"),
        ("empty.off", b"", "no numbers of vertices and faces"),
        ("junk.glb", b"glTF junk", "it is not a GLB file"),
        (
            "cut.ply",
            b"ply\nformat binary_little_endian 1.0\nelement vertex 900\nproperty float x\n",
            "cannot be read as a .ply file",
        ),
        ("nan.obj", b"v nan 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n", "1 of its 3 points are not finite"),
        ("line.obj", b"v 0 0 0\nv 1 0 0\nv 2 0 0\nf 1 2 3\n", "faces have no area"),
    ],
)
def test_a_broken_mesh_is_left_out_with_its_reason(tmp_path: Path, name: str, content: bytes, reason: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UnreadableItemError, match=reason) as caught:
        read(tmp_path, name)
    assert str(tmp_path) not in caught.value.reason


def test_a_mesh_without_colors_is_left_out_where_they_are_requested(tmp_path: Path) -> None:
    (tmp_path / "roof.obj").write_text(QUADS)
    with pytest.raises(UnreadableItemError, match="it has no colors"):
        read(tmp_path, "roof.obj", colors=True)


def test_classes_are_the_first_folders_and_splits_go_by_content(tmp_path: Path) -> None:
    for kind in ("roof", "wall"):
        (tmp_path / kind).mkdir()
        for number in range(100):
            (tmp_path / kind / f"{number}.obj").write_text(f"# {kind} {number}\n{QUADS}")
    (tmp_path / "astray.obj").write_text(QUADS)
    plan = mesh_folder.scan(tmp_path, mesh_folder.Config(classes=True, val=0.2))
    assert plan.classes == ("roof", "wall")
    held_out = {item.name for item in plan.splits["val"]}
    assert 25 <= len(held_out) <= 55
    assert len(plan.splits["train"]) == 200 - len(held_out)
    removed = min(held_out)
    (tmp_path / removed).unlink()
    again = {item.name for item in mesh_folder.scan(tmp_path, mesh_folder.Config(classes=True, val=0.2)).splits["val"]}
    assert again == held_out - {removed}


def test_meshes_of_formats_that_are_not_read_are_counted_and_named(tmp_path: Path) -> None:
    for name in ("a.obj", "b.gltf", "c.FBX", "d/e.obj.gz", "f.usdz", "NOTES.txt", "g.mtl"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n")
    expected = "4 files are of formats that are not read: `b.gltf`, `c.FBX`, `d/e.obj.gz`, ..."
    for plan in (
        mesh_folder.scan(tmp_path, mesh_folder.Config()),
        objaverse.scan(tmp_path, objaverse.Config(embedder="patches")),
        views.scan(tmp_path, views.Config()),
    ):
        assert plan.notes[0] == expected
    assert mesh_folder.scan(tmp_path, mesh_folder.Config()).notes[1:] == (
        "1 file of another kind is passed over: `NOTES.txt`",
    )


def test_a_folder_without_meshes_says_what_was_looked_for(tmp_path: Path) -> None:
    (tmp_path / "a.npy").write_bytes(b"")
    with pytest.raises(
        MissingError, match=r"looked below .* for \.off, .* or \.glb files and found none among 1 files"
    ):
        mesh_folder.scan(tmp_path, mesh_folder.Config())


def prepared(data: Path, folder: Path, workers: int) -> Report:
    if not (folder / "data").exists():
        with tarfile.open(data) as tar:
            tar.extractall(folder / "data", filter="data")
    config = mesh_folder.Config(points=200)
    job = preparation_job.resolve_job("meshes", folder / "data", folder / f"out{workers}", config)
    return pipeline.prepare(job, workers=workers)


def test_odd_real_files_are_read_or_named(real_data: Callable[[str], Path], tmp_path: Path) -> None:
    report = prepared(real_data("meshes/trimesh_models_mit/trimesh_models.tar.gz"), tmp_path, 1)
    reason = "it is a mesh without faces"
    points = f"{reason} (`inrflow prepare clouds` reads points)"
    assert {bad.name: bad.reason for bad in report.skipped} == {
        "models/empty.obj": reason,
        "models/points_ascii.ply": points,
        "models/points_bin.ply": points,
    }
    assert sum(report.splits.values()) == 20
    assert np.abs(shard_dataset.ShardDataset(tmp_path / "out1").read("train", [0]).values).max() == pytest.approx(1)


@pytest.mark.slow
def test_workers_change_no_byte(real_data: Callable[[str], Path], tmp_path: Path) -> None:
    for workers in (1, 2):
        prepared(real_data("meshes/trimesh_models_mit/trimesh_models.tar.gz"), tmp_path, workers)
    files = sorted((tmp_path / "out1").iterdir())
    assert len(files) == 3
    for file in files:
        assert file.read_bytes() == (tmp_path / "out2" / file.name).read_bytes()


def test_a_mesh_of_quads_is_read_and_one_without_numbers_is_not(
    real_data: Callable[[str], Path], tmp_path: Path
) -> None:
    with tarfile.open(real_data("meshes/random_urdfs_zlib/random_urdfs_obj.tar.gz")) as tar:
        names = [name for name in tar.getnames() if name.endswith(("/168.obj", "/000.obj"))]
        for name in names:
            tar.extract(name, tmp_path, filter="data")
    assert len(names) == 2
    for name in names:
        if name.endswith("168.obj"):
            with pytest.raises(UnreadableItemError, match=r"not finite|without faces"):
                read(tmp_path, name, points=100)
        else:
            assert read(tmp_path, name, points=100).values.shape == (100, 3)


@pytest.mark.parametrize(("recorded", "typed"), [("meshes", "mesh-folder"), ("mesh-folder", "meshes")])
def test_shards_of_the_earlier_name_are_recognized(tmp_path: Path, recorded: str, typed: str) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "roof.obj").write_text(QUADS)
    config = mesh_folder.Config(points=20, val=0.0)
    jobs = [
        preparation_job.resolve_job(name, tmp_path / "data", tmp_path / "out", config) for name in (recorded, typed)
    ]
    assert [pipeline.prepare(job, workers=1).num_written for job in jobs] == [1, 0]
    assert shard_dataset.ShardDataset(tmp_path / "out").manifest.dataset == recorded
