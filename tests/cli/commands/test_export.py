"""`inrflow export`: samples, shards and runs into other files, and what it refuses."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from inrflow_cli import console
from inrflow_cli.app import run
from inrflow_core import models
from inrflow_core.datasets import solids
from inrflow_core.errors import IntegrityError, UsageError
from inrflow_core.geometry import ply_reader
from inrflow_core.preparation import job, pipeline
from inrflow_core.sample_files import item_selection
from inrflow_core.shards.shard_dataset import ShardDataset
from tests import tiny


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    parent = tmp_path_factory.mktemp("export")
    config = solids.Config(train=20, val=4, points=400)
    pipeline.prepare(job.resolve_job("solids", out=parent / "solids", config=config), workers=1)
    pipeline.prepare(job.resolve_job("digits", out=parent / "digits", limit=6), workers=1)
    tiny.run_folder(parent / "clouds", tiny.POINTS)
    tiny.run_folder(parent / "images", tiny.IMAGE)
    return parent


@pytest.fixture(autouse=True)
def _working_folder(folders, tmp_path, monkeypatch):
    monkeypatch.setenv("INRFLOW_RUNS", str(folders))
    monkeypatch.chdir(tmp_path)
    console.stderr.cache_clear()
    yield
    console.stderr.cache_clear()


def export(*words) -> int:
    return run(["export", *map(str, words)])


def refused(capsys, *words) -> str:
    code = export(*words)
    error = capsys.readouterr().err
    assert "Traceback" not in error
    assert error.count("error:") == error.count("hint:") == 1
    return f"{code}: {error.partition('error: ')[2].partition(chr(10))[0]}"


def test_shards_become_numbered_clouds_with_name_class_and_seedless_origin(folders, tmp_path):
    assert export(folders / "solids", "out.ply", "--items", "1,18-19", "--split", "train") == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out-000.ply", "out-001.ply", "out-002.ply"]
    stored = ShardDataset(folders / "solids").read("train", [1, 18, 19]).values
    for number in range(3):
        np.testing.assert_array_equal(ply_reader.read_points(tmp_path / f"out-00{number}.ply"), stored[number])
    head = (tmp_path / "out-000.ply").read_bytes().split(b"end_header")[0].decode()
    assert "comment item: 1\ncomment name: train-00001-ball\ncomment class: ball\n" in head
    assert str(folders) not in head


def test_raw_clouds_are_in_the_units_of_their_source(folders, tmp_path):
    assert export(folders / "solids", "box.ply", "--items", "3") == 0
    assert export(folders / "solids", "raw.ply", "--items", "3", "--raw") == 0
    batch = ShardDataset(folders / "solids").read("train", [3])
    expected = ply_reader.read_points(tmp_path / "box.ply") * batch.condition["scale"][0] + batch.condition["offset"][0]
    np.testing.assert_allclose(ply_reader.read_points(tmp_path / "raw.ply"), expected, atol=1e-6)


def test_text_normals_and_surfaces_are_options(folders, tmp_path):
    assert export(folders / "solids", "a.ply", "--items", "1", "--ascii", "--normals") == 0
    columns = ply_reader.read_columns(tmp_path / "a.ply")
    assert list(columns) == ["x", "y", "z", "nx", "ny", "nz"]
    assert (tmp_path / "a.ply").read_bytes().startswith(b"ply\nformat ascii 1.0\n")
    outwards = sum(columns[axis] * columns[f"n{axis}"] for axis in "xyz")
    assert np.mean(outwards > 0) > 0.98
    assert export("a.ply", "a.obj", "--surface", "pivoting") == 0
    assert export("a.ply", "a.glb") == 0
    assert (tmp_path / "a.obj").read_text().count("\nf ") > 200
    assert (tmp_path / "a.glb").read_bytes()[:4] == b"glTF"


def test_images_become_sheets_and_archives_to_the_bit(folders, tmp_path, capsys):
    assert export(folders / "digits", "one.png", "--items", "2", "--split", "val") == 0
    stored = ShardDataset(folders / "digits").read("val", range(6)).values
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "one.png")), stored[2, ..., 0])
    assert export(folders / "digits", "all.npz", "--items", "all", "--split", "val") == 0
    np.testing.assert_array_equal(np.load(tmp_path / "all.npz")["images"], stored)
    assert export("all.npz", "again.png", "--items", "2", "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"out": ["again.png"], "items": 1, "of": 6}
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "again.png")), stored[2, ..., 0])


def test_scenes_become_turntables_at_a_rate(tmp_path, capsys):
    views = np.random.default_rng(0).integers(0, 256, (2, 5, 16, 16, 3), dtype=np.uint8)
    np.savez("scenes.npz", views=views)
    assert export("scenes.npz", "one.webp", "--items", "1", "--fps", "5", "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"out": ["one.webp"], "items": 1, "of": 2}
    with Image.open(tmp_path / "one.webp") as image:
        for number, view in enumerate(views[1]):
            image.seek(number)
            np.testing.assert_array_equal(np.asarray(image.convert("RGB")), view)
            assert image.info["duration"] == 200
    assert "`--fps` does not apply to a `.png` file" in refused(capsys, "scenes.npz", "one.png", "--fps", "5")


def test_samples_are_exported_with_their_seeds(tmp_path):
    assert run(["sample", "--num", "3", "--seed", "5", "--points", "30", "out.h5"]) == 0
    assert export("out.h5", "out.ply", "--items", "2") == 0
    np.testing.assert_array_equal(
        ply_reader.read_points(tmp_path / "out.ply"), ShardDataset("out.h5").read("samples", [2]).values[0]
    )
    assert b"comment seed: 7\n" in (tmp_path / "out.ply").read_bytes()


def test_sixteen_are_taken_where_none_are_named_and_that_is_said(folders, capsys):
    assert export(folders / "solids", "out.npz") == 0
    assert "16 of" in (message := capsys.readouterr().err)
    assert "the first of 20" in message


def test_the_same_command_gives_the_same_bytes(folders, tmp_path):
    for suffix in ("ply", "obj", "glb", "png", "npz"):
        for name in ("a", "b"):
            assert export(folders / "solids", f"{name}.{suffix}", "--items", "2") == 0
        assert (tmp_path / f"a.{suffix}").read_bytes() == (tmp_path / f"b.{suffix}").read_bytes()


def test_a_run_becomes_one_file_with_the_same_samples(folders, tmp_path, capsys):
    assert export(folders / "clouds", "model.safetensors", "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["preset"], report["step"]) == ("tiny", 2)
    assert models.load(tmp_path / "model.safetensors").metadata["classes"] == tiny.NAMES
    for name, source in (("run", folders / "clouds"), ("file", "model.safetensors")):
        assert run(["sample", "--run", str(source), f"{name}.npz"]) == 0
    np.testing.assert_array_equal(np.load(tmp_path / "run.npz")["points"], np.load(tmp_path / "file.npz")["points"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["solids", "out.jpg"], "2: no format of the domain `points` writes `.jpg` files"),
        (["solids", "out.h5"], "2: `export` writes no shards"),
        (["solids", "absent/out.ply"], "2: the folder `absent` does not exist"),
        (["solids", "out.ply", "--items", "20"], "2: there is no item 20: there are 20"),
        (["solids", "out.ply", "--items", "5-2"], "2: `5-2` names no items"),
        (["solids", "out.ply", "--split", "tain"], "2: the shards in `.*solids` have no split `tain`"),
        (["solids", "out.npz", "--ascii"], "2: `--ascii` does not apply to a `.npz` file"),
        (["solids", "out.ply", "--colors"], "2: the cloud has no colors to write"),
        (["solids", "out.obj", "--surface", "alpha"], "2: `--surface alpha` is not a method of surface reconstruction"),
        (["solids", "out.ply", "--ema", "0.9"], "2: `--ema` does not apply to a `.ply` file"),
        (["clouds", "out.safetensors", "--items", "3"], "2: `--items` does not apply to a `.safetensors` file"),
        (["digits", "out.ply"], "2: no format of the domain `image` writes `.ply` files"),
        (["digits", "out.png", "--raw"], "2: these items do not record their source units"),
        (["clouds", "out.ply"], "2: a run becomes a .safetensors or an .onnx file, not `.*out.ply`"),
        (["absent", "out.ply"], "3: `.*absent` does not exist"),
        (["solids", "out.safetensors"], "3: `.*solids` holds no run"),
        (["clouds", "out.safetensors", "--checkpoint", "7"], "3: the run `.*clouds` has no checkpoint of step 7"),
    ],
)
def test_what_cannot_be_done_is_one_sentence_and_a_hint_and_leaves_nothing(folders, tmp_path, capsys, words, message):
    import re

    assert re.match(message, refused(capsys, folders / words[0], *words[1:]))
    assert list(tmp_path.iterdir()) == []


def test_an_existing_file_is_overwritten_only_on_request(folders, tmp_path, capsys):
    for out in ("out.npz", "out.safetensors"):
        source = folders / ("clouds" if out.endswith("safetensors") else "solids")
        (tmp_path / out).write_text("mine")
        assert refused(capsys, source, out) == f"2: `{out}` exists already"
        assert (tmp_path / out).read_text() == "mine"
        assert export(source, out, "--overwrite") == 0
        assert (tmp_path / out).stat().st_size > 1000


def test_a_flipped_byte_of_a_shard_is_reported_before_it_is_exported(folders, tmp_path, capsys):
    shutil.copytree(folders / "digits", tmp_path / "digits")
    shard = tmp_path / "digits" / "train-00000.h5"
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    assert refused(capsys, tmp_path / "digits", "a.png").startswith("4: ")
    assert not (tmp_path / "a.png").exists()
    assert export(tmp_path / "digits", "b.png", "--split", "val") == 0


def test_damaged_sources_are_integrity_errors(folders, tmp_path, capsys):
    (tmp_path / "junk.npz").write_bytes(b"PK junk")
    np.save(tmp_path / "array.npy", np.zeros(3))
    (tmp_path / "array.npy").rename(tmp_path / "array.npz")
    cloud = np.random.default_rng(0).normal(size=(1, 40, 3)).astype(np.float32)
    holds = {
        "objects": {"points": np.array([{}], dtype=object)},
        "flat": {"points": cloud[..., :2]},
        "channels": {"images": np.zeros((1, 4, 4, 7), np.uint8)},
        "nan": {"points": np.where(cloud > 2, np.nan, cloud)},
        "origin": {"points": cloud, "origin": np.array("[1]")},
    }
    for name, arrays in holds.items():
        np.savez(tmp_path / f"{name}.npz", **arrays)
    (tmp_path / "junk.safetensors").write_bytes(b"\x10" + bytes(30))
    for source in ("junk", "array", *holds):
        for out in ("a.png", "a.npz", "a.obj"):
            assert refused(capsys, f"{source}.npz", out).startswith("4: ")
    assert refused(capsys, "junk.safetensors", "b.safetensors").startswith("4: ")
    assert not [path for path in tmp_path.iterdir() if path.name[:2] in ("a.", "b.")]


def test_a_flipped_byte_of_a_compressed_archive_is_named_wherever_it_is(tmp_path):
    whole = np.arange(4 * 8 * 8 * 3, dtype=np.uint8).reshape(4, 8, 8, 3) // 64
    file = tmp_path / "a.npz"
    np.savez_compressed(file, images=whole)
    content, named = file.read_bytes(), 0
    for offset in range(len(content)):
        file.write_bytes(content[:offset] + bytes([content[offset] ^ 0xFF]) + content[offset + 1 :])
        try:
            assert (item_selection.read(file).values == whole).all()
        except (IntegrityError, UsageError) as error:
            named += "a.npz" in error.message
    assert named > len(content) // 2
