"""`inrflow eval`: runs and files evaluated under named protocols, from the command line to metrics.json, the table and the page."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from inrflow_cli import console
from inrflow_cli.app import run
from inrflow_core.datasets import solids
from inrflow_core.domains._contract import domain_classes
from inrflow_core.errors import OutOfMemory
from inrflow_core.evaluation import report_data
from inrflow_core.preparation import job, pipeline
from inrflow_core.shards.shard_dataset import ShardDataset
from tests import tiny
from tests.report.rates import without_rates

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (24, 8, 8, 1), dtype=np.uint8)
CLOUDS = RNG.normal(size=(24, 30, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    parent = tmp_path_factory.mktemp("eval")
    config = solids.Config(train=30, val=24, points=40)
    pipeline.prepare(job.resolve_job("solids", out=parent / "solids", config=config), workers=1)
    pipeline.prepare(job.resolve_job("digits", out=parent / "digits", limit=40), workers=1)
    tiny.run_folder(parent / "clouds", tiny.POINTS)
    tiny.run_folder(parent / "images", tiny.IMAGE, domain={"name": "image", "resolution": 8, "channels": 1})
    return parent


@pytest.fixture(autouse=True)
def _working_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    console.stderr.cache_clear()
    yield
    console.stderr.cache_clear()


def evaluate(*words) -> int:
    return run(["eval", *map(str, words)])


def metrics_of(folder: Path) -> dict:
    return json.loads((folder / "metrics.json").read_text())


def values(folder: Path) -> dict[str, float]:
    return {score["metric"]: score["value"] for score in metrics_of(folder)["results"][0]["scores"]}


def refused(capsys, *words) -> str:
    code = evaluate("--out", "out", *words)
    error = capsys.readouterr().err
    assert "Traceback" not in error
    assert error.count("error:") == error.count("hint:") == 1
    return f"{code}: {error.partition('error: ')[2].partition(chr(10))[0]}"


def test_a_run_of_clouds_is_sampled_and_evaluated_by_the_metrics_that_need_no_weights(folders, tmp_path, capsys):
    words = ["--run", folders / "clouds", "--reference", folders / "solids", "--num", "24", "--seed", "3"]
    assert evaluate(*words, "--out", "a") == 0
    table = capsys.readouterr().out
    metrics = metrics_of(tmp_path / "a")
    (result,) = metrics["results"]
    assert {score["metric"] for score in result["scores"]} == {
        "mmd:cd:inrflow",
        "cov:cd:inrflow",
        "one-nna:cd:inrflow",
        *(score["metric"] for score in result["scores"] if score["title"] == "JSD"),
    }
    assert all(score["title"] in table and score["protocol"] in table for score in result["scores"])
    assert result["facts"]["seeds"] == "3-26" and result["facts"]["nfe"] == 4
    assert result["facts"]["parameters"] > 1000 and len(result["facts"]["weights"]) == 16
    assert metrics["reference"] == {
        "name": "solids",
        "digest": metrics["reference"]["digest"],
        "domain": "points",
        "split": "val",
        "count": 24,
    }
    for score in result["scores"]:
        low, high = score["interval"]
        assert low <= score["value"] <= high
        assert (score["samples"], score["reference"]) == (24, 24)
    assert str(folders) not in json.dumps(metrics)
    assert evaluate(*words, "--out", "b", "--workers", "1", "--batch", "5") == 0
    assert (tmp_path / "a" / "metrics.json").read_bytes() == (tmp_path / "b" / "metrics.json").read_bytes()


def test_the_table_of_the_reference_computation_is_met(real_data, tmp_path):
    sets = np.load(real_data("metrics/pointcloud_cd_emd") / "sets.npz")
    expected = json.loads((real_data("metrics/pointcloud_cd_emd") / "reference.json").read_text())
    np.save("sample.npy", sets["sample"])
    np.save("ref.npy", sets["ref"])
    names = [f"{m}:{d}:pointflow" for m in ("mmd", "cov", "1-nna") for d in ("cd", "emd-exact")]
    assert (
        evaluate("--samples", "sample.npy", "--reference", "ref.npy", "--metrics", ",".join(names), "--out", "out") == 0
    )
    scores = values(tmp_path / "out")
    for distance, column in (("cd", "cd"), ("emd-exact", "emd")):
        for name, key in (("mmd", "mmd"), ("cov", "cov"), ("one-nna", "one_nna")):
            (score,) = [
                s
                for s in metrics_of(tmp_path / "out")["results"][0]["scores"]
                if s["metric"] == f"{name}:{distance}:pointflow"
            ]
            factor = {"%": 100.0, "10^-3": 1e3, "10^-2": 1e2, "": 1.0}[score["unit"]]
            assert score["value"] == pytest.approx(expected[column][key] * factor, rel=1e-6)
    assert len(scores) == 6


def test_samples_are_the_same_wherever_they_lie(tmp_path):
    np.savez("a.npz", images=IMAGES)
    (tmp_path / "folder").mkdir()
    for number, image in enumerate(IMAGES):
        Image.fromarray(image[..., 0]).save(tmp_path / "folder" / f"{number:02d}.png")
    np.savez("reference.npz", images=255 - IMAGES)
    for name in ("a.npz", "folder"):
        assert evaluate("--samples", name, "--reference", "reference.npz", "--out", f"out-{name}") == 0
    assert values(tmp_path / "out-a.npz") == values(tmp_path / "out-folder")
    assert values(tmp_path / "out-folder")["fid:random"] > 0


def test_a_set_against_itself_is_perfect(tmp_path):
    np.savez("a.npz", images=IMAGES)
    words = ["--samples", "a.npz", "--reference", "a.npz"]
    assert evaluate(*words, "--metrics", "fid:random,precision:random,recall:random,psnr", "--out", "out") == 0
    scores = values(tmp_path / "out")
    assert abs(scores["fid:random"]) < 1e-6
    assert scores["precision:random"] == scores["recall:random"] == pytest.approx(1.0)


def test_the_reference_of_shards_is_read_once_and_cached_beside_them(folders, tmp_path):
    shutil.copytree(folders / "digits", tmp_path / "digits")
    words = ["--run", folders / "images", "--reference", tmp_path / "digits", "--num", "20", "--metrics", "fid:random"]
    assert evaluate(*words, "--out", "a") == 0
    cached = sorted((tmp_path / "digits" / "statistics").rglob("*.safetensors"))
    assert cached
    stamps = [path.stat().st_mtime_ns for path in cached]
    assert evaluate(*words, "--out", "b") == 0
    assert [path.stat().st_mtime_ns for path in cached] == stamps
    assert ShardDataset(tmp_path / "digits").splits  # the cache beside them is not taken for a shard
    cached[0].write_bytes(cached[0].read_bytes()[:-8] + b"\0" * 8)
    assert evaluate(*words, "--out", "c") == 0
    assert values(tmp_path / "a") == values(tmp_path / "b") == values(tmp_path / "c")


def test_finer_samples_are_evaluated_beside_interpolations_of_the_samples(folders, tmp_path):
    large = np.repeat(np.repeat(ShardDataset(folders / "digits").read("train", range(30)).values, 2, 1), 2, 2)
    np.savez("large.npz", images=large)
    words = ["--run", folders / "images", "--reference", "large.npz", "--num", "22", "--metrics", "fid:random"]
    assert evaluate(*words, "--resolution", "16", "--interpolation-baselines", "--out", "out") == 0
    names = [result["name"] for result in metrics_of(tmp_path / "out")["results"]]
    assert names == ["images", "images, bilinear", "images, bicubic"]
    digests = {result["samples"]["digest"] for result in metrics_of(tmp_path / "out")["results"]}
    assert len(digests) == 3


def test_absent_weights_are_named_and_the_other_metrics_still_run(tmp_path, capsys):
    np.savez("a.npz", images=IMAGES)
    words = ["--samples", "a.npz", "--reference", "a.npz", "--weights", tmp_path, "--metrics"]
    assert evaluate(*words, "fid:clean,fid:random,is", "--out", "out") == 3
    said = " ".join(capsys.readouterr().err.split())
    for fact in (
        "inception.safetensors` does not exist",
        "`inrflow weights list inception`",
        "`inrflow weights convert inception",
    ):
        assert fact in said
    assert list(values(tmp_path / "out")) == ["fid:random"]
    assert metrics_of(tmp_path / "out")["missing"] == ["fid:clean", "inception-score:adm"]
    assert evaluate(*words, "fid:clean,is", "--out", "none") == 3
    stderr = capsys.readouterr().err
    assert "inception.safetensors` does not exist" in stderr and stderr.endswith(";\n`fid:random` needs none\n")
    assert not (tmp_path / "none").exists()


def test_what_cannot_be_compared_is_refused_by_name(folders, tmp_path, capsys):
    np.savez("a.npz", images=IMAGES)
    np.savez("one.npz", images=IMAGES[:1])
    np.savez("large.npz", images=IMAGES.repeat(2, 1).repeat(2, 2))
    np.savez("color.npz", images=IMAGES.repeat(3, 3))
    np.save("clouds.npy", CLOUDS)
    np.save("few.npy", CLOUDS[:, :20])
    bad = CLOUDS.copy()
    bad[5, 3, 1] = np.inf
    np.save("bad.npy", bad)
    np.savez("plain.npz", mu=np.zeros(4), sigma=np.eye(4))

    def says(samples, reference, *words):
        return refused(capsys, "--samples", samples, "--reference", reference, *words)

    assert says("one.npz", "a.npz").startswith("2: the samples of `one.npz` are 1, and `fid:random` needs at least 2")
    assert says("a.npz", "one.npz").startswith("2: the reference `one.npz` holds 1, and `fid:random` needs at least 2")
    assert "are 8 x 8 pixels, gray, and the reference `large.npz` holds images of 16 x 16 pixels, gray" in says(
        "a.npz", "large.npz"
    )
    assert "gray, and the reference `color.npz` holds images of 8 x 8 pixels, RGB" in says("a.npz", "color.npz")
    assert says("a.npz", "clouds.npy").startswith(
        "2: the samples of `a.npz` are images, and the reference `clouds.npy` holds point clouds"
    )
    assert says("bad.npy", "clouds.npy").startswith("4: a cloud of `bad.npy` holds numbers that are not finite")
    assert says("few.npy", "clouds.npy", "--points", "30").startswith("2: ")
    assert says("a.npz", "plain.npz").startswith("2: `plain.npz` holds `mu` and `sigma` and does not record")
    assert says("a.npz", "absent").startswith("3: `absent` does not exist")
    assert says("a.npz", "a.npz", "--metrics", "mmd").startswith(
        "2: `mmd` evaluates point clouds, and these are images"
    )
    assert says("a.npz", "a.npz", "--metrics", "fdi").startswith("2: no metric is called `fdi`")
    assert says("a.npz", "a.npz", "--metrics", "fid:cleam").startswith("2: `fid` has no protocol `cleam`")
    assert not (tmp_path / "out" / "metrics.json").exists()


def test_results_that_exist_are_not_overwritten(tmp_path, capsys):
    np.savez("a.npz", images=IMAGES)
    words = ["--samples", "a.npz", "--reference", "a.npz", "--metrics", "fid:random"]
    assert evaluate("--out", "out", *words) == 0
    before = (tmp_path / "out" / "metrics.json").read_bytes()
    assert refused(capsys, *words, "--reference-num", "20").startswith("2: `out/metrics.json` exists already")
    assert evaluate("--out", "out", *words, "--overwrite") == 0
    assert (tmp_path / "out" / "metrics.json").read_bytes() == before
    (tmp_path / "out" / "report.html").write_text("mine")
    assert refused(capsys, *words, "--overwrite").startswith("2: `inrflow eval` did not write `out/report.html`")


def test_every_metric_is_listed_with_its_protocols(capsys):
    assert run(["eval", "--list", "--json"]) == 0
    listed = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert {"fid", "kid", "inception-score", "mmd", "cov", "one-nna", "jsd", "psnr"} <= set(listed)
    assert "cd:inrflow" in listed["mmd"]["protocols"]
    defaults = [name.partition(":") for domain in domain_classes() for name in domain.DEFAULT_METRICS]
    marked = {name: row["default"] for name, row in listed.items() if row["default"] != "-"}
    assert marked == {name: protocol or "yes" for name, _, protocol in defaults} and marked["fid"] == "random"


def test_an_option_that_cannot_act_is_refused(folders, tmp_path, capsys):
    np.savez("a.npz", images=IMAGES)
    np.save("clouds.npy", CLOUDS)
    np.savez("large.npz", images=IMAGES.repeat(2, 1).repeat(2, 2))
    np.savez("adm.npz", mu=np.zeros(2048), sigma=np.eye(2048), mu_s=np.zeros(2023), sigma_s=np.eye(2023))

    def says(*words):
        return refused(capsys, "--samples", "a.npz", *words)

    for option, value in (("num", "5"), ("seed", "1"), ("checkpoints", "all"), ("ema", "0.5"), ("resolution", "16")):
        assert says("--reference", "a.npz", f"--{option}", value).startswith(f"2: `--{option}` needs a run to sample")
    assert says("--reference", "a.npz", "--interpolation-baselines").startswith(
        "2: `--interpolation-baselines` needs a run to sample"
    )
    assert says("--reference", "a.npz", "--points", "5").startswith("2: `--points` does not apply to images")
    assert says("--reference", "a.npz", "--metrics", ",").startswith("2: `--metrics` is empty")
    assert says("--reference", "a.npz", "--weights", "bogus=x").startswith("2: unknown feature network `bogus`")
    assert says("--reference", "adm.npz", "--split", "train").startswith(
        "2: `adm.npz` holds statistics, so it has no split"
    )
    assert says("--reference", "a.npz", "--memorization-set", "absent").startswith("3: `absent` does not exist")
    assert "and the training set `clouds.npy` holds point clouds" in says(
        "--reference", "a.npz", "--memorization-set", "clouds.npy"
    )
    assert "and the training set `large.npz` holds images of 16 x 16 pixels" in says(
        "--reference", "a.npz", "--memorization-set", "large.npz"
    )
    assert refused(capsys, "--run", folders / "images", "--reference", "a.npz", "--samples-split", "train").startswith(
        "2: `--samples-split` needs `--samples`"
    )
    assert refused(capsys, "--run", folders / "images", "--reference", "a.npz", "--checkpoints", "x").startswith(
        "2: `--checkpoints x` is not a checkpoint"
    )
    assert not (tmp_path / "out").exists()


def test_statistics_of_another_protocol_are_refused_before_anything_is_sampled(folders, tmp_path, capsys):
    np.savez("adm.npz", mu=np.zeros(2048), sigma=np.eye(2048), mu_s=np.zeros(2023), sigma_s=np.eye(2023))
    words = ["--run", folders / "images", "--reference", "adm.npz", "--num", "22", "--metrics"]
    assert refused(capsys, *words, "fid:random").startswith(
        "2: `adm.npz` holds pool and spatial statistics of the protocol `inception:adm`, and `random:v1` needs `all`"
    )
    assert refused(capsys, *words, "psnr").startswith(
        "2: `adm.npz` holds statistics, and `psnr:rgb` compares single items"
    )
    assert not (tmp_path / "out").exists()


def test_samples_of_one_name_keep_names_of_their_own(tmp_path):
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
        np.savez(tmp_path / folder / "a.npz", images=IMAGES)
    words = ["--samples", "x/a.npz", "--samples", "y/a.npz", "--reference", "x/a.npz", "--metrics", "psnr"]
    assert evaluate(*words, "--out", "out") == 0
    assert [result["name"] for result in metrics_of(tmp_path / "out")["results"]] == ["a.npz", "a.npz-2"]


def test_nothing_is_written_half(folders, tmp_path, monkeypatch):
    words = ["--run", folders / "images", "--reference", folders / "digits", "--num", "22", "--metrics", "kid:random"]
    with monkeypatch.context() as patch:
        patch.setattr(report_data, "build_report", lambda *_: (_ for _ in ()).throw(OutOfMemory("none", hint="none")))
        assert evaluate(*words, "--out", "out") == 5
    assert not (tmp_path / "out" / "metrics.json").exists()
    assert evaluate(*words, "--out", "out") == 0
    assert evaluate(*words, "--out", "whole") == 0
    for name in ("metrics.json", "report.html"):
        assert without_rates(tmp_path / "out" / name) == without_rates(tmp_path / "whole" / name)


def test_a_damaged_reference_is_reported(folders, tmp_path, capsys):
    for name, samples in (("digits", "images"), ("solids", "clouds")):
        shutil.copytree(folders / name, tmp_path / name, ignore=shutil.ignore_patterns("statistics"))
        split = "train" if name == "digits" else "val"
        shard = next((tmp_path / name).glob(f"{split}*.h5"))
        content = bytearray(shard.read_bytes())
        content[-9] ^= 1
        shard.write_bytes(content)
        said = refused(capsys, "--run", folders / samples, "--reference", tmp_path / name, "--num", "22")
        assert said.startswith("4: ") and "is damaged: its digest is" in said


def test_a_reference_that_is_damaged_after_its_features_were_cached_is_reported(folders, tmp_path, capsys):
    """The report shows its items and searches copies among them."""
    shutil.copytree(folders / "digits", tmp_path / "digits")
    words = ["--run", folders / "images", "--reference", tmp_path / "digits", "--num", "22", "--metrics", "kid:random"]
    assert evaluate(*words, "--out", "first") == 0
    shard = next((tmp_path / "digits").glob("train*.h5"))
    content = bytearray(shard.read_bytes())
    content[-9] ^= 1
    shard.write_bytes(content)
    said = refused(capsys, *words)
    assert said.startswith("4: ") and "is damaged: its digest is" in said


def test_runs_of_one_name_are_two_lines_of_the_plot(folders, tmp_path):
    shutil.copytree(folders / "images", tmp_path / "images")
    words = ["--run", folders / "images", "--run", "images", "--reference", folders / "digits", "--num", "22"]
    assert evaluate(*words, "--metrics", "kid:random", "--checkpoints", "2,2", "--out", "out") == 0
    names = [(result["name"], result["facts"]["run"]) for result in metrics_of(tmp_path / "out")["results"]]
    assert names == [
        ("images-00000002", "images"),
        ("images-00000002-2", "images"),
        ("images-2-00000002", "images-2"),
        ("images-2-00000002-2", "images-2"),
    ]


def test_damaged_samples_of_ours_are_reported(folders, tmp_path, capsys):
    words = ["--run", folders / "images", "--reference", folders / "digits", "--num", "22", "--metrics", "kid:random"]
    assert evaluate(*words, "--out", "out") == 0
    before = (tmp_path / "out" / "metrics.json").read_bytes()
    for name in ("metrics.json", "report.html"):
        (tmp_path / "out" / name).unlink()
    shard = tmp_path / "out" / "samples" / "images.h5"
    whole = shard.read_bytes()
    with h5py.File(shard) as file:
        values = file["values"]
        assert isinstance(values, h5py.Dataset)
        pixel_offset = values.id.get_offset() + 100
    shard.write_bytes(whole[:pixel_offset] + bytes([whole[pixel_offset] ^ 128]) + whole[pixel_offset + 1 :])
    assert refused(capsys, *words).startswith("4: `out/samples/images.h5` is damaged: its digest is not that in")
    assert evaluate(*words, "--out", "out", "--overwrite") == 0
    assert (tmp_path / "out" / "metrics.json").read_bytes() == before
    assert shard.read_bytes() == whole


def test_a_path_that_cannot_hold_results_is_refused(tmp_path, capsys):
    np.savez("a.npz", images=IMAGES)
    (tmp_path / "file").write_text("")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "cache").write_text("")
    words = ["--samples", "a.npz", "--reference", "a.npz", "--metrics", "psnr"]
    assert refused(capsys, *words) == "2: `out/cache` is a file"
    for out in ("file/x", "a" * 300):
        assert evaluate("--out", out, *words) == 2
        assert f"error: cannot make the folder `{out}`" in capsys.readouterr().err.replace("\n", "")


@pytest.mark.parametrize("name", ["<b>é' \"&", b"bad \xff".decode(errors="surrogateescape")], ids=["odd", "no text"])
def test_names_may_hold_anything(tmp_path, name):
    (tmp_path / name).mkdir()
    for number, image in enumerate(IMAGES):
        Image.fromarray(image[..., 0]).save(tmp_path / name / f"{number:02d} {name}.png")
    assert evaluate("--samples", name, "--reference", name, "--metrics", "psnr", "--out", "out") == 0
    shown = name.replace("\udcff", "\N{REPLACEMENT CHARACTER}")
    assert (
        metrics_of(tmp_path / "out")["results"][0]["name"] == metrics_of(tmp_path / "out")["reference"]["name"] == shown
    )
    assert "<b>" not in (tmp_path / "out" / "report.html").read_text().partition("<body")[2].partition("<script")[0]


def test_cached_statistics_serve_as_reference_for_images_of_their_size(folders, tmp_path, capsys):
    np.savez("a.npz", images=IMAGES)
    np.savez("large.npz", images=IMAGES.repeat(2, 1).repeat(2, 2))
    words = ["--limit", "40", "--statistics", "fid:random"]
    assert run(["prepare", "digits", "--out", "digits", *words]) == 0
    (file,) = (tmp_path / "digits" / "statistics").rglob("moments-all.safetensors")
    for name, reference in (("images", tmp_path / "digits"), ("statistics", file)):
        assert evaluate("--samples", "a.npz", "--reference", reference, "--metrics", "fid:random", "--out", name) == 0
    assert values(tmp_path / "statistics")["fid:random"] == pytest.approx(values(tmp_path / "images")["fid:random"])
    said = refused(capsys, "--samples", "large.npz", "--reference", file, "--metrics", "fid:random")
    assert "are 16 x 16 pixels, gray, and `" in said and "describes images of 8 x 8 pixels, gray" in said


def test_a_run_of_some_classes_is_evaluated_by_those(folders, tmp_path, capsys):
    opened = ShardDataset(folders / "solids")
    two = [opened.classes[0], opened.classes[3]]
    data = {"path": str(folders / "solids"), "classes": two}
    tiny.run_folder(tmp_path / "some", tiny.POINTS, data=data, condition={"name": "label", "classes": 2})
    words = ["--run", tmp_path / "some", "--num", "4", "--split", "train", "--metrics", "mmd"]
    count = sum(opened.classes[label] in two for label in opened.labels("train"))
    assert evaluate(*words, "--out", "own") == 0
    assert f"of the classes {two[0]}, {two[1]}" in capsys.readouterr().err
    assert metrics_of(tmp_path / "own")["reference"]["count"] == count
    assert evaluate(*words, "--reference", folders / "solids", "--out", "all") == 0
    assert metrics_of(tmp_path / "all")["reference"]["count"] == 30
    assert evaluate(*words, "--reference", folders / "solids", "--classes", ", ".join(two), "--out", "named") == 0
    assert values(tmp_path / "named") == values(tmp_path / "own") != values(tmp_path / "all")


def test_a_metric_that_cannot_be_taken_loses_no_other(tmp_path, capsys):
    np.savez("a.npz", images=IMAGES)
    np.savez("b.npz", images=IMAGES[::-1])
    words = ["--samples", "a.npz", "--reference", "b.npz"]
    assert evaluate(*words, "--metrics", "ssim,fid:random", "--out", "out") == 2
    assert "`ssim:inside` could not be computed" in capsys.readouterr().err
    assert list(values(tmp_path / "out")) == ["fid:random"] and metrics_of(tmp_path / "out")["failed"] == [
        "ssim:inside"
    ]
    assert refused(capsys, *words, "--metrics", "ssim").startswith("2: ")


def test_samples_of_a_model_have_no_paired_reference(folders, tmp_path, capsys):
    words = ["--run", folders / "images", "--reference", folders / "digits", "--metrics", "psnr"]
    assert "holds samples of a model, which have no reference image" in refused(capsys, *words)


def test_a_part_of_the_reference_is_evenly_spread(folders, tmp_path):
    words = ["--run", folders / "clouds", "--reference", folders / "solids", "--metrics", "mmd,1-nna", "--num", "6"]
    assert evaluate(*words, "--reference-num", "6", "--out", "six") == 0
    metrics = metrics_of(tmp_path / "six")
    assert metrics["reference"]["count"] == 6
    assert [score["note"] for score in metrics["results"][0]["scores"]] == [
        None,
        "50 % is best, less is a sign of copies",
    ]
    assert evaluate(*words, "--out", "all") == 0
    assert "6 samples against 24 references" in metrics_of(tmp_path / "all")["results"][0]["scores"][0]["note"]


def test_one_damaged_set_of_samples_loses_no_other(tmp_path, capsys):
    np.save("good.npy", CLOUDS)
    bad = CLOUDS.copy()
    bad[5, 3, 1] = np.inf
    np.save("bad.npy", bad)
    words = ["--samples", "bad.npy", "--samples", "good.npy", "--reference", "good.npy", "--metrics", "mmd"]
    assert evaluate(*words, "--out", "out") == 4
    assert "numbers that are not finite in single precision: 5" in capsys.readouterr().err
    scores = {result["name"]: result["scores"] for result in metrics_of(tmp_path / "out")["results"]}
    assert scores["bad.npy"] == [] and scores["good.npy"][0]["value"] == 0


def test_clouds_of_too_few_points_are_refused_with_the_number_to_sample(folders, tmp_path, capsys, monkeypatch):
    np.save("mine.npy", CLOUDS)
    np.save("large.npy", RNG.normal(size=(2, 4096, 3)).astype(np.float32))
    words = ["--reference", "large.npy", "--metrics", "p-fid,mmd"]
    requirement = "points each, and `p-fid:point-e` needs 4,096"
    assert refused(capsys, "--samples", "mine.npy", *words) == f"2: the samples of `mine.npy` have 30 {requirement}"
    assert refused(capsys, "--run", folders / "clouds", *words).endswith(requirement)
    code = evaluate("--samples", "mine.npy", *words, "--out", "out")
    assert code == 2 and "sample with `--points 4096`" in capsys.readouterr().err


def test_clouds_are_compared_with_the_object_of_their_name(tmp_path, capsys):
    for folder in ("mine", "theirs", "images"):
        Path(folder).mkdir()
    for name, cloud in zip("abc", CLOUDS[:3] * [[[1, 1, 1]], [[1, 1, 0.1]], [[1, 0.1, 0.1]]], strict=True):
        np.save(f"theirs/{name}.npy", cloud)
        np.save(f"mine/{name}.npy", cloud + 0.001)
        Image.new("RGB", (4, 4)).save(f"images/{name}.png")
    words = ["--samples", "mine", "--reference", "theirs", "--metrics", "paired-cd,ulip-i"]
    assert refused(capsys, *words, "--condition-images", "images").endswith("`ulip-i:gray` needs 10,000")
    assert evaluate("--samples", "mine", "--reference", "theirs", "--metrics", "paired-cd", "--out", "out") == 0
    (paired,) = metrics_of(tmp_path / "out")["results"]
    (items,) = paired["items"].values()
    assert len(items) == paired["samples"]["count"]
    assert np.mean([*items.values()]) == pytest.approx(paired["scores"][0]["value"], rel=1e-12)
    (score,) = metrics_of(tmp_path / "out")["results"][0]["scores"]
    assert score["value"] < 1e-3 and "to the 2 others" in score["note"] and "of 100.0 % of 3 samples" in score["note"]


def test_a_seed_from_which_no_seeds_count_up_is_refused_at_once(tmp_path, capsys):
    assert evaluate("--run", "images", "--seed", str(2**63 - 1), "--out", "out") == 2
    assert "is out of range: the samples' seeds count up from it" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "out").exists()
