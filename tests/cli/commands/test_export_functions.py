"""A file is encoded once, its function saved by `upsample --save-field` and exported by `export` to a file of its own."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors import safe_open

from inrflow_cli import console
from inrflow_cli.app import run
from tests import tiny


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    parent = tmp_path_factory.mktemp("runs")
    tiny.run_folder(parent / "inr", tiny.INR)
    tiny.run_folder(parent / "flow", tiny.IMAGE)
    return parent


@pytest.fixture(autouse=True)
def _working_folder(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("INRFLOW_RUNS", str(runs))
    monkeypatch.chdir(tmp_path)
    Image.fromarray(np.arange(144, dtype=np.uint8).reshape(12, 12)).save("given.png")
    console.stderr.cache_clear()
    yield
    console.stderr.cache_clear()


@pytest.mark.parametrize("name", ["inr", "flow"])
def test_the_field_of_an_encoded_file_is_evaluated_as_the_file_was(runs: Path, tmp_path: Path, name: str):
    options = ["--run", str(runs / name), "--save-field", "field.safetensors"]
    assert run(["upsample", "given.png", "a.png", "--resolution", "30", *options]) == 0
    assert run(["upsample", "field.safetensors", "b.png", "--resolution", "30"]) == 0
    np.testing.assert_array_equal(np.asarray(Image.open("a.png")), np.asarray(Image.open("b.png")))


def test_functions_are_exported_by_number(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    options = ["--run", str(runs / "inr"), "--num", "5", "--seed", "7", "--save-field", "field.safetensors"]
    assert run(["sample", "a.png", *options]) == 0
    capsys.readouterr()
    assert run(["export", "field.safetensors", "one.safetensors", "--items", "1,3", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["out"] == ["one-000.safetensors", "one-001.safetensors"]
    with safe_open("one-001.safetensors", "np") as file:
        assert file.metadata()["seed"] == "10"
    assert run(["export", "field.safetensors", "one.safetensors", "--items", "1,3"]) == 2
    assert "`one-000.safetensors` exists already" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["export", "f.safetensors", "a.onnx"], "a saved field becomes no `.onnx` file"),
        (["export", "f.safetensors", "a.safetensors", "--ema", "0"], "`--ema` does not apply to .* of a saved field"),
        (["export", "f.safetensors", "a.safetensors"], "have no weights of their own"),
        (["upsample", "f.safetensors", "a.png", "--save-field", "g.safetensors"], "`--save-field` does not apply to"),
        (["upsample", "given.png", "a.png", "--save-field", "g.h5"], "fields are .safetensors files"),
        (
            ["upsample", "given.png", "f.png", "out", "--save-field", "g.safetensors"],
            "`--save-field` saves the function of one file",
        ),
    ],
)
def test_what_cannot_be_done_is_refused(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture, words, message):
    Path("out").mkdir()
    sampled = ["sample", "f.png", "--run", str(runs / "flow"), "--label", "1", "--save-field", "f.safetensors"]
    assert run(sampled) == 0
    capsys.readouterr()
    before = sorted(tmp_path.rglob("*"))
    assert run(words) == 2
    assert re.search(message, " ".join(capsys.readouterr().err.split()))
    assert sorted(tmp_path.rglob("*")) == before
