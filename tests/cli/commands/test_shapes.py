"""Shapes at the command line: meshes, points, files that are encoded, saved fields, and `inrflow eval`."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image

from inrflow_cli import app, console
from inrflow_core.datasets import occupancy_solids
from inrflow_core.geometry import shape_scores
from inrflow_core.mesh_files import reading
from inrflow_core.preparation import job, pipeline
from inrflow_core.sampling import sample
from inrflow_core.shards.batch import ConditionSelection
from inrflow_core.shards.shard_dataset import ShardDataset
from tests import tiny

Inrflow = Callable[..., str]
"""Runs a command with the arguments; returns its stderr. `code` is the expected exit code."""
HELD_OUT = 4
GENERATION = [f"{name}:cd:{by}" for by in ("ddmi", "inrflow") for name in ("mmd", "cov", "one-nna")]
RECONSTRUCTION = {
    "reconstruction-chamfer-l1:held-out:stored-points",
    "reconstruction-f-score:held-out:stored-points",
    "reconstruction-iou:held-out:stored-queries",
    "reconstruction-normal-consistency:held-out:stored-points",
}
MESHES = {"components:preset-grid", "watertight:preset-grid"}


@pytest.fixture
def inrflow(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Inrflow]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "400")

    def call(*arguments: Any, code: int = 0) -> str:
        console.stderr.cache_clear()
        found, said = app.run([str(argument) for argument in arguments]), capsys.readouterr().err
        assert found == code, said
        return " ".join(said.split())

    yield call
    console.stderr.cache_clear()


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    parent = tmp_path_factory.mktemp("shapes")
    config = occupancy_solids.Config(train=8, val=HELD_OUT, points=300, queries=203)
    pipeline.prepare(job.resolve_job("occupancy-solids", out=parent / "shards", config=config), workers=1)
    tiny.run_folder(parent / "solids", tiny.SHAPES)
    return {"run": parent / "solids", "shards": parent / "shards"}


def mesh_of(path: Path) -> Any:
    body: Any = trimesh.load(path, force="mesh", process=False)
    return body


def test_meshes_of_several_seeds_are_those_of_single_ones(inrflow: Inrflow, folders: dict[str, Path], tmp_path: Path):
    words = ["--run", folders["run"], "--label", "1", "--resolution", "24"]
    said = inrflow("sample", "both.ply", *words, "--num", "2", "--batch", "2")
    assert "a mesh on a grid of 24 points a side each" in said
    inrflow("sample", "alone.ply", *words, "--seed", "1", "--chunk", "500")
    both, alone = (mesh_of(tmp_path / name) for name in ("both-001.ply", "alone.ply"))
    np.testing.assert_array_equal(both.faces, alone.faces)
    np.testing.assert_allclose(both.vertices, alone.vertices, atol=5e-5)  # a batch rounds its convolutions otherwise
    assert np.abs(alone.vertices).max() <= 0.55 + 1e-6
    content = (tmp_path / "alone.ply").read_bytes()
    assert b"comment size: surface at probability 0.5, grid 24" in content and b"property float nx" in content


def test_a_saved_field_has_the_mesh_of_its_sample(inrflow: Inrflow, folders: dict[str, Path], tmp_path: Path):
    words = ["--run", folders["run"], "--label", "1", "--resolution", "20"]
    inrflow("sample", "a.stl", *words, "--save-field", "f.safetensors")
    inrflow("upsample", "f.safetensors", "b.stl", "--resolution", "20")
    first, second = ((tmp_path / name).read_bytes()[84:] for name in ("a.stl", "b.stl"))
    assert first == second and len(first) > 50
    inrflow("upsample", "f.safetensors", "finer.glb", "--resolution", "40")
    assert len(mesh_of(tmp_path / "finer.glb").faces) > len(
        reading.load(tmp_path, "a.stl", with_colors=False).mesh.faces
    )


def test_points_and_renderings_are_written(inrflow: Inrflow, folders: dict[str, Path], tmp_path: Path):
    words = ["--run", folders["run"], "--label", "1", "--num", "2"]
    inrflow("sample", "a.npz", *words)
    assert np.load(tmp_path / "a.npz")["surface_points"].shape == (2, 2048, 3)
    inrflow("sample", "a.ply", *words, "--points", "77")
    assert len(reading_points(tmp_path / "a-000.ply")) == 77
    inrflow("sample", "a.png", *words, "--resolution", "16")
    with Image.open(tmp_path / "a.png") as image:
        assert image.size == (512, 256) and 0 < (np.asarray(image.convert("L")) < 250).mean() < 1


def reading_points(path: Path) -> Any:
    return trimesh.load(path).vertices


def test_what_a_shape_does_not_have_is_refused(inrflow: Inrflow, folders: dict[str, Path]):
    words = ["--run", folders["run"], "--label", "1"]
    refused = {
        ("a.glb", "--points", "9"): "a `.glb` file holds a mesh, and `--points` and `--scale` set a number of",
        ("a.glb", "--level", "1.5"): "`--level 1.5`: the probability of being inside",
        ("a.npz", "--resolution", "9"): "`--resolution` is of the mesh of a shape",
        ("a.glb", "--views", "3"): "which a `.glb` file does not hold",
        ("a.glb", "--level", "0.999999", "--resolution", "8"): "a shape is empty: the highest probability",
    }
    for arguments, message in refused.items():
        assert message in inrflow("sample", *arguments, *words, code=2)


def test_files_are_encoded_and_come_back_in_their_own_units(inrflow: Inrflow, folders: dict[str, Path], tmp_path: Path):
    box: Any = trimesh.creation.box((20, 10, 10))
    box.apply_translation([100, 0, 0])
    box.export(tmp_path / "box.stl")
    said = inrflow("upsample", "box.stl", "out.ply", "--run", folders["run"], "--resolution", "20")
    assert "`box.stl` is reconstructed to Chamfer-L1" in said and "tenths of its longest side, IoU 0." in said
    vertices = mesh_of(tmp_path / "out.ply").vertices
    assert np.abs(vertices - [100, 0, 0]).max() <= 11 + 1e-3 and vertices[:, 0].min() > 80
    inrflow("upsample", "box.stl", "points.ply", "--run", folders["run"], "--points", "99")
    assert reading_points(tmp_path / "points.ply").shape == (99, 3)
    said = inrflow("upsample", "box.stl", "finer.ply", "--run", folders["run"], "--scale", "2", code=2)
    assert "`--scale` does not apply to a `.ply` file: it is of a number of surface points" in said
    assert "`missing.obj` does not exist" in inrflow(
        "upsample", "missing.obj", "o.ply", "--run", folders["run"], code=3
    )
    (tmp_path / "broken.obj").write_text("v 0 0 0\n")
    assert "`broken.obj` cannot be read" in inrflow("upsample", "broken.obj", "o.ply", "--run", folders["run"], code=4)


def scores_of(folder: Path) -> dict[str, dict[str, Any]]:
    results = json.loads((folder / "metrics.json").read_text())["results"]
    return {one["name"]: {score["metric"]: score for score in one["scores"]} | {"": one} for one in results}


def test_eval_computes_generation_meshes_and_reconstruction(inrflow: Inrflow, folders: dict[str, Path], tmp_path: Path):
    words = ["--run", folders["run"], "--reference", folders["shards"], "--num", "4", "--workers", "1"]
    inrflow("eval", *words, "--out", "out")
    found = scores_of(tmp_path / "out")
    assert {name: set(scores) - {""} for name, scores in found.items()} == {
        "solids": set(GENERATION),
        "solids, meshes": MESHES,
        "solids, reconstructed": RECONSTRUCTION,
    }
    rebuilt = found["solids, reconstructed"]
    iou = "reconstruction-iou:held-out:stored-queries"
    each = rebuilt[""]["items"][iou]
    assert len(each) == HELD_OUT and np.mean([*each.values()]) == pytest.approx(rebuilt[iou]["value"])
    assert rebuilt[iou]["value"] == pytest.approx(expected_iou(folders), abs=1e-6)
    assert found["solids, meshes"]["watertight:preset-grid"]["samples"] == 4
    assert "report" in inrflow("eval", *words, "--out", "out", "--overwrite")
    again = scores_of(tmp_path / "out")
    assert again == found


def test_metrics_of_meshes_alone_draw_no_samples(inrflow: Inrflow, folders: dict[str, Path], tmp_path: Path):
    words = ["--run", folders["run"], "--reference", folders["shards"], "--metrics", "watertight", "--out", "few"]
    inrflow("eval", *words, "--num", "3", "--seed", "5")
    found = scores_of(tmp_path / "few")
    assert set(found) == {"solids, meshes"} and found["solids, meshes"]["watertight:preset-grid"]["samples"] == 3
    assert not list((tmp_path / "few").rglob("*.h5"))
    said = inrflow("eval", *words, "--points", "100", "--overwrite", code=2)
    assert "`--points` does not apply: no metric needs drawn samples, and meshes are of the preset's grid" in said


def expected_iou(folders: dict[str, Path]) -> float:
    """From the networks and the definition."""
    model, shards = sample.load(folders["run"], device="cpu"), ShardDataset(folders["shards"])
    stored = shards.read("val", range(HELD_OUT), conditions=ConditionSelection())
    sets = model.domain.to_set(stored, torch.arange(HELD_OUT))
    with torch.no_grad():
        mean, _ = model.method.autoencoder.encode(sets.values)
        state = model.method.autoencoder.decode(mean)
        queries = torch.from_numpy(stored.condition["queries"]) / 0.55
        at = model.domain.queries()
        logits = model.method.readout.query(
            tuple(field.contiguous() for field in state), type(at)(queries, torch.arange(queries.shape[1]))
        )
    inside = np.unpackbits(stored.condition["occupancies"], axis=1, count=203).astype(bool)
    return float(np.mean([shape_scores.iou(*pair) for pair in zip(logits[..., 0].numpy() > 0, inside, strict=True)]))


def test_metrics_that_cannot_be_computed_are_refused(inrflow: Inrflow, folders: dict[str, Path]):
    words = ["--run", folders["run"], "--reference", folders["shards"], "--num", "4", "--out", "out"]
    assert "evaluates images" in inrflow("eval", *words, "--metrics", "fid", code=2)
    assert "evaluates point clouds" in inrflow("eval", *words, "--metrics", "p-fid", code=2)
    inrflow("sample", "a.h5", "--run", folders["run"], "--label", "1", "--num", "3")
    files = ["--samples", "a.h5", "--reference", folders["shards"], "--out", "files"]
    assert "which a run draws" in inrflow("eval", *files, "--metrics", "watertight", code=2).replace(
        "that a", "which a"
    )
    assert "is of items that a run encodes" in inrflow("eval", *files, "--metrics", "reconstruction-iou", code=2)
    inrflow("eval", *files, "--metrics", "mmd")
