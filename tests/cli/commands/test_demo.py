"""`inrflow demo`: its commands run in its folder alone, a failing training ends the other, and `--quick` makes what it lists."""

from __future__ import annotations

import json
import shlex
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from inrflow_cli import app, console, demo_commands
from inrflow_cli.commands import demo
from inrflow_core.errors import Exit, InrflowError
from inrflow_core.geometry import ply_reader

SHOW = "import json, os, sys; json.dump([sys.argv[1:], os.getcwd(), sorted(os.environ)], open('ran.json', 'w'))"
FAIL_OR_WAIT = """
import signal, sys, time
print("words of", sys.argv[3])
if sys.argv[3] == "bad":
    sys.exit(4)
signal.signal(signal.SIGTERM, lambda *_: sys.exit(130))
open("waiting", "w").close()
time.sleep(60)
"""


@pytest.fixture(autouse=True)
def _fresh_console():
    console.stderr.cache_clear()
    yield
    console.stderr.cache_clear()


def use(monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """Run a script in place of inrflow."""
    monkeypatch.setattr(demo_commands, "INRFLOW", (sys.executable, "-c", script))


def test_a_command_runs_in_the_folder_with_data_and_runs_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    use(monkeypatch, SHOW)
    monkeypatch.setenv("INRFLOW_RUNS", "elsewhere")
    monkeypatch.setenv("INRFLOW_DATA", "elsewhere")
    demo_commands.run(tmp_path, "sample", Path("out.ply"))
    words, folder, names = json.loads((tmp_path / "ran.json").read_text())
    assert words == ["sample", "out.ply"] and Path(folder) == tmp_path
    assert "PATH" in names and not {"INRFLOW_RUNS", "INRFLOW_DATA"} & set(names)


def test_a_failing_command_ends_the_demo_with_its_exit_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    use(monkeypatch, "import sys; sys.exit(3)")
    assert app.run(["demo", str(tmp_path / "out"), "--json"]) == Exit.MISSING
    answer = json.loads(capsys.readouterr().out)
    assert answer["code"] == 3 and "`inrflow prepare glyphs" in answer["error"] and "exit code 3" in answer["error"]


def test_when_one_training_fails_the_other_is_interrupted_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    use(monkeypatch, FAIL_OR_WAIT)
    started = time.monotonic()
    with pytest.raises(
        InrflowError, match="train --preset bad --threads 1 --set a=b` ended with exit code 4"
    ) as caught:
        demo_commands.train(tmp_path, ["good", "bad"], ["--set", "a=b"])
    assert caught.value.code == Exit.INTEGRITY and time.monotonic() - started < 30
    assert "words of bad" in capsys.readouterr().err and "train-bad.log" in (caught.value.hint or "")


def test_curves_are_means_of_whole_lines_that_have_a_loss(tmp_path: Path):
    log = tmp_path / "runs" / "one" / "log.jsonl"
    log.parent.mkdir(parents=True)
    lines = [json.dumps({"step": step, "loss": 2.0 * step}) for step in range(1, 31)]
    log.write_text("\n".join([*lines, json.dumps({"step": 30, "metric": 1}), '{"step": 31, "lo']))
    steps, losses = demo_commands.curve(tmp_path, "one")
    assert steps == [20, 30] and losses == pytest.approx([2 * 10.5, 2 * 25.5])
    assert demo_commands.curve(tmp_path, "none") == ([], [])


def test_the_last_hint_can_be_run_where_the_folder_has_spaces(capsys: pytest.CaptureFixture[str]):
    demo._report(Path("my demo"), demo.Scores(), 1.0, {})
    words = [shlex.split(command) for command in capsys.readouterr().err.split("`")[1::2]]
    assert words[0] == ["inrflow", "sample", "--run", "my demo/runs/glyphs-demo", "--label", "Q", "letter.png"]
    assert words[1] == ["inrflow", "view", "my demo/runs/glyphs-demo"]


def test_settings_of_trainings_are_refused_where_nothing_is_trained(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert app.run(["demo", str(tmp_path), "--quick", "--set", "training.steps=1"]) == Exit.USAGE
    assert "`--set`" in capsys.readouterr().err


@pytest.mark.slow
def test_the_quick_demo_makes_every_file_that_it_lists(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    assert app.run(["demo", "out", "--quick", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert set(answer["files"]) == set(demo.QUICK_FILES) and all(
        Path(path).is_file() for path in answer["files"].values()
    )
    assert ply_reader.read_points(tmp_path / "out" / "out.ply").shape == (128_000, 3)
    coarse, fine = (np.load(tmp_path / "out" / f"solids-{count}.npz")["points"] for count in (256, 4096))
    np.testing.assert_allclose(fine[:, :256], coarse, atol=1e-4)  # the same functions
