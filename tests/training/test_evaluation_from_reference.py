"""Metrics while a model is trained that draws from images or sequences: those of `inrflow eval`, of the held-out split."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inrflow_cli import app, console
from inrflow_core.config import preset
from inrflow_core.errors import UsageError
from inrflow_core.runs import best
from inrflow_core.sampling import sample
from inrflow_core.training import periodic_eval, setup
from inrflow_core.training.setup import TrainJob
from tests import conditioned
from tests.training import small, test_periodic_eval

EXPECTED = {
    "image": ["mmd:cd:inrflow", "cov:cd:inrflow", "one-nna:cd:inrflow", "jsd:inrflow", "paired-cd:cd:inrflow"],
    "sequence": [
        "lddt:ca:auto:mean", "tm-score:reference:auto:mean", "rmsd:ca:auto:mean", "bond-lengths:backbone", "clashes:heavy",
    ],
}  # fmt: skip
SPLITS = {"image": "val", "sequence": "test"}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Shards by what is drawn from."""
    parent = tmp_path_factory.mktemp("evaluation")
    objects = conditioned.objects(parent / "objects", {"train": 8, "val": 6})
    return {"image": objects, "sequence": conditioned.proteins(parent / "proteins")}


def job(kind: str, data: dict[str, Path], out: Path, **settings: Any) -> TrainJob:
    """Two steps, each evaluated."""
    training = {**small.TRAINING, "steps": 2, "batch": 2, "save_every": 1, "keep": 2}
    tables = conditioned.preset(kind, training=training, network=small.NETWORK).table()
    tables["eval"] = {"every": 1, "num": 4, **settings}
    return TrainJob(preset.resolve("tiny", tables), out, data=data[kind], device="cpu", threads=1)


@pytest.mark.parametrize("kind", EXPECTED)
def test_the_values_are_those_of_the_command_on_the_same_items(
    data: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
):
    out = tmp_path / "run"
    trainer = setup.train(job(kind, data, out))
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    records = [line for line in lines if "eval" in line]
    assert [record["step"] for record in records] == [1, 2] and "note" not in records[-1]
    assert list(records[-1]["eval"]) == EXPECTED[kind]
    assert trainer.best is not None and best.read_best(out) == trainer.best
    monkeypatch.chdir(tmp_path)
    console.stderr.cache_clear()
    words = ["--reference", data[kind], "--split", SPLITS[kind], "--num", 4, "--workers", 1, "--out", "judged"]
    assert app.run(["eval", "--run", str(out), *map(str, words)]) == 0
    (evaluated,) = json.loads((tmp_path / "judged" / "metrics.json").read_text())["results"]
    result = {score["metric"]: score["value"] for score in evaluated["scores"]}
    # Places in a .pdb file have three decimals.
    assert records[-1]["eval"] == pytest.approx(result, rel=1e-9 if kind == "image" else 5e-3)


def test_what_is_compared_says_what_was_drawn_from(data: dict[str, Path], tmp_path: Path):
    said = {}
    for kind in EXPECTED:
        ready = setup.check_job(job(kind, data, tmp_path / kind, seed=5), {})
        assert ready.evaluation is not None
        said[kind] = ready.evaluation.by.partition(" against ")[0]
    assert said == {
        "image": "seeds 5 to 8, 4 pictures, view 0 of each once,",
        "sequence": "seed 5, 3 sequences, each once,",
    }


def test_images_of_pixels_still_have_no_partner(data: dict[str, Path], tmp_path: Path):
    with pytest.raises(UsageError, match="`ssim` evaluates images, and these are point clouds"):
        setup.check_job(job("image", data, tmp_path / "run", metrics=["ssim"]), {})
    selected = setup.check_job(job("image", data, tmp_path / "run", metrics=["paired-cd", "mmd"], best="paired-cd"), {})
    assert selected.evaluation is not None and selected.evaluation.best.name == "paired-cd"


def test_a_run_of_the_metrics_earlier_name_keeps_its_best_checkpoint(data: dict[str, Path], tmp_path: Path):
    """best.json, log.jsonl and preset.toml of earlier runs hold `right-cd`."""
    out = tmp_path / "run"
    trained = setup.train(job("image", data, out, metrics=["mmd", "paired-cd"], best="paired-cd")).best
    assert trained is not None and trained.metric == "paired-cd:cd:inrflow"
    for name in ("best.json", "log.jsonl", "preset.toml"):
        text = (out / name).read_text()
        assert "paired-cd" in text
        (out / name).write_text(text.replace("paired-cd", "right-cd"))
    assert best.read_best(out) == trained
    (out / "best.json").unlink()
    ready = setup.check_job(job("image", data, out, metrics=["mmd", "right-cd"], best="right-cd"), {})
    assert periodic_eval.restore_best(ready.evaluation, out, 2) == trained == best.read_best(out)


@pytest.mark.parametrize("uniform", [False, True])
def test_classes_are_drawn_as_often_as_the_reference_has_them(tmp_path, monkeypatch, uniform):
    labels_of_items = np.array([0] * 16 + [1] * 3 + [2] + [0] * 10)
    values = np.random.default_rng(0).integers(0, 255, (30, 8, 8, 1)).astype(np.uint8)
    shards = small._write(tmp_path / "skewed", "image", values, labels_of_items, small.CLASSES)
    drawn, draw = [], sample.sample_in_memory

    def watched(model, requests, *rest):
        drawn.extend(requests[0].labels)
        return draw(model, requests, *rest)

    monkeypatch.setattr(sample, "sample_in_memory", watched)
    setup.train(test_periodic_eval.job("image", shards, tmp_path / "run", num=200, every=6, uniform_labels=uniform))
    shares = np.bincount(drawn, minlength=3) / 200
    expected = [1 / 3] * 3 if uniform else [16 / 20, 3 / 20, 1 / 20]
    assert np.abs(shares - expected).max() < 0.11
