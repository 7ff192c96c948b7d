"""`inrflow eval` of runs that encode: held-out images are encoded by one call, evaluated again, and compared with themselves."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from inrflow_cli import console
from inrflow_cli.app import run
from inrflow_core.datasets import celeba_hq
from inrflow_core.preparation import job, pipeline
from inrflow_core.sampling import invert, sample
from inrflow_core.shards.shard_dataset import ShardDataset
from tests import tiny

SIDE, HELD_OUT = 12, 6
DOMAIN = {"name": "image", "resolution": SIDE, "channels": 3}
NAMES = ["reconstruction-psnr:held-out:rgb", "reconstruction-ssim:held-out:inside"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    parent = tmp_path_factory.mktemp("eval")
    rng = np.random.default_rng(0)
    for split, count in (("train", 8), ("test", HELD_OUT)):
        (parent / "photos" / split).mkdir(parents=True)
        for number in range(count):
            pixels = rng.integers(90, 166, (SIDE, SIDE, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(parent / "photos" / split / f"{number}.png")
    config = celeba_hq.Config(resolution=SIDE)
    resolved = job.resolve_job("celeba-hq", source=parent / "photos", out=parent / "shards", config=config)
    pipeline.prepare(resolved, workers=1)
    tiny.run_folder(parent / "inr", tiny.INR, domain=DOMAIN)
    tiny.run_folder(parent / "flow", tiny.IMAGE, domain=DOMAIN, network={"latents": 9}, condition=None)
    return parent


@pytest.fixture(autouse=True)
def _working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "400")
    console.stderr.cache_clear()
    yield
    console.stderr.cache_clear()


def evaluate(folders: Path, name: str, *words: Any, out: str = "out") -> int:
    named = ["--run", folders / name, "--reference", folders / "shards", "--out", out, *words]
    return run(["eval", *map(str, named)])


def expected_values(folders: Path) -> tuple[float, float]:
    """PSNR and SSIM of the split, from the networks and the definitions."""
    model = sample.load(folders / "inr", device="cpu")
    pixels = ShardDataset(folders / "shards").read("val", range(HELD_OUT)).values
    level = torch.full((HELD_OUT,), 0.003)
    values = torch.from_numpy(pixels).float().flatten(1, 2) / 127.5 - 1
    context, method = model.domain.queries(), model.method
    tokens = method.hypernetwork(context, values / math.sqrt(0.003**2 + 0.5), level.log() / 4)
    answer = method.readout.query(method.readout.prepare(tokens), context)
    rebuilt = ((answer + 1) * 127.5).round().clamp(0, 255).reshape(pixels.shape).double().numpy()
    originals = pixels.astype(np.float64)
    psnr = 10 * np.log10(255**2 / np.square(rebuilt - originals).mean((1, 2, 3)))
    window = np.exp(-0.5 * (np.arange(-5, 6) / 1.5) ** 2)
    window = np.outer(window, window) / window.sum() ** 2
    similarities = []
    for top, left in ((0, 0), (0, 1), (1, 0), (1, 1)):
        x, y = (each[:, top : top + 11, left : left + 11] for each in (rebuilt, originals))
        mean_x, mean_y = (np.einsum("nhwc,hw->nc", each, window) for each in (x, y))
        xx, yy, xy = (np.einsum("nhwc,hw->nc", each, window) for each in (x * x, y * y, x * y))
        c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
        covariance = (2 * (xy - mean_x * mean_y) + c2) / (xx - mean_x**2 + yy - mean_y**2 + c2)
        similarities.append(covariance * (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1))
    return float(psnr.mean()), float(np.mean(similarities))


def test_the_held_out_split_is_encoded_and_compared_with_itself(folders: Path, tmp_path: Path, capsys):
    assert evaluate(folders, "inr", "--num", "8") == 0
    said = capsys.readouterr().out
    drawn, rebuilt = json.loads((tmp_path / "out" / "metrics.json").read_text())["results"]
    assert rebuilt["name"] == "inr, reconstructed"
    scores = {score["metric"]: score for score in rebuilt["scores"]}
    assert list(scores) == NAMES and not set(NAMES) & {score["metric"] for score in drawn["scores"]}
    for name, expected in zip(NAMES, expected_values(folders), strict=True):
        assert scores[name]["value"] == pytest.approx(expected, abs=0.02 if "psnr" in name else 2e-4)
        assert scores[name]["samples"] == scores[name]["reference"] == HELD_OUT
    assert rebuilt["facts"]["split"] == "val" and rebuilt["facts"]["nfe"] == 1 == drawn["facts"]["nfe"]
    page = (tmp_path / "out" / "report.html").read_text()
    for text in (said, page):
        assert "reconstruction PSNR" in text and "samples/s" in text and "NFE" in text
    assert "held-out:rgb" in page


def test_every_run_reports_its_network_evaluations_and_its_speed_and_metrics_stay_the_same_bytes(
    folders: Path, tmp_path: Path, capsys
):
    for out in ("a", "b"):
        assert evaluate(folders, "flow", "--num", "8", "--sampler", "heun", "--steps", "3", out=out) == 0
    assert (tmp_path / "a" / "metrics.json").read_bytes() == (tmp_path / "b" / "metrics.json").read_bytes()
    recorded = json.loads((tmp_path / "a" / "samples" / "flow.h5.speed.json").read_text())
    assert recorded["samples"] == 8 and recorded["seconds"] > 0
    rows = re.findall(
        r'<th scope="row">(NFE|samples/s)</th><td[^>]*>([\d.,]+)</td>', (tmp_path / "a" / "report.html").read_text()
    )
    assert [name for name, _ in rows] == ["NFE", "samples/s"] and rows[0][1] == "6"
    assert float(rows[1][1].replace(",", "")) == pytest.approx(8 / recorded["seconds"], rel=0.01)


def test_rfid_compares_the_reconstructions_with_their_originals(folders: Path, tmp_path: Path, capsys):
    words = ["--metrics", "reconstruction-fid:random,reconstruction-psnr", "--num", str(HELD_OUT)]
    assert evaluate(folders, "inr", *words) == 0
    (result,) = json.loads((tmp_path / "out" / "metrics.json").read_text())["results"]
    scores = {score["metric"]: score for score in result["scores"]}
    fid = scores["reconstruction-fid:random"]
    assert fid["samples"] == fid["reference"] == HELD_OUT and not (tmp_path / "out" / "samples").exists()
    beside = [path.name for path in (folders / "shards" / "statistics").iterdir()]  # of the originals alone
    (cached,) = (tmp_path / "out" / "cache" / "features").iterdir()
    assert cached.name.startswith("random-v1-val-") and cached.name not in beside
    model, originals = (
        sample.load(folders / "inr", device="cpu"),
        ShardDataset(folders / "shards").read("val", range(HELD_OUT)),
    )
    sets = model.domain.to_set(originals, torch.arange(HELD_OUT))
    with torch.no_grad():
        rebuilt = model.method.invert(sets, invert.inversion_options(model)).query(sets.queries)
    for name, images in {"rebuilt": model.domain.decode_values(rebuilt), "originals": originals.values}.items():
        (tmp_path / name).mkdir()
        for number, pixels in enumerate(images):
            Image.fromarray(pixels).save(tmp_path / name / f"{number}.png")
    compared = ["--samples", "rebuilt", "--reference", "originals", "--metrics", "fid:random", "--out", "files"]
    assert run(["eval", *compared]) == 0
    ((expected,),) = (one["scores"] for one in json.loads((tmp_path / "files" / "metrics.json").read_text())["results"])
    assert fid["value"] == pytest.approx(expected["value"], rel=1e-5) and fid["value"] > 0
    assert evaluate(folders, "inr", *words[:-1], "1", out="one") == 2
    assert "needs at least 2" in " ".join(capsys.readouterr().err.split())


def test_both_kinds_of_runs_are_rows_of_one_table(folders: Path, tmp_path: Path):
    words = ["--run", folders / "flow", "--metrics", "fid:random,reconstruction-psnr", "--num", "8"]
    assert evaluate(folders, "inr", *words) == 0
    results = json.loads((tmp_path / "out" / "metrics.json").read_text())["results"]
    assert [(one["name"], [score["title"] for score in one["scores"]]) for one in results] == [
        ("inr", ["FID"]),
        ("inr, reconstructed", ["reconstruction PSNR"]),
        ("flow", ["FID"]),
    ]


def test_reconstructions_that_cannot_be_made_are_refused_by_name(folders: Path, tmp_path: Path, capsys):
    assert evaluate(folders, "flow", "--metrics", "reconstruction-psnr", "--num", "8") == 2
    assert "none of these does" in " ".join(capsys.readouterr().err.split())
    photos = str(folders / "photos" / "train")
    words = ["--run", str(folders / "inr"), "--reference", photos, "--metrics", "reconstruction-psnr", "--num", "8"]
    assert run(["eval", *words, "--out", "out"]) == 2
    assert "of the split test or val of the reference's shards" in " ".join(capsys.readouterr().err.split())
    assert list(tmp_path.iterdir()) == []


def test_reconstructions_alone_draw_no_samples_and_one_image_is_enough(folders: Path, tmp_path: Path, capsys):
    words = ["--metrics", "reconstruction-psnr", "--num", "1"]
    assert evaluate(folders, "inr", *words, "--dry-run") == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "encode 1 held-out images by `inr`" in said and "generate" not in said
    assert evaluate(folders, "inr", *words) == 0
    (result,) = json.loads((tmp_path / "out" / "metrics.json").read_text())["results"]
    assert result["name"] == "inr, reconstructed" and not (tmp_path / "out" / "samples").exists()
    (score,) = result["scores"]
    assert (score["samples"], score["reference"], score["interval"]) == (1, 1, None)
    assert evaluate(folders, "inr", "--metrics", "reconstruction-psnr", out="all") == 0
    (whole,) = json.loads((tmp_path / "all" / "metrics.json").read_text())["results"]
    assert whole["scores"][0]["value"] == pytest.approx(expected_values(folders)[0], abs=0.02)
    assert score["value"] != whole["scores"][0]["value"]


def test_what_no_reconstruction_uses_is_refused_by_name(folders: Path, tmp_path: Path, capsys):
    alone = ["--metrics", "reconstruction-psnr,reconstruction-ssim"]
    for words in (
        *(["--seed", "1"], ["--steps", "2"], ["--set", "method.second_step=1"], ["--resolution", "24"]),
        *(["--label", "cat"], ["--precision", "bf16"], ["--interpolation-baselines"]),
        *(["--memorization-set", str(folders / "shards")], ["--points", "5"]),
    ):
        assert evaluate(folders, "inr", *alone, *words) == 2, words
        assert f"`{' '.join(words).partition('=')[0].partition(' ')[0]}" in capsys.readouterr().err, words
    assert evaluate(folders, "inr", *alone, "--run", folders / "flow") == 2
    assert "`flow` has no reconstructions" in capsys.readouterr().err
    np.savez("mine.npz", images=np.zeros((3, SIDE, SIDE, 3), np.uint8))
    assert evaluate(folders, "inr", *alone, "--samples", "mine.npz") == 2
    assert "`mine.npz` has no reconstructions" in capsys.readouterr().err
    assert evaluate(folders, "inr", "--metrics", "fid:random,reconstruction-psnr", "--num", "1") == 2
    assert "are 1, and `fid:random` needs at least 2" in " ".join(capsys.readouterr().err.split())
    assert [path.name for path in tmp_path.iterdir()] == ["mine.npz"]


def test_images_are_evaluated_at_any_resolution_against_the_originals_reduced_to_it(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, folders: Path
):
    """Of references stored at 24 pixels, by models with and without scales that read 12."""
    parent = tmp_path_factory.mktemp("large")
    for path in sorted((folders / "photos").rglob("*.png")):
        (parent / "photos" / path.parent.name).mkdir(parents=True, exist_ok=True)
        with Image.open(path) as photo:
            photo.resize((24, 24), Image.Resampling.BICUBIC).save(parent / "photos" / path.parent.name / path.name)
    config = celeba_hq.Config(resolution=24)
    resolved = job.resolve_job("celeba-hq", source=parent / "photos", out=parent / "shards", config=config)
    pipeline.prepare(resolved, workers=1)
    scales = {**DOMAIN, "scales": [0.5, 2.0]}
    for name, domain in (("plain", DOMAIN), ("scaled", scales)):
        tiny.run_folder(parent / name, tiny.LATENT, domain=domain, condition=None)
        for side in (None, 6, 18, 24):
            words = [] if side is None else ["--resolution", str(side), "--interpolation-baselines"]
            out = f"{name}-{side}"
            assert evaluate(parent, name, "--metrics", "reconstruction-psnr", *words, out=out) == 0
            found = json.loads((tmp_path / out / "metrics.json").read_text())["results"]
            values = {one["name"]: one["scores"][0]["value"] for one in found}
            expected = expected_of_sizes(parent, name, side or SIDE)
            assert values[f"{name}, reconstructed"] == pytest.approx(expected[0], abs=0.03)
            if side is not None:
                assert values[f"{name}, input bicubic"] == pytest.approx(expected[1], abs=1e-6)
                assert set(values) == {f"{name}, {row}" for row in ("reconstructed", "input bilinear", "input bicubic")}
    words = ["--metrics", "reconstruction-psnr", "--resolution"]
    for size in ("25", "12x24"):
        assert evaluate(parent, "scaled", *words, size) == 2


def expected_of_sizes(folders: Path, name: str, side: int) -> tuple[float, float]:
    """PSNR of reconstructions and of Pillow's bicubic enlargements of the input, by the networks and the definition."""

    def at(images: np.ndarray, side: int) -> np.ndarray:
        resized = [Image.fromarray(image).resize((side, side), Image.Resampling.BICUBIC) for image in images]
        return np.stack([np.asarray(image) for image in resized])

    model, stored = (
        sample.load(folders / name, device="cpu"),
        ShardDataset(folders / "shards").read("val", range(HELD_OUT)).values,
    )
    small, original = at(stored, SIDE), at(stored, side).astype(np.float64)
    queries, method = model.domain.queries((side, side)), model.method
    with torch.no_grad():
        mean, _ = method.autoencoder.encode(torch.from_numpy(small).float().flatten(1, 2) / 127.5 - 1)
        answer = method.readout.query(method.autoencoder.decode(mean), queries, seeds=torch.arange(HELD_OUT))
    rebuilt = ((answer + 1) * 127.5).round().clamp(0, 255).reshape(original.shape).double().numpy()
    levels = [np.square(made - original).mean((1, 2, 3)) for made in (rebuilt, at(small, side).astype(np.float64))]
    floor = 1 / original[0].size  # equal images count as if one number differed by one level
    first, second = (float((10 * np.log10(255**2 / np.maximum(level, floor))).mean()) for level in levels)
    return first, second
