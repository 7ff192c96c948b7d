"""Runs with a perceptual loss: its file is checked, recorded and compared; neither checkpoints nor later stages need it."""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch

from inrflow_cli import app
from inrflow_core import models
from inrflow_core.config import toml
from inrflow_core.errors import Exit, IntegrityError, MissingError, UsageError
from inrflow_core.feature_networks import lpips
from inrflow_core.runs import checkpoint_manifest
from inrflow_core.training import setup
from inrflow_core.training.setup import TrainJob
from tests import tiny
from tests.feature_networks import published
from tests.training import small
from tests.training.launched import CHECKOUT, environment, torchrun

SIDE = 16
ADVERSARY = {"adversarial": 0.5, "discriminator_width": 8, "discriminator_depth": 1}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small.images(tmp_path_factory.mktemp("perceptual") / "shards", side=SIDE)


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The weights of a narrow LPIPS."""
    monkeypatch.setattr(lpips, "WIDTHS", (4, 6, 8, 10, 12))
    published.lpips_file(tmp_path / "lpips.safetensors")
    return tmp_path / "lpips.safetensors"


def tables(file: Path | None, method: dict[str, Any] | None = None, **training: Any) -> dict[str, dict[str, Any]]:
    """A preset of two stages of 3 steps; without a file LPIPS's is that of the default folder."""
    perceptual: dict[str, Any] = {"perceptual": 1.0} | ({} if file is None else {"perceptual_weights": str(file)})
    return tiny.tables(
        tiny.LATENT,
        data={"held_out": "val"},
        domain={"resolution": SIDE},
        method={**perceptual, **(method or {})},
        training={**small.TRAINING, "steps": 3, "held_out_every": 2, "held_out_sets": 4, **training},
    )


def job(data: Path, out: Path, file: Path | None, until: int | None = None, **settings: Any) -> TrainJob:
    preset = tiny.resolve("tiny", tables(file, **settings))
    return TrainJob(preset, out, data=data, device="cpu", threads=1, until=until)


def records(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def logged(out: Path) -> list[float]:
    """`perceptual` of the lines of the log that have one."""
    return [record["perceptual"] for record in records(out) if "perceptual" in record]


def test_the_distance_of_one_image_falls_and_is_logged_by_its_name(file: Path, tmp_path: Path):
    """One image, 40 steps, LPIPS alone: the error of the values counts a thousandth."""
    rows = np.add.outer(np.arange(SIDE), 2 * np.arange(SIDE)) * 5
    values = np.broadcast_to(rows[None, :, :, None], (30, SIDE, SIDE, 1)).astype(np.uint8)
    data = small._write(tmp_path / "shards", "image", values, np.arange(30) % 3, small.CLASSES)
    method = {"perceptual": 1000.0, "kl": 0.0}
    train = {"learning_rate": 3e-3, "clip": 1.0, "steps": 1, "held_out_every": 100, "autoencoder": {"steps": 40}}
    out = tmp_path / "run"
    (tmp_path / "preset.toml").write_text(toml.to_toml(tables(file, method, **train)))
    words = ["--preset", tmp_path / "preset.toml", "--data", data, "--out", out, "--device", "cpu", "--threads", "1"]
    assert app.run(["train", *map(str, words)]) == Exit.DONE
    result = logged(out)
    assert len(result) == 40 and all(
        record["stage"] == "autoencoder" for record in records(out) if "perceptual" in record
    )
    assert np.mean(result[-10:]) < 0.2 * np.mean(result[:3])


@pytest.mark.parametrize("zero_stage", [0, 1, 2])
def test_no_file_of_a_run_holds_the_network_and_a_resumed_run_equals_an_unbroken_one(data, file, tmp_path, zero_stage):
    settings: dict[str, Any] = {
        "method": ADVERSARY if zero_stage == 1 else {},
        "zero_stage": zero_stage,
        "save_every": 2,
    }
    for until in (1, 2):
        setup.train(job(data, tmp_path / "resumed", file, until, **settings))
    resumed, whole = (setup.train(job(data, tmp_path / name, file, **settings)) for name in ("resumed", "whole"))
    small.assert_equal(small.state(resumed), small.state(whole))
    assert logged(tmp_path / "resumed") == logged(tmp_path / "whole") and len(logged(tmp_path / "whole")) == 3
    stored = {
        name
        for path in (tmp_path / "whole" / "checkpoints").rglob("*.safetensors")
        for name in safetensors.torch.load_file(path)
    }
    assert stored and not any("perceptual" in name for name in stored)
    folder = checkpoint_manifest.checkpoint_folder(tmp_path / "whole", 6)
    assert models.load(folder / "weights.safetensors").method.perceptual is None


def test_after_its_stage_a_run_resumes_without_the_file(data: Path, file: Path, tmp_path: Path):
    digest = published.lpips_file(file)
    setup.train(job(data, tmp_path / "run", file, 4))
    file.unlink()
    trainer = setup.train(job(data, tmp_path / "run", file))
    assert trainer.counters.step == 6
    for step in (4, 6):
        folder = checkpoint_manifest.checkpoint_folder(tmp_path / "run", step)
        _, info = models.read_metadata(folder / "weights.safetensors")
        assert info["pretrained"] == {"lpips": digest}
    other = job(data, tmp_path / "other", file, autoencoder={"steps": 0})
    setup.train(replace(other, init_from=tmp_path / "run"))  # whose first stage is finished


def test_another_file_in_the_middle_of_the_stage_is_refused_and_another_path_is_not(data, file, tmp_path):
    setup.train(job(data, tmp_path / "run", file, 2))
    moved = file.rename(tmp_path / "moved.safetensors")
    setup.build_trainer(setup.check_job(job(data, tmp_path / "run", moved), {})).lock.close()
    published.lpips_file(moved, seed=1)
    with pytest.raises(UsageError, match=r"was begun with weights of `lpips` whose sha256 is \w{8}..., and these have"):
        setup.train(job(data, tmp_path / "run", moved))


def test_files_that_cannot_be_used_are_named_before_the_first_step(data: Path, file: Path, tmp_path: Path, monkeypatch):
    monkeypatch.setenv("INRFLOW_WEIGHTS", str(tmp_path / "nowhere"))
    with pytest.raises(MissingError, match=r"weights of `lpips` are absent: .*nowhere/lpips.safetensors") as caught:
        setup.check_job(job(data, tmp_path / "run", None), {})
    for words in (
        "`inrflow weights list lpips`",
        "inrflow weights convert lpips vgg16-397923af.pth",
        "--second vgg",
    ):
        assert words in (caught.value.hint or "")
    (tmp_path / "vgg.pth").touch()
    with pytest.raises(UsageError, match=r"vgg.pth` is not a converted weights file"):
        setup.check_job(job(data, tmp_path / "run", tmp_path / "vgg.pth"), {})
    state = safetensors.torch.load_file(file)
    published.write(file, state, published.metadata(lpips.WEIGHTS) | {"network": "vgg16"})
    with pytest.raises(IntegrityError, match=r"lpips.safetensors` holds weights of `vgg16`, not of `lpips`"):
        setup.check_job(job(data, tmp_path / "run", file), {})
    published.write(file, {n: t for n, t in state.items() if n != "weights.4"}, published.metadata(lpips.WEIGHTS))
    with pytest.raises(IntegrityError, match=r"lpips.safetensors` lacks the tensor `weights.4`"):
        setup.train(job(data, tmp_path / "run", file))


def test_weights_of_unknown_origin_are_noted(data: Path, file: Path, tmp_path: Path):
    published.write(file, safetensors.torch.load_file(file), published.metadata(lpips.WEIGHTS, is_verified=False))
    said: list[str] = []
    plain = job(data, tmp_path / "run", file)
    setup.check_job(replace(plain, say=said.append), {})
    assert said == [f"note: `{file}` was converted from published files with unknown digests"]


@pytest.mark.slow
def test_two_processes_train_as_one_does(data: Path, tmp_path: Path):
    """With the published widths, and the file of the default folder."""
    (tmp_path / "weights").mkdir()
    published.lpips_file(tmp_path / "weights" / "lpips.safetensors")
    names = environment(INRFLOW_WEIGHTS=tmp_path / "weights")
    for zero_stage, count in ((1, 1), (1, 2), (2, 2)):
        file, out = tmp_path / f"{zero_stage}.toml", tmp_path / f"{zero_stage}-{count}"
        file.write_text(toml.to_toml(tables(None, zero_stage=zero_stage)))
        words = ["train", "--preset", file, "--data", data, "--out", out, "--device", "cpu", "--threads", 1]
        command = torchrun("--standalone", "--nproc-per-node", count, "-m", "inrflow_cli.app", *words)
        done = subprocess.run(command, cwd=CHECKOUT, env=names, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    alone = logged(tmp_path / "1-1")
    assert len(alone) == 3
    for name in ("1-2", "2-2"):
        assert logged(tmp_path / name) == pytest.approx(alone, rel=1e-4)
        assert small.losses(tmp_path / name) == pytest.approx(small.losses(tmp_path / "1-1"), rel=1e-4)
