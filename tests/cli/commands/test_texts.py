"""Texts at the command line: from shards with captions through training, samples by text and evaluation."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trimesh

from inrflow_cli import app, console
from inrflow_core import models
from inrflow_core.config import toml
from inrflow_core.datasets import occupancy_solids
from inrflow_core.geometry import point_clouds
from inrflow_core.metrics._mutual_inputs import mutual_difference
from inrflow_core.preparation import job, pipeline
from inrflow_core.sample_files import readers
from inrflow_core.sampling import reference_inputs, sample
from inrflow_core.shards.shard_dataset import ShardDataset
from tests import tiny
from tests.feature_networks import hf_folders, published

Inrflow = Callable[..., str]
MESH = ("--level", "0.4", "--resolution", "12")
"""Of a model of random weights: little is inside at 0.5."""


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
    """A run of random weights, its weights with more inside of each shape, and shards of solids with captions."""
    parent = tmp_path_factory.mktemp("texts")
    config = occupancy_solids.Config(train=8, val=4, points=300, queries=203, embedder="words")
    pipeline.prepare(job.resolve_job("occupancy-solids", out=parent / "shards", config=config), workers=1)
    metadata = {"normalization": {"embedder": "words", "embedder_digest": "words-1"}}
    model = tiny.run_folder(parent / "run", tiny.TEXT, metadata=metadata)
    model.method.get_parameter("readout.out.bias").data += 0.5
    models.save(parent / "filled.safetensors", model.method.state_dict(), model.preset, {"step": 2, **metadata})
    return {"run": parent / "run", "filled": parent / "filled.safetensors", "shards": parent / "shards"}


def points(path: Path) -> np.ndarray:
    with np.load(path) as file:
        return file["surface_points"]


def vertices(path: Path) -> np.ndarray:
    body: Any = trimesh.load(path, force="mesh", process=False)
    return np.asarray(body.vertices)


def test_a_model_is_trained_from_captions_and_sampled_by_text(
    inrflow: Inrflow, folders: dict[str, Path], tmp_path: Path
):
    tables = tiny.tables(
        tiny.TEXT, training={"samples_every": 2, "samples": 2, "held_out_every": 2, "held_out_sets": 2}
    )
    tables["data"] = {"path": str(folders["shards"]), "held_out": "val"}
    (tmp_path / "mine.toml").write_text(toml.to_toml(tables), encoding="utf-8")
    inrflow("train", "--preset", "mine.toml", "--out", "runs/mine")
    assert list((tmp_path / "runs/mine/samples").glob("*.png"))
    inrflow("sample", "--text", "a tall cone", "--points", "50", "--num", "2", "one.npz")
    assert points(tmp_path / "one.npz").shape == (2, 50, 3)


def test_seeds_take_texts_in_turn_and_each_file_names_its_own(
    inrflow: Inrflow, folders: dict[str, Path], tmp_path: Path
):
    texts = ["a tall cone", "a flat wide box", "a thin torus"]
    (tmp_path / "texts.txt").write_text("\n\n".join(texts), encoding="utf-8")
    words = ("--run", folders["run"], *MESH)
    inrflow("sample", "all.ply", *words, "--texts", "texts.txt", "--num", "4", "--seed", "1")
    said = inrflow("sample", "two.ply", *words, "--texts", "texts.txt", "--num", "2", "--seed", "1")
    assert "1 of 3 inputs are not used: `--num 3` takes each of them once" in said
    for number, seed in enumerate((1, 2, 3, 4)):
        inrflow("sample", f"alone-{seed}.ply", *words, "--text", texts[seed % 3], "--seed", seed)
        joined, alone = ((tmp_path / name).read_bytes() for name in (f"all-{number:03d}.ply", f"alone-{seed}.ply"))
        for content in (joined, alone):
            assert f"comment text: {texts[seed % 3]}\n".encode() in content
        both, single = (vertices(tmp_path / name) for name in (f"all-{number:03d}.ply", f"alone-{seed}.ply"))
        np.testing.assert_allclose(both, single, atol=1e-4)


def test_an_empty_text_means_none_and_others_change_the_sample(
    inrflow: Inrflow, folders: dict[str, Path], tmp_path: Path
):
    words = ("--run", folders["run"], *MESH)
    for name, text, guidance in (("none", "", "1"), ("zero", "a tall cone", "0"), ("cone", "a tall cone", "1")):
        inrflow("sample", f"{name}.ply", *words, "--text", text, "--guidance", guidance)
    none, zero, cone = (vertices(tmp_path / f"{name}.ply") for name in ("none", "zero", "cone"))
    np.testing.assert_array_equal(none, zero)
    assert none.shape != cone.shape or np.abs(none - cone).max() > 1e-4


def test_shards_of_samples_record_the_texts_and_are_resumed_by_them_alone(
    inrflow: Inrflow, folders: dict[str, Path], tmp_path: Path
):
    (tmp_path / "texts.txt").write_text("a cone\na box\n", encoding="utf-8")
    words = ("sample", "out.h5", "--run", folders["run"], "--points", "40", "--num", "4", "--texts", "texts.txt")
    inrflow(*words)
    assert "holds all of its 4 samples already" in inrflow(*words)
    assert len(ShardDataset(tmp_path / "out.h5").manifest.settings["texts"]) == 16
    (tmp_path / "texts.txt").write_text("a cone\na torus\n", encoding="utf-8")
    assert "holds samples of other options" in inrflow(*words, code=2)


def test_what_does_not_fit_is_an_error_that_says_what_to_do(inrflow: Inrflow, folders: dict[str, Path], tmp_path: Path):
    run = ("--run", folders["run"], "--points", "40")
    said = inrflow("sample", "a.npz", *run, code=2)
    assert "is conditioned on texts, and none is given" in said and '`--text "a tall chair"` or `--texts FILE`' in said
    said = inrflow("sample", "a.npz", *run, "--text", "a cone", "--label", "1", code=2)
    assert "`--text` and `--label` exclude each other" in said
    said = inrflow("sample", "a.npz", *run, "--text", "word " * 10_000, code=2)
    assert "the text has 10,000 tokens, and `tiny` reads 77" in said
    assert "`none.txt` does not exist" in inrflow("sample", "a.npz", *run, "--texts", "none.txt", code=3)
    tiny.run_folder(tmp_path / "labels", tiny.SHAPES)
    said = inrflow("sample", "a.npz", "--run", tmp_path / "labels", "--text", "a cone", code=2)
    assert "is not conditioned on texts" in said and "name with `--run` one that is" in said


def test_eval_draws_a_sample_for_the_texts_of_the_reference(inrflow: Inrflow, folders: dict[str, Path], tmp_path: Path):
    words = ("eval", "--run", folders["run"], "--reference", folders["shards"], "--split", "val", "--num", "3")
    inrflow(*words, "--metrics", "mmd:cd:ddmi", "--points", "40", "--view", "1", "--out", "results")
    (path,) = (tmp_path / "results").rglob("*.h5")
    read = ShardDataset(path).read("samples", range(3))
    shards = ShardDataset(folders["shards"])
    items = read.condition["item"]
    counts = shards.view_counts("val", "text_tokens")[items]
    assert read.condition["view"].tolist() == (1 % counts).tolist() and counts.max() == 3
    model, reference = sample.load(folders["run"], device="cpu"), readers.open_collection(folders["shards"], "val")
    plan = reference_inputs.plan_from_reference("text", reference, 3, view=1)
    tokens = reference_inputs.condition(model, plan, range(3))["text_tokens"].numpy()
    stored = shards.read("val", items.tolist()).condition["text_tokens"]
    np.testing.assert_array_equal(tokens, stored[range(3), read.condition["view"]])


def test_eval_draws_several_samples_of_each_text_for_tmd(inrflow: Inrflow, folders: dict[str, Path], tmp_path: Path):
    words = ("eval", "--run", folders["filled"], "--reference", folders["shards"], "--num", "2", "--metrics", "tmd:k5")
    inrflow(*words, "--samples-per-item", "5", "--out", "results")
    (result,) = json.loads((tmp_path / "results/metrics.json").read_text())["results"]
    (score,) = result["scores"]
    assert (score["metric"], score["samples"], score["reference"]) == ("tmd:k5:cd:2048:as-drawn", 10, 2)
    (path,) = (tmp_path / "results").rglob("*.h5")
    values = ShardDataset(path).read("samples", range(10)).values
    each = [mutual_difference(values[start : start + 5], "cd") for start in (0, 5)]
    assert score["value"] == pytest.approx(100 * np.mean(each), rel=1e-9) and min(each) > 0
    assert list(result["items"][score["metric"]].values()) == pytest.approx(each, rel=1e-9)
    inrflow(*words, "--samples-per-item", "5", "--out", "results", "--overwrite")
    assert json.loads((tmp_path / "results/metrics.json").read_text())["results"] == [result]
    said = inrflow(*words, "--out", "one", code=2)
    assert "compares 5 samples of each of the reference's texts, and 1 would be drawn" in said
    assert "`--view by-seed` chooses another for each" in inrflow(
        *words, "--samples-per-item", "5", "--view", "by-seed", "--out", "seeds", code=2
    )
    tiny.run_folder(tmp_path / "labels", tiny.SHAPES)
    words = ("eval", "--run", tmp_path / "labels", *words[3:], "--out", "labels-out")
    assert "compares samples of one text, and `labels` is conditioned on none" in inrflow(*words, code=2)


def test_eval_draws_meshes_under_the_texts_of_the_reference(inrflow: Inrflow, folders: dict[str, Path], tmp_path: Path):
    words = ("eval", "--run", folders["filled"], "--reference", folders["shards"], "--num", "4")
    inrflow(*words, "--metrics", "mmd:cd:ddmi,components", "--guidance", "5", "--out", "results")
    meshes, drawn = json.loads((tmp_path / "results/metrics.json").read_text())["results"]
    assert [one["name"] for one in (meshes, drawn)] == ["filled, meshes", "filled"]
    (path,) = (tmp_path / "results").rglob("*.h5")
    pieces = meshes["items"]["components:preset-grid"]
    assert meshes["samples"]["count"] == 4 and min(pieces.values()) > 0
    assert ShardDataset(path).read("samples", range(4)).values.any((1, 2)).all()


def test_eval_of_texts_has_accuracy_by_the_nearest_reference_by_default(
    inrflow: Inrflow, folders: dict[str, Path], tmp_path: Path
):
    words = ("eval", "--run", folders["filled"], "--reference", folders["shards"], "--num", "4", "--workers", "1")
    inrflow(*words, "--out", "results")
    drawn = json.loads((tmp_path / "results/metrics.json").read_text())["results"][1]
    (score,) = [score for score in drawn["scores"] if score["title"] == "accuracy"]
    assert (score["metric"], score["samples"], score["reference"]) == ("accuracy:nearest-class:cd:inrflow", 4, 4)
    shards = ShardDataset(folders["shards"])
    (path,) = (tmp_path / "results").rglob("*.h5")
    made = ShardDataset(path).read("samples", range(4))
    labels = shards.labels("val")
    sides = [point_clouds.boxed(values, 300) for values in (made.values, shards.read("val", range(4)).values)]
    nearest = [int(np.argmin([chamfer(cloud, real) for real in sides[1]])) for cloud in sides[0]]
    is_right = [labels[near] == labels[item] for near, item in zip(nearest, made.condition["item"], strict=True)]
    assert score["value"] == 100 * np.mean(np.array(is_right) & made.values.any((1, 2)))


def chamfer(one: np.ndarray, other: np.ndarray) -> float:
    squares = np.square(one.astype(np.float64)[:, None] - other[None]).sum(2)
    return squares.min(0).mean() + squares.min(1).mean()


def test_accuracy_that_cannot_be_computed_is_refused(inrflow: Inrflow, folders: dict[str, Path], tmp_path: Path):
    words = ("eval", "--run", folders["run"], "--num", "3", "--out", "out")
    shards = ("--reference", folders["shards"])
    said = inrflow(*words, *shards, "--metrics", "accuracy:pointnet2", "--points", "4096", code=3)
    assert "the weights of `pointnet2` are absent" in said and "inrflow weights convert pointnet2 pointnet.pt" in said
    np.savez(
        tmp_path / "points.npz", surface_points=np.random.default_rng(0).uniform(-0.5, 0.5, (3, 300, 3)).astype("f4")
    )
    tiny.run_folder(tmp_path / "labels", tiny.SHAPES)
    run = ("eval", "--run", tmp_path / "labels", "--num", "3", "--out", "out")
    said = inrflow(*run, "--reference", "points.npz", "--metrics", "accuracy", code=2)
    assert "`points.npz` has items without a class, and `accuracy:nearest-class:cd:inrflow` takes" in said
    said = inrflow(*run, *shards, "--metrics", "accuracy", "--label", "none", code=2)
    assert "`labels` draws samples of none" in said


def test_eval_compares_meshes_with_their_texts(
    inrflow: Inrflow, folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    weights = tmp_path / "weights"
    weights.mkdir()
    words = (
        "eval",
        "--run",
        folders["filled"],
        "--num",
        "3",
        "--view",
        "1",
        "--metrics",
        "clip-s,clip-s:max,components",
    )
    shards = ("--reference", folders["shards"])
    said = inrflow(*words, *shards, "--out", "few", code=3)
    assert "the weights of `clip` are absent" in said and "inrflow weights convert clip ViT-B-32.pt" in said
    published.clip_file(monkeypatch, weights)
    tokenizer = hf_folders.clip(tmp_path / "whole") / "tokenizer.json"
    extractor = published.clip_text_file(monkeypatch, weights, tokenizer)
    seen: list[str] = []
    call = type(extractor).__call__
    monkeypatch.setattr(
        type(extractor), "__call__", lambda self, texts, *rest: seen.extend(texts) or call(self, texts, *rest)
    )
    inrflow(*words, *shards, "--out", "results")
    (result,) = json.loads((tmp_path / "results/metrics.json").read_text())["results"]
    mean, largest, _ = result["scores"]
    assert mean["metric"] == "clip-s:vit-b32:8-views:elevation-20:fov-30:mean" and mean["samples"] == 3
    assert -100 <= mean["value"] < largest["value"] <= 100
    assert mean["features"] == "clip:openai, clip-text-b32:openai" and mean["weights"].count(", ") == 1
    data = ShardDataset(folders["shards"])
    rows = [0, 2, 3]
    stored = data.read("val", rows).condition["descriptions"]
    texts = [bytes(row[row > 0]).decode().split("\n") for row in stored]
    assert seen == [lines[1 % len(lines)] for lines in texts]
    (weights / "clip-text-b32-tokenizer.json").unlink()
    said = inrflow(*words, *shards, "--out", "without", code=3)
    assert "holds no `clip-text-b32-tokenizer.json`" in said and not (tmp_path / "without").exists()
    config = occupancy_solids.Config(train=2, val=2, points=300, queries=203)
    pipeline.prepare(job.resolve_job("occupancy-solids", out=tmp_path / "bare", config=config), workers=1)
    tiny.run_folder(tmp_path / "labels", tiny.SHAPES)
    run = (
        "eval",
        "--run",
        tmp_path / "labels",
        "--reference",
        tmp_path / "bare",
        "--metrics",
        "clip-s",
        "--out",
        "none",
    )
    assert "compares meshes with their texts, and `labels` is conditioned on none" in inrflow(*run, code=2)
    assert "has no texts of its items" in inrflow(*words, "--reference", tmp_path / "bare", "--out", "bare-out", code=2)


def test_a_file_is_encoded_without_a_text(inrflow: Inrflow, folders: dict[str, Path], tmp_path: Path):
    trimesh.creation.box((0.6, 0.5, 0.9)).export(tmp_path / "box.stl")
    inrflow("upsample", "--run", folders["run"], "box.stl", "out.ply", "--points", "30")
    assert "is conditioned on texts, which `upsample` does not take" in inrflow(
        "upsample", "--run", folders["run"], "x.npz", code=2
    )
