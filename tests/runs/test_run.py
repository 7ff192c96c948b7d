"""Runs on disk: which one a command draws from, and what it refuses to draw from."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import safetensors.torch

from inrflow_core import models
from inrflow_core.errors import IntegrityError, MissingError, UsageError
from inrflow_core.runs import export
from inrflow_core.runs.run import find_source, latest_run, list_runs, open_run, resolve_weights
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
    assert latest_run().name == "clouds"
    assert latest_run(("points",)).name == "clouds"
    assert latest_run(("image",)).name == "pictures"
    assert [run.name for run in list_runs()] == ["begun", "pictures", "clouds"]


def test_a_run_that_must_be_given_something_is_taken_by_those_who_give_it(parent):
    for moment, (name, kind) in enumerate([("photos", tiny.IMAGE_TO_POINTS), ("folds", tiny.PROTEIN)], start=5):
        tiny.run_folder(parent / name, kind)
        os.utime(next((parent / name).glob("checkpoints/*/manifest.json")), (moment, moment))
    assert latest_run().name == "clouds"
    assert latest_run(("points", "image", "protein")).name == "clouds"
    assert latest_run(("image",)).name == "pictures"
    assert latest_run(("points",), "image").name == "photos"
    assert latest_run(("protein",), "sequence").name == "folds"
    assert latest_run(("protein",)).name == "folds"


def test_without_a_fitting_run_the_error_says_what_was_looked_for_and_how_to_get_one(parent):
    with pytest.raises(MissingError, match="domain shape .* there are 2 of other domains") as error:
        latest_run(("shape",))
    assert "inrflow train" in (error.value.hint or "")


def test_weights_are_the_first_average_by_default(parent):
    folder = parent / "clouds"
    assert resolve_weights(folder).name == "ema_0.999.safetensors"
    assert resolve_weights(folder, ema=0).name == "weights.safetensors"
    assert resolve_weights(folder / "checkpoints" / "00000003", ema=0.999).parent.name == "00000003"
    with pytest.raises(UsageError, match="no EMA of decay 0.5"):
        resolve_weights(folder, ema=0.5)
    with pytest.raises(MissingError, match="no checkpoint of step 9"):
        resolve_weights(folder, step=9)


def test_a_run_without_a_finished_checkpoint_is_named(parent):
    with pytest.raises(MissingError, match="no complete checkpoint"):
        resolve_weights(parent / "begun")
    with pytest.raises(MissingError, match="holds no run"):
        resolve_weights(parent)
    with pytest.raises(MissingError, match="does not exist"):
        resolve_weights(parent / "nowhere")


def test_a_pipe_a_device_and_a_loop_of_links_are_no_weights_and_are_said_to_be_there(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    for path in (tmp_path / "pipe", Path(os.devnull)):
        with pytest.raises(IntegrityError, match="is a pipe or a device, not a file"):
            resolve_weights(path)
    with pytest.raises(IntegrityError, match="cannot be opened: Too many levels of symbolic links"):
        resolve_weights(tmp_path / "loop")


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove"])
def test_damaged_weights_are_named_and_never_used(parent, damage):
    file = resolve_weights(parent / "clouds")
    data = bytearray(file.read_bytes())
    if damage == "remove":
        file.unlink()
    elif damage == "truncate":
        file.write_bytes(data[:-1])
    else:
        data[len(data) // 2] ^= 1
        file.write_bytes(data)
    with pytest.raises(IntegrityError, match="ema_0.999.safetensors"):
        resolve_weights(parent / "clouds")


def test_a_run_that_cannot_be_read_is_reported_and_left_out(parent):
    """Broken TOML and unknown parts are found in listing, settings of another version when the run is used."""
    preset = parent / "pictures" / "preset.toml"
    preset.write_text(preset.read_text().replace("[network]", "[network]\nof_a_later_version = 1"))
    (parent / "begun" / "preset.toml").write_text("x = [")
    reported = {}
    listed = list_runs(unreadable=lambda place, error: reported.update({place.name: error}))
    assert [run.name for run in listed] == ["pictures", "clouds"]
    assert list(reported) == ["begun"] and "TOML" in reported["begun"].message
    with pytest.raises(IntegrityError, match="of_a_later_version"):
        print(listed[0].preset)
    assert latest_run().name == "clouds"
    (parent / "clouds" / "preset.toml").unlink()
    with pytest.raises(MissingError, match="found none"):
        latest_run()
    with pytest.raises(IntegrityError, match="preset of the run .* cannot be read: .*of_a_later_version"):
        resolve_weights(parent / "pictures")


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"files": {"a": 1}, "ema": []}', '{"files": {}, "ema": ["x"]}'])
def test_a_checkpoint_whose_manifest_is_broken_is_named(parent, text):
    next((parent / "clouds").glob("checkpoints/*/manifest.json")).write_text(text)
    with pytest.raises(IntegrityError, match="manifest.json` is (damaged: .* must be|damaged: .* is missing|not JSON)"):
        resolve_weights(parent / "clouds")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"preset": "x = ["}, "holds a preset that this inrflow does not read: `preset` of .* is not valid TOML"),
        ({"preset": "x = " + "[" * 5000}, "holds a preset that this inrflow does not read: .* nested"),
        ({"preset": f"x = {'1' * 5000}"}, "holds a preset that this inrflow does not read: .* 5000 digits"),
        ({"preset": ""}, "holds a preset that this inrflow does not read"),
        ({"info": "{"}, "`info` of .* is not JSON"),
        ({"info": "[1]"}, r"`info` of .* is damaged: its content must be a table, and is \[1\]"),
        ({"info": "[" * 100_000}, "`info` of .* is nested more than"),
        ({"preset": None}, "does not say what it holds: it has no `preset`"),
        ({"preset_name": None}, "does not say what it holds: it has no `preset_name`"),
        ({"info": None}, "does not say what it holds: it has no `info`"),
        ({"format": "other"}, "has the format 'other'"),
    ],
)
def test_weights_that_do_not_say_what_they_hold_are_named(parent, change, words):
    file = resolve_weights(parent / "clouds")
    with safetensors.safe_open(file, "pt") as opened:
        reported = opened.metadata() | change
    tensors = safetensors.torch.load_file(file)
    safetensors.torch.save_file(tensors, file, {key: text for key, text in reported.items() if text is not None})
    with pytest.raises(IntegrityError, match=words):
        models.load(file)


@pytest.mark.parametrize("key", ["normalization", "normalisation"])
def test_the_normalization_in_a_weights_file_is_read_under_its_present_and_its_earlier_key(tmp_path, key):
    model = tiny.model(tiny.POINTS)
    file = tmp_path / "weights.safetensors"
    models.save(file, model.method.state_dict(), model.preset, {key: {"embedder_digest": "patches-1"}})
    assert models.load(file).metadata == {"normalization": {"embedder_digest": "patches-1"}}


def test_the_last_record_is_the_last_whole_line_with_a_loss(parent):
    run = open_run(parent / "clouds")
    (run.folder / "log.jsonl").write_text(
        '{"step": 1, "loss": 2.0}\n{"step": 2, "loss": 1.5}\n{"held_out": 3}\n{"step": 3, "lo'
    )
    assert run.last_record() == {"step": 2, "loss": 1.5}


@pytest.mark.parametrize("loss", ['"x"', "[1]", "{}"])
def test_a_loss_that_is_not_a_number_is_an_integrity_error_that_names_the_log(parent, loss):
    run = open_run(parent / "clouds")
    (run.folder / "log.jsonl").write_text(f'{{"step": 1, "loss": {loss}}}\n')
    with pytest.raises(IntegrityError, match=r"a line of `.*log\.jsonl`.*`loss` must be a number"):
        run.last_record()


def test_a_run_whose_preset_has_no_text_as_its_name_is_damaged(parent):
    file = parent / "clouds" / "preset.toml"
    tables = [line for line in file.read_text().splitlines() if not line.startswith("name =")]
    file.write_text("\n".join(["name = 3", *tables]))
    with pytest.raises(IntegrityError, match="`name` is 3"):
        open_run(parent / "clouds")


def test_a_damaged_file_is_found_also_where_it_is_named_itself(tmp_path):
    tiny.run_folder(tmp_path / "run", tiny.POINTS)
    inside = tmp_path / "run/checkpoints/00000002/ema_0.999.safetensors"
    alone = tmp_path / "alone.safetensors"
    export.copy_weights(tmp_path / "run", alone)
    for file in (inside, alone):
        assert resolve_weights(file) == file
        content = bytearray(file.read_bytes())
        content[-5] ^= 1
        file.write_bytes(content)
        with pytest.raises(IntegrityError, match=rf"{file.name}` is damaged"):
            resolve_weights(file)


def weights_file(folder, decay, step=7):
    built = tiny.model(tiny.POINTS)
    path = folder / f"of_{decay}.safetensors"
    models.save(path, built.method.state_dict(), built.preset, {"step": step, "decay": decay})
    return path


@pytest.mark.parametrize(("decay", "ema"), [(0.999, 0), (0.999, 0.99), (None, 0.999)])
def test_a_weights_file_of_another_average_is_refused(tmp_path, decay, ema):
    with pytest.raises(UsageError, match="--ema"):
        resolve_weights(weights_file(tmp_path, decay), ema=ema)


@pytest.mark.parametrize("step", [6, "best"])
def test_weights_of_another_step_are_refused(tmp_path, parent, step):
    for source in (weights_file(tmp_path, 0.999), parent / "clouds" / "checkpoints" / "00000003"):
        with pytest.raises(UsageError, match="holds step"):
            resolve_weights(source, step=step)


def test_weights_that_are_what_was_requested_are_read(tmp_path, parent):
    assert resolve_weights(raw := weights_file(tmp_path, None), ema=0, step=7) == raw
    assert resolve_weights(averaged := weights_file(tmp_path, 0.999), ema=0.999) == averaged
    assert resolve_weights(parent / "clouds" / "checkpoints" / "00000003", step=3).parent.name == "00000003"


def test_a_copied_checkpoint_is_read_and_checked_as_in_its_run(tmp_path, parent):
    copy = tmp_path / "elsewhere"
    shutil.copytree(parent / "clouds" / "checkpoints" / "00000003", copy)
    assert resolve_weights(copy, ema=0) == copy / "weights.safetensors"
    file = copy / "ema_0.999.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    for source in (copy, file):
        with pytest.raises(IntegrityError, match="is damaged"):
            resolve_weights(source)


def test_a_name_alone_is_the_run_of_that_name_unless_a_file_of_the_name_is_there(parent, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("INRFLOW_RUNS", str(parent))
    assert resolve_weights(Path("clouds")) == resolve_weights(parent / "clouds")
    for source in ("nowhere", "clouds/checkpoints", "..", "./other/clouds"):
        assert find_source(Path(source)) == Path(source)
    Path("clouds").mkdir()
    with pytest.raises(MissingError, match="`clouds` holds no run"):
        resolve_weights(Path("clouds"))
