"""Runs on disk: which one a command draws from, and what it refuses to draw from."""

from __future__ import annotations

import os

import pytest

from inrflow_core import runs
from inrflow_core.errors import IntegrityError, MissingError, UsageError
from tests import tiny


@pytest.fixture
def parent(tmp_path, monkeypatch):
    """Three runs: images, then points, then one that never saved."""
    for moment, (name, kind) in enumerate([("pictures", tiny.IMAGE), ("clouds", tiny.POINTS), ("begun", tiny.POINTS)]):
        tiny.run_folder(tmp_path / name, kind, step=2 + moment)
        manifest = next((tmp_path / name).glob("checkpoints/*/manifest.json"))
        os.utime(manifest, (moment, moment))
    next((tmp_path / "begun").glob("checkpoints/*/manifest.json")).unlink()
    monkeypatch.setenv("INRFLOW_RUNS", str(tmp_path))
    return tmp_path


def test_the_newest_complete_run_of_a_fitting_domain_is_taken(parent):
    assert runs.newest().name == "clouds"
    assert runs.newest(("points",)).name == "clouds"
    assert runs.newest(("image",)).name == "pictures"
    assert [run.name for run in runs.listed()] == ["begun", "pictures", "clouds"]


def test_without_a_fitting_run_the_error_says_what_was_looked_for_and_how_to_get_one(parent):
    with pytest.raises(MissingError, match="domain shape .* there are 2 of other domains") as error:
        runs.newest(("shape",))
    assert "inrflow train" in (error.value.hint or "")


def test_weights_are_the_first_average_unless_asked_otherwise(parent):
    folder = parent / "clouds"
    assert runs.weights_file(folder).name == "ema_0.999.safetensors"
    assert runs.weights_file(folder, ema=0).name == "weights.safetensors"
    assert runs.weights_file(folder / "checkpoints" / "00000003", ema=0.999).parent.name == "00000003"
    with pytest.raises(UsageError, match="no EMA of decay 0.5"):
        runs.weights_file(folder, ema=0.5)
    with pytest.raises(MissingError, match="no checkpoint of step 9"):
        runs.weights_file(folder, step=9)


def test_a_run_without_a_finished_checkpoint_is_named(parent):
    with pytest.raises(MissingError, match="no complete checkpoint"):
        runs.weights_file(parent / "begun")
    with pytest.raises(MissingError, match="holds no run"):
        runs.weights_file(parent)
    with pytest.raises(MissingError, match="does not exist"):
        runs.weights_file(parent / "nowhere")


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove"])
def test_damaged_weights_are_named_and_never_used(parent, damage):
    file = runs.weights_file(parent / "clouds")
    data = bytearray(file.read_bytes())
    if damage == "remove":
        file.unlink()
    elif damage == "truncate":
        file.write_bytes(data[:-1])
    else:
        data[len(data) // 2] ^= 1
        file.write_bytes(data)
    with pytest.raises(IntegrityError, match="ema_0.999.safetensors"):
        runs.weights_file(parent / "clouds")


def test_the_last_record_is_the_last_whole_line_with_a_loss(parent):
    run = runs.open_run(parent / "clouds")
    (run.folder / "log.jsonl").write_text(
        '{"step": 1, "loss": 2.0}\n{"step": 2, "loss": 1.5}\n{"held_out": 3}\n{"step": 3, "lo'
    )
    assert run.last_record() == {"step": 2, "loss": 1.5}
