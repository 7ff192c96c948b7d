"""Presets that take sizes from shards: those of the shards at hand, on the disk and in every command after it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tomli

from inrflow_cli import app
from inrflow_core.config import preset
from inrflow_core.datasets import clouds, image_folder
from inrflow_core.errors import MissingError, UsageError
from inrflow_core.preparation import pipeline
from inrflow_core.preparation.job import resolve_job
from inrflow_core.training import preset_for_data
from tests.datasets import raw

SHORT = [
    *("training.steps=2", "training.batch=2", "training.save_every=1", "training.samples_every=none"),
    *("network.width=32", "network.depth=1", "network.heads=2", "network.latents=16"),
]


def photos(folder: Path, resolution: int = 16, **settings) -> Path:
    """Shards of images in two classes."""
    source = raw.folder(folder / "photos", [f"{'ab'[n % 2]}/{n}.png" for n in range(8)])
    config = image_folder.Config(resolution=resolution, **settings)
    pipeline.prepare(resolve_job("image-folder", source, folder / "shards/photos", config), workers=1)
    return folder / "shards/photos"


def scans(folder: Path, points: int, **settings) -> Path:
    """Shards of clouds."""
    for number in range(8):
        path = folder / "scans" / "ab"[number % 2] / f"{number}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, np.random.default_rng(number).normal(size=(points, 3)))
    pipeline.prepare(
        resolve_job("clouds", folder / "scans", folder / "shards/clouds", clouds.Config(**settings)), workers=1
    )
    return folder / "shards/clouds"


def test_sizes_channels_classes_and_split_are_those_of_the_shards(tmp_path: Path):
    shards = photos(tmp_path, 24, channels=1, classes=True, val=0.4)
    found = preset_for_data.load("photos-demo", [], shards)
    assert (found.domain.config.resolution, found.domain.config.channels) == (24, 1)
    assert found.condition is not None and found.condition.config.classes == 2
    assert (found.data.config.held_out, found.training.config.held_out_every) == ("val", 500)
    one = preset_for_data.load("photos-demo", ['data.classes=["b"]'], shards)
    assert one.condition is not None and one.condition.config.classes == 1


def test_clouds_of_few_points_are_taken_whole(tmp_path: Path):
    found = preset_for_data.load("clouds-demo", [], scans(tmp_path, 60, val=0.0))
    assert (found.domain.config.num_points, found.condition, found.data.config.held_out) == (60, None, None)


def test_other_presets_need_no_shards(tmp_path: Path):
    assert preset_for_data.load("digits-demo", [], tmp_path / "nothing") == preset.load("digits-demo")


def test_shards_that_are_missing_or_of_another_domain_are_refused(tmp_path: Path):
    with pytest.raises(
        MissingError, match="takes `domain.resolution`, `domain.channels`, .* and looked for them in"
    ) as caught:
        preset_for_data.load("photos-demo", [], tmp_path / "nothing")
    assert "`inrflow prepare image-folder --source photos" in str(caught.value.hint)
    shards = photos(tmp_path)
    with pytest.raises(UsageError, match="hold images, and the preset `clouds-demo` learns point clouds"):
        preset_for_data.load("clouds-demo", [], shards)


def test_a_run_records_numbers_and_is_resumed_and_sampled_with_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    shards = photos(tmp_path, classes=True, val=0.4)
    words = ["train", "--preset", "photos-demo", *(word for one in SHORT for word in ("--set", one))]
    assert app.run([*words, "--dry-run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["parameters"] and not Path("runs").exists()
    assert app.run([*words, "--stop-at-step", "1"]) == 0 and app.run(words) == 0
    assert "resuming the run" in capsys.readouterr().err
    recorded = tomli.loads(Path("runs/photos-demo/preset.toml").read_text())
    assert (recorded["domain"]["resolution"], recorded["domain"]["channels"]) == (16, 3)
    assert (recorded["condition"]["classes"], recorded["data"]["held_out"]) == (2, "val")
    shards.rename(tmp_path / "elsewhere")
    assert app.run(["sample", "--label", "b", "--steps", "1", "--resolution", "20", "out.png"]) == 0
