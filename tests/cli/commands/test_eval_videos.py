"""`inrflow eval` of clips by FVD of I3D: files of weights, protocols, notes and refusals, on a narrow network."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from inrflow_cli import console
from inrflow_cli.app import run
from inrflow_core.errors import UsageError
from inrflow_core.feature_networks import i3d
from inrflow_core.training import setup
from inrflow_core.training.setup import TrainJob
from tests.feature_networks import i3d_published
from tests.training import small

CLIPS = np.random.default_rng(0).integers(0, 256, (4, 16, 10, 14, 3), dtype=np.uint8)


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a converted file of a narrow network; the current folder holds clips."""
    monkeypatch.chdir(tmp_path)
    console.stderr.cache_clear()
    monkeypatch.setattr(i3d, "STEM", i3d_published.NARROW_STEM)
    monkeypatch.setattr(i3d, "BLOCKS", i3d_published.NARROW_BLOCKS)
    torch.save(i3d_published.tensors(), i3d.STATE_DICT)
    assert run(["weights", "convert", "i3d", i3d.STATE_DICT]) == 0
    np.savez("a.npz", videos=CLIPS)
    np.savez("b.npz", videos=255 - CLIPS)
    np.savez("short.npz", videos=CLIPS[:, :8])
    return tmp_path / "weights"


def evaluate(*words: object) -> int:
    return run(["eval", *map(str, words)])


def scores(folder: Path) -> dict[str, dict]:
    metrics = json.loads((folder / "metrics.json").read_text())
    return {score["metric"]: score for score in metrics["results"][0]["scores"]}


def test_both_protocols_are_computed_with_their_weights_and_their_numbers_of_clips(weights: Path, tmp_path: Path):
    words = ["--reference", "a.npz", "--weights", weights, "--metrics", "fvd:stylegan-v,fvd:pvdm"]
    assert evaluate("--samples", "b.npz", "--out", "out", *words) == 0
    assert evaluate("--samples", "a.npz", "--out", "same", *words) == 0
    others, same = scores(tmp_path / "out"), scores(tmp_path / "same")
    assert set(others) == {"fvd:stylegan-v", "fvd:pvdm"}
    assert others["fvd:stylegan-v"]["value"] != pytest.approx(others["fvd:pvdm"]["value"], rel=1e-3)
    for name, score in others.items():
        protocol = name.removeprefix("fvd:")
        assert score["value"] > 0 and same[name]["value"] < 1e-6 * score["value"]
        assert score["features"] == f"i3d:{protocol}" and len(score["weights"]) == 64
        assert f"4 samples and 4 references, while `{protocol}` compares 2,048 of each" in score["note"]
    assert "belongs to `i3d_torchscript.pt`" in others["fvd:stylegan-v"]["note"]
    assert "belongs to" not in others["fvd:pvdm"]["note"]


def test_clips_of_another_length_and_absent_weights_are_refused_before_any_work(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    words = ["--weights", weights, "--out", "out", "--metrics", "fvd:pvdm"]
    assert evaluate("--samples", "short.npz", "--reference", "short.npz", *words) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "the samples of `short.npz` have 8 frames each, and `fvd:pvdm` is of clips of 16" in said
    (weights / "i3d.safetensors").unlink()
    assert evaluate("--samples", "a.npz", "--reference", "b.npz", *words) == 3
    said = " ".join(capsys.readouterr().err.split())
    for fact in (
        "i3d.safetensors` does not exist", "`inrflow weights list i3d` lists the published files",
        "inrflow weights convert i3d i3d_torchscript.pt", "--trust", "`--weights` where a command has it",
    ):  # fmt: skip
        assert fact in said
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_statistics_of_shards_are_computed_once_and_serve_as_the_reference(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("INRFLOW_WEIGHTS", str(weights))
    np.savez("square.npz", videos=CLIPS[:, :, :, :10])
    words = ["prepare", "moving-digits", "--set", "resolution=10", "--limit", "6", "--statistics", "fvd:pvdm"]
    assert run([*words, "--out", "shards"]) == 0
    (moments,) = (tmp_path / "shards" / "statistics").rglob("moments-logits.safetensors")
    words = ["--samples", "square.npz", "--metrics", "fvd:pvdm"]
    for name, reference in (("clips", "shards"), ("statistics", moments)):
        assert evaluate(*words, "--reference", reference, "--out", name) == 0
    assert scores(tmp_path / "clips")["fvd:pvdm"]["value"] == pytest.approx(
        scores(tmp_path / "statistics")["fvd:pvdm"]["value"]
    )
    assert evaluate(*words, "--reference", moments, "--out", "dry", "--dry-run") == 0
    assert "i3d:pvdm features of 4 videos" in " ".join(capsys.readouterr().out.split())
    assert (
        run(
            [
                "prepare",
                "moving-digits",
                "--set",
                "frames=8",
                "--limit",
                "6",
                "--statistics",
                "fvd:pvdm",
                "--out",
                "short",
            ]
        )
        == 2
    )
    assert "frames each, and `fvd:pvdm` is of clips of 16" in " ".join(capsys.readouterr().err.split())


def test_an_evaluation_in_training_refuses_clips_of_another_length_before_the_first_step(weights: Path, tmp_path: Path):
    words = [
        "prepare",
        "moving-digits",
        "--out",
        "shards",
        "--set",
        "resolution=8",
        "--set",
        "frames=4",
        "--limit",
        "24",
    ]
    assert run(words) == 0
    tables = {
        "domain": {"name": "video", "resolution": 8, "frames": 4},
        "network": {"width": 16, "depth": 1, "heads": 2, "latents": 8, "encoder": "spatial"},
        "condition": None,
    }
    evaluation = {"every": 2, "num": 4, "metrics": ["fvd:pvdm"], "weights": str(weights)}
    job = TrainJob(small.preset(tables, eval=evaluation), tmp_path / "run", data=tmp_path / "shards", device="cpu")
    with pytest.raises(UsageError, match="have 4 frames each, and `fvd:pvdm` is of clips of 16"):
        setup.check_job(job, {})
    assert not (tmp_path / "run").exists()
