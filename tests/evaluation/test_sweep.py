"""Sweeps of sampling settings: which combinations they are, and that each is sampled as `inrflow sample` does it."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pytest

from inrflow_cli.app import run
from inrflow_core.errors import UsageError
from inrflow_core.evaluation import metric_specs, sweep
from inrflow_core.evaluation.sampling_plan import SamplingSettings
from inrflow_core.preparation import job, pipeline
from inrflow_core.storage import plain_file
from tests import tiny

ITEMS = 12
CHANCE = ["--metrics", "fid:random,kid:random", "--num", str(ITEMS), "--no-copies"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    parent = tmp_path_factory.mktemp("sweep")
    pipeline.prepare(job.resolve_job("digits", out=parent / "digits", limit=40), workers=1)
    size = {"name": "image", "resolution": 8, "channels": 1}
    tiny.run_folder(parent / "run", tiny.IMAGE, domain=size)
    tiny.run_folder(parent / "weak", tiny.IMAGE, domain=size, network={"width": 16, "depth": 1})
    return parent


def points(*texts: str, **settings) -> dict[str, SamplingSettings]:
    return dict(sweep.points([sweep.parse(text) for text in texts], SamplingSettings(**settings)))


def evaluate(folder: Path, out: str, *words: str) -> int:
    return run(
        ["eval", "--out", out, "--run", str(folder / "run"), "--reference", str(folder / "digits"), *CHANCE, *words]
    )


def test_a_sweep_has_every_combination_of_its_values():
    found = points("guidance=1.5,2", "sampler=euler,heun", "sampler.steps=10,20")
    assert len(found) == 8
    one = found["guidance=2, sampler=heun, sampler.steps=20"]
    assert (one.method_settings, one.sampler, one.sampler_settings) == ({"guidance": 2}, "heun", {"steps": 20})


def test_what_changes_nothing_without_guidance_is_left_out_there():
    found = points("guidance=1,2", "guidance-interval=none,[0.1, 0.9]", "steps=5")
    assert list(found) == [
        "guidance=1, steps=5",
        "guidance=2, guidance-interval=none, steps=5",
        "guidance=2, guidance-interval=0.1-0.9, steps=5",
    ]
    intervals = [one.method_settings.get("guidance_interval") for one in found.values()]
    assert intervals == [None, None, [0.1, 0.9]]


def test_guides_and_samplers_are_names_and_shown_without_their_folder(tmp_path):
    for name in ("1e3", "b" * 200):
        tiny.run_folder(tmp_path / name, tiny.IMAGE)
    runs = [str(tmp_path / name) for name in ("1e3", "b" * 200)]
    found = points(f"guide-run={','.join(runs)}", method_settings={"guidance": 2.0})
    assert list(found) == ["guide-run=1e3", f"guide-run={'b' * 200}"]


def test_none_is_the_value_of_the_preset():
    assert points("steps=none,7", method_settings={"guidance": 1.5})["steps=none"].steps is None


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        (["guidence=1"], "cannot change `guidence`"),
        (["network.width=3"], "cannot change `network.width`"),
        (["steps"], "has no values"),
        (["steps=1,,2"], "has no values"),
        (["steps=1,1"], "repeats a value"),
        (["guidance=1,1.0,2"], "repeats a value"),
        (["steps=1.5"], "whole numbers"),
        (["steps=1", "steps=2"], "set twice"),
        (["guidance=2", "method.guidance=3"], "set twice"),
        (["steps=" + ",".join(map(str, range(1, 20))), "guidance=" + ",".join(map(str, range(1, 20)))], "at most 200"),
    ],
)
def test_a_sweep_that_cannot_be_is_refused(texts, words):
    with pytest.raises(UsageError, match=words):
        points(*texts)


def test_an_option_and_a_sweep_of_it_exclude_each_other():
    for text, settings in {
        "guidance=2,3": {"method_settings": {"guidance": 2.0}},
        "steps=2": {"steps": 3},
        "sampler.steps=2": {"sampler_settings": {"steps": 3}},
        "guide-run=a": {"guide": Path("b")},
    }.items():
        with pytest.raises(UsageError, match="set twice"):
            points(text, **settings)


def test_each_combination_is_sampled_with_its_settings_from_the_same_seeds(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    weak = str(folder / "weak")
    assert (
        evaluate(folder, "out", "--sweep", "guidance=1,2", "--sweep", f"guide-run=none,{weak}", "--sweep", "steps=2")
        == 0
    )
    assert "best FID" in capsys.readouterr().out
    results = json.loads((tmp_path / "out/metrics.json").read_text())["results"]
    guide = plain_file.file_digest(folder / "weak/checkpoints/00000002/ema_0.999.safetensors")[:16]
    facts = [(one["facts"].get("guidance"), one["facts"].get("guide")) for one in results]
    assert facts == [("1", None), ("2", None), ("2", guide)]
    assert len({score["value"] for one in results for score in one["scores"] if score["metric"].startswith("fid")}) == 3
    command = ["sample", "alone.h5", "--run", str(folder / "run"), "--num", str(ITEMS), "--steps", "2"]
    assert run([*command, "--guidance", "2", "--guide-run", weak]) == 0
    swept = next(
        path for path in (tmp_path / "out/samples").glob("*.h5") if "guide-run" in path.name and "none" not in path.name
    )
    with h5py.File(swept) as one, h5py.File("alone.h5") as other:
        np.testing.assert_array_equal(np.array(one["values"]), np.array(other["values"]))


def test_a_combination_that_the_run_cannot_have_is_refused_before_sampling(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert evaluate(folder, "out", "--sweep", "sampler.steps=3,0") == 2
    assert "`sampler.steps=0`" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_metrics_of_what_a_run_encodes_are_refused():
    metrics = metric_specs.parse_metrics(["fid:random", "reconstruction-psnr"], "image")
    with pytest.raises(UsageError, match="which no setting of a sweep changes"):
        sweep.check_metrics(metrics)
    sweep.check_metrics(metrics[:1])
