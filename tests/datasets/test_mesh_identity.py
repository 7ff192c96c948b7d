"""The side of the split of a mesh: of its identifier or its content, never of the path that names it."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from inrflow_core.datasets import _mesh_identity, mesh_folder, objaverse
from inrflow_core.preparation import pipeline
from inrflow_core.preparation.job import resolve_job

SETTINGS = {
    mesh_folder: mesh_folder.Config(val=0.2, points=50),
    objaverse: objaverse.Config(val=0.2, points=50, resolution=56, views=1, embedder="patches"),
}
FACES = "f 1 2 3\nf 1 2 4\nf 1 3 4\nf 2 3 4\n"


def solid(number: int) -> str:
    """A tetrahedron with a corner of its own."""
    return f"v 0 0 0\nv 1 0 0\nv 0 1 0\nv 0 0 {1 + number}\n{FACES}"


def laid(folder: Path, name: str, number: int) -> None:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(solid(number))


def sides(source: Path, data=mesh_folder) -> dict[str, str]:
    """The split of each mesh, by the two last parts of its path."""
    splits = data.scan(source, SETTINGS[data]).splits
    return {"/".join(Path(source, item.name).parts[-2:]): split for split, of in splits.items() for item in of}


@pytest.mark.parametrize("data", SETTINGS, ids=lambda data: data.__name__.rpartition(".")[2])
def test_no_mesh_changes_its_side_however_the_source_is_named_and_whatever_else_lies_there(
    data, tmp_path: Path
) -> None:
    for number in range(100):
        laid(tmp_path, f"deep/er/{number:03d}/model.obj", number)  # of one name, as ShapeNet's are
    alone = sides(tmp_path / "deep/er", data)
    assert 10 <= sum(side == "val" for side in alone.values()) <= 30
    for number in range(60):
        laid(tmp_path, f"deep/other/b{number}/model.obj", 1000 + number)
    for source in ("deep", ""):
        assert alone.items() <= sides(tmp_path / source, data).items()


def test_equal_meshes_are_on_one_side_under_any_name(tmp_path: Path) -> None:
    for copy in range(20):
        laid(tmp_path, f"{copy}/{'abcde'[copy % 5]}{copy}.obj", 7)
    assert len(set(sides(tmp_path).values())) == 1


def test_an_identifier_of_objaverse_decides_whatever_the_file_holds(tmp_path: Path) -> None:
    uids = [f"{number:032x}" for number in range(200)]
    for number, uid in enumerate(uids):
        laid(tmp_path, f"one/glbs/000-001/{uid}.obj", number)
        laid(tmp_path, f"two/{uid}.obj", 500 + number)
    one = {Path(name).name: side for name, side in sides(tmp_path / "one").items()}
    two = {Path(name).name: side for name, side in sides(tmp_path / "two").items()}
    assert one == two and 20 <= sum(side == "val" for side in one.values()) <= 60


def test_content_is_the_size_and_both_ends_of_a_file(tmp_path: Path) -> None:
    block = bytes(range(256)) * 1024
    contents = {
        "a": block,
        "b": block[:-1] + b"x",
        "c": b"x" + block[1:],
        "d": block + b"\xff",
        "e": b"",
        "f": b"x" * 9,
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    found = {name: _mesh_identity.identity(tmp_path / name) for name in contents}
    assert len(set(found.values())) == len(contents)
    shutil.copy(tmp_path / "a", tmp_path / "copy")
    assert _mesh_identity.identity(tmp_path / "copy") == found["a"]
    assert _mesh_identity.identity(tmp_path / "absent.obj") == "absent.obj"


def test_points_do_not_depend_on_the_folder(tmp_path: Path) -> None:
    laid(tmp_path, "a/b/chair.obj", 3)
    clouds = []
    for source in ("a/b", "a", ""):
        [item] = mesh_folder.scan(tmp_path / source, mesh_folder.Config(val=0, points=50)).splits["train"]
        clouds.append(mesh_folder.read(item, mesh_folder.Config(val=0, points=50)).values)
    np.testing.assert_array_equal(clouds[0], clouds[1])
    np.testing.assert_array_equal(clouds[0], clouds[2])


def test_another_file_in_the_folder_does_not_make_shards_of_another_job(tmp_path: Path) -> None:
    for number in range(4):
        laid(tmp_path / "source", f"{number}.obj", number)
    job = resolve_job("mesh-folder", tmp_path / "source", tmp_path / "out", mesh_folder.Config(points=50))
    pipeline.prepare(job, workers=1)
    (tmp_path / "source/NOTES.txt").write_text("a line")
    assert pipeline.prepare(job, workers=1).num_written == 0
