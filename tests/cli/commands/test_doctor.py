"""`inrflow doctor`: what is there, what is missing, and the test of the whole program."""

from __future__ import annotations

import errno
import json
import tempfile
from pathlib import Path

import pytest
import tomli

from inrflow_cli import app, console
from inrflow_core.errors import OutOfMemory
from inrflow_core.feature_networks._weights_file import VARIABLE
from inrflow_core.runtime import diagnosis
from inrflow_core.training import smoke_test


@pytest.fixture(autouse=True)
def _own_stderr():
    console.stderr.cache_clear()
    yield
    console.stderr.cache_clear()


def doctor(capsys, *words: str) -> tuple[int, dict, str]:
    code = app.run(["doctor", "--json", "--device", "cpu", *words])
    out, text = capsys.readouterr()
    return code, json.loads(out), text


def test_a_tiny_model_is_trained_and_sampled_and_its_folder_removed(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    code, answer, text = doctor(capsys)
    assert code == 0 == answer["code"] and "all is well" in text
    assert (answer["test"]["steps"], answer["test"]["samples"]) == (smoke_test.STEPS, smoke_test.SAMPLES)
    assert list(tmp_path.glob("inrflow*")) == []


def test_the_extras_are_those_of_pyproject_and_an_absent_one_has_its_command(checkout: Path, capsys, monkeypatch):
    project = tomli.loads((checkout / "pyproject.toml").read_text())["project"]
    assert set(diagnosis.EXTRAS) == set(project["optional-dependencies"]) - {"dev", "docs"}
    monkeypatch.setitem(diagnosis.EXTRAS, "video", ("a_module_that_is_nowhere",))
    code, answer, text = doctor(capsys, "--no-test")
    assert code == 0 and answer["extras"]["video"]["missing"] == ["a_module_that_is_nowhere"]
    assert "pip install 'inrflow[video]'" in text and "test" not in answer


def test_weights_are_reported_from_the_folder_that_the_variable_names(capsys, tmp_path, monkeypatch):
    (tmp_path / "inception.safetensors").write_bytes(b"x")
    (tmp_path / "dinov2").mkdir()
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    _, answer, text = doctor(capsys, "--no-test")
    there = [name for name, is_there in answer["weights"].items() if is_there is True]
    assert there == ["dinov2", "inception"] and answer["weights"]["folder"] == str(tmp_path)
    assert "dinov2, inception; absent: clip" in text


def test_a_missing_package_is_exit_code_3(capsys, monkeypatch):
    monkeypatch.setattr(diagnosis, "PACKAGES", (*diagnosis.PACKAGES, "no-such-package"))
    code, answer, text = doctor(capsys, "--no-test")
    assert code == 3 == answer["code"] and answer["versions"]["no-such-package"] is None
    assert "error: required packages are missing: no-such-package" in text and "make setup" in text


@pytest.mark.parametrize(
    ("problem", "code", "says"),
    [
        (OutOfMemory("too little", hint="less"), 5, "hint: less"),
        (OSError(errno.ENOSPC, "No space left on device", "x"), 5, "the disk is full"),
        (OSError("libx.so is absent"), 1, "libx.so is absent"),
    ],
)
def test_a_failing_test_is_reported_after_the_tables_with_its_exit_code(problem, code, says, capsys, monkeypatch):
    def fails(device):
        raise problem

    monkeypatch.setattr(smoke_test, "run", fails)
    actual, answer, text = doctor(capsys)
    assert actual == code == answer["code"] and says in text and "hardware" in answer
