"""`inrflow train`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from inrflow_cli import app, console
from inrflow_core.config import toml
from inrflow_core.planning import plan
from inrflow_core.runtime import memory
from tests.training import small


@pytest.fixture(autouse=True)
def _own_stderr():
    console.stderr.cache_clear()
    yield
    console.stderr.cache_clear()


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return small.images(tmp_path_factory.mktemp("cli") / "shards" / "small")


@pytest.fixture
def preset(tmp_path) -> Path:
    """The small preset as a file."""
    file = tmp_path / "small.toml"
    file.write_text(toml.to_toml(small.preset(training={"steps": 3}).table()))
    return file


def train(preset: Path, *arguments: object) -> int:
    return app.run(["train", "--preset", str(preset), "--device", "cpu", "--threads", "1", *map(str, arguments)])


def test_a_run_is_written_where_out_says_and_reported_as_one_object(preset, data, tmp_path, capsys):
    assert train(preset, "--data", data, "--out", tmp_path / "run", "--json") == 0
    out, errors = capsys.readouterr()
    report = json.loads(out)
    assert report["out"] == str(tmp_path / "run") and report["step"] == 3 and report["samples_seen"] == 12
    assert f"step 3 of 3 is saved in `{tmp_path}/run`" in errors
    score = f"`inrflow eval --run {tmp_path}/run --out results`"
    assert f"`inrflow view {tmp_path}/run`, score it with {score}" in errors
    assert json.loads((tmp_path / "run/environment.json").read_text())["shards"] == str(data)


def test_shards_that_a_command_names_are_recorded_as_seen_from_the_run(preset, data, tmp_path, monkeypatch):
    monkeypatch.chdir(data.parent)
    named = data.relative_to(data.parent)
    for words, recorded in ((["--data", named], f"../../{named}"), ([], None)):
        out = data.parent / "runs" / f"of-{len(words)}"
        changed = [] if words else ["--set", f"data.path={named}"]
        assert train(preset, *words, *changed, "--out", out.relative_to(data.parent), "--stop-at-step", 1) == 0
        assert json.loads((out / "environment.json").read_text()).get("shards") == recorded


def test_a_run_that_is_resumed_without_data_keeps_the_recorded_shards(preset, data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(data, "mine")
    record, copy = Path("run/environment.json"), ["--set", f"data.path={data}"]
    assert train(preset, "--data", "mine", "--out", "run", "--stop-at-step", 1) == 0
    assert train(preset, *copy, "--out", "run", "--stop-at-step", 2) == 0
    assert json.loads(record.read_text())["shards"] == "../mine"
    assert train(preset, "--data", data, "--out", "run") == 0
    assert json.loads(record.read_text())["shards"] == str(data) and len(small.losses(Path("run"))) == 3


def test_without_out_the_run_is_named_after_its_preset(preset, data, tmp_path, monkeypatch):
    monkeypatch.setenv("INRFLOW_RUNS", str(tmp_path / "all"))
    assert train(preset, "--data", data) == 0
    assert (tmp_path / "all/small/checkpoints/00000003/manifest.json").is_file()


def test_the_same_command_resumes_and_says_so(preset, data, tmp_path, capsys):
    assert train(preset, "--data", data, "--out", tmp_path / "run", "--stop-at-step", 2) == 0
    capsys.readouterr()
    assert train(preset, "--data", data, "--out", tmp_path / "run") == 0
    assert f"resuming the run `{tmp_path}/run` after step 2" in capsys.readouterr().err


def test_a_longer_run_whose_rate_depends_on_the_steps_begins_with_the_weights_of_the_shorter(
    preset, data, tmp_path, capsys
):
    cosine = ["--set", "training.schedule='cosine'"]
    assert train(preset, "--data", data, "--out", tmp_path / "run", *cosine) == 0
    longer = [*cosine, "--set", "training.steps=5"]
    assert train(preset, "--data", data, "--out", tmp_path / "run", *longer) == 2
    assert f"begin with its weights: `--init-from {tmp_path}/run` and another `--out`" in capsys.readouterr().err
    assert train(preset, "--data", data, "--init-from", tmp_path / "run", "--out", tmp_path / "longer", *longer) == 0
    assert train(preset, "--data", data, "--out", tmp_path / "constant") == 0
    assert train(preset, "--data", data, "--out", tmp_path / "constant", "--set", "training.steps=5") == 0


def test_overwrite_begins_again(preset, data, tmp_path, capsys):
    assert train(preset, "--data", data, "--out", tmp_path / "run") == 0
    assert train(preset, "--data", data, "--out", tmp_path / "run", "--set", "training.seed=7") == 2
    message = capsys.readouterr().err
    assert "was begun with [training] `seed` = 0, and this command says 7" in message and "--overwrite" in message
    assert train(preset, "--data", data, "--out", tmp_path / "run", "--set", "training.seed=7", "--overwrite") == 0
    assert "seed = 7" in (tmp_path / "run/preset.toml").read_text()
    assert len(small.losses(tmp_path / "run")) == 3


def test_a_dry_run_tells_what_it_would_take_and_writes_nothing(preset, data, tmp_path, capsys):
    before = sorted(tmp_path.rglob("*"))
    assert train(preset, "--data", data, "--out", tmp_path / "run", "--dry-run", "--json") == 0
    out, tables = capsys.readouterr()
    estimate = json.loads(out)
    assert estimate["total"]["parameters"] == sum(estimate["parameters"].values())
    assert estimate["total"]["flops"] == sum(estimate["flops"].values())
    assert sum(estimate["executed"].values()) == pytest.approx(estimate["seconds_per_step"] * estimate["rate"])
    rows = [plan.row_title(row, ["AdamW"]) for row in estimate["memory"]]
    assert tables.startswith("memory of a process: ") and " free: enough\n" in tables
    for part in (*estimate["parameters"], *estimate["flops"], *rows, "a step takes at least", "a checkpoint takes"):
        assert part in tables
    assert estimate["total"]["memory"] == sum(estimate["memory"].values()) and estimate["seconds_per_step"] > 0
    state = {"program", "weights", "zero_weights", "gradients", "zero_gradients", "moments", "averages", "batch"}
    assert set(estimate["flops"]) == {"encoder", "trunk", "decoder"}
    activations = {f"activations_{part}" for part in (*estimate["parameters"], "loss")}
    assert set(estimate["memory"]) == state | activations | {"backward"}
    assert sorted(tmp_path.rglob("*")) == before


def test_a_dry_run_of_what_does_not_fit_tells_both_and_leaves_with_5(preset, data, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(memory, "free_memory", lambda device: 100_000_000)
    assert train(preset, "--data", data, "--out", tmp_path / "run", "--dry-run", "--json") == 5
    out, text = capsys.readouterr()
    estimate = json.loads(out)
    assert text.startswith("memory of a process: ") and " needed, 100 MB free: too little\n" in text
    assert "too little" in estimate["error"] and estimate["total"]["memory"] > 100_000_000
    assert train(preset, "--data", data, "--out", tmp_path / "run") == 5
    assert not (tmp_path / "run").exists()


def test_too_little_disk_is_said_before_the_first_step(preset, data, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: type("Usage", (), {"free": 1000}))
    for arguments in ([], ["--dry-run"]):
        assert train(preset, "--data", data, "--out", tmp_path / "run", *arguments) == 5
        assert "of disk below" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["--set", "training.bacth=2"], 2, "[training] has no setting `bacth`\n\nhint: did you mean `batch`?"),
        (["--set", "training.batch=two"], 2, "[training] `batch` is 'two'\n\nhint: give a whole number"),
        (["--set", "network.heads=3"], 2, "heads"),
        (["--precision", "fp16"], 2, "`precision` is fp16: its range needs loss scaling"),
        (["--set", "condition.classes=none"], 2, "[condition] needs the setting `classes`"),
        (["--device", "cuda:77"], 2, "the device `cuda:77` is not there"),
        (
            ["--data", "nowhere/shapes"],
            3,
            "hint: make them with `inrflow prepare shapes`, or name another place with `--data`",
        ),
        (["--init-from", "nowhere"], 3, "`nowhere` does not exist"),
    ],
)
def test_what_cannot_be_is_one_sentence_and_a_hint(preset, data, tmp_path, capsys, arguments, code, says):
    words = arguments if "--data" in arguments else ["--data", data, *arguments]
    assert train(preset, *words, "--out", tmp_path / "run") == code
    message = capsys.readouterr().err
    assert says in message and "Traceback" not in message
    assert not (tmp_path / "run").exists()


def test_a_preset_of_no_name_is_reported_with_the_nearest(data, capsys):
    assert app.run(["train", "--preset", "digits-dmo", "--data", str(data)]) == 2
    message = capsys.readouterr().err
    assert "no preset is called `digits-dmo`\n\nhint: did you mean `digits-demo`, `digits-" in message


def test_the_preset_of_a_run_trains_that_run_on_and_another_folder_anew(preset, data, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("INRFLOW_RUNS", str(tmp_path / "all"))
    assert train(preset, "--data", data, "--stop-at-step", 2) == 0
    of_run = tmp_path / "all/small/preset.toml"
    assert train(of_run, "--data", data) == 0
    assert f"resuming the run `{tmp_path}/all/small` after step 2" in capsys.readouterr().err
    assert train(of_run, "--data", data, "--out", tmp_path / "anew") == 0
    assert (tmp_path / "anew/preset.toml").read_bytes() == of_run.read_bytes()
    assert small.losses(tmp_path / "anew") == small.losses(tmp_path / "all/small")


def test_days_on_a_cpu_need_yes_and_a_resumed_run_counts_what_is_left(preset, data, tmp_path, capsys, monkeypatch):
    from inrflow_core.planning import checks

    run = ["--data", data, "--out", tmp_path / "run", "--set", "training.steps=100"]
    monkeypatch.setattr(checks, "step_seconds", lambda *arguments: 3000.0)  # 83 hours for 100 steps
    assert train(preset, *run) == 2
    message = capsys.readouterr().err
    assert "on this CPU 100 steps take at least 3 d 11 h" in message and "`--yes` trains all the same" in message
    assert not (tmp_path / "run").exists()
    assert train(preset, *run, "--stop-at-step", 20) == 0
    message = capsys.readouterr().err
    assert "estimate by the plan: 20 steps take at least 16 h 40 min" in message and "step 1: loss" in message
    assert train(preset, *run, "--stop-at-step", 22) == 0
    assert "2 steps take at least 1 h 40 min" in capsys.readouterr().err
    assert (
        train(preset, *run[:-1], "training.steps=120", "--stop-at-step", 23) == 0
    )  # 98 of 120 steps would be too long
    monkeypatch.setattr(checks, "step_seconds", lambda *arguments: 30_000.0)
    assert train(preset, *run[:-1], "training.steps=24", "--yes") == 0


def test_a_dry_run_mentions_yes_exactly_where_training_asks_for_it(preset, data, tmp_path, capsys, monkeypatch):
    from inrflow_core.planning import checks

    run = ["--data", data, "--out", tmp_path / "run", "--set", "training.steps=100", "--dry-run"]
    for seconds, is_mentioned in ((2500.0, False), (3000.0, True)):  # 69 and 83 hours
        monkeypatch.setattr(checks, "step_seconds", lambda *arguments, seconds=seconds: seconds)
        assert train(preset, *run) == 0
        assert ("asks for `--yes`" in capsys.readouterr().out) == is_mentioned
    assert train(preset, *run, "--plan-for", "h200") == 0
    assert "--yes" not in capsys.readouterr().out
    assert train(preset, *run, "--stop-at-step", 80) == 0  # 67 hours
    assert "--yes" not in capsys.readouterr().out
    assert train(preset, *run[:-1], "--stop-at-step", 20) == 0
    assert train(preset, *run) == 0  # of 100 steps 80 are left
    assert "--yes" not in capsys.readouterr().out
