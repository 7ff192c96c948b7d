"""`inrflow runs`: which runs it lists, which it reports as unreadable, and that it imports no torch."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from inrflow_cli.app import run
from inrflow_core.runs import loss_curves
from inrflow_core.runs.run import open_run
from tests import tiny

HEAVY = ("torch", "h5py", "deepspeed")


@pytest.fixture
def parent(tmp_path: Path) -> Path:
    """A run of points of step 3, and one whose preset is not TOML."""
    tiny.run_folder(tmp_path / "clouds", tiny.POINTS, step=3)
    (tmp_path / "clouds" / "log.jsonl").write_text('{"step": 3, "loss": 0.5}\n')
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "preset.toml").write_text("x = [")
    return tmp_path


def test_runs_are_listed_without_torch_and_the_unreadable_named(parent: Path):
    code = (
        "import sys; from inrflow_cli.app import run; code = run(['runs', sys.argv[1], '--json']);"
        f"heavy = set({HEAVY}) & set(sys.modules); sys.exit(code or ' '.join(heavy) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(parent)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    listing = json.loads(done.stdout)
    size = sum(path.stat().st_size for path in (parent / "clouds").rglob("*") if path.is_file())
    assert listing["runs"] == [
        {"run": str(parent / "clouds"), "preset": "tiny", "step": 3, "loss": 0.5, "best": None, "bytes": size}
    ]
    assert [one["run"] for one in listing["unreadable"]] == [str(parent / "begun")]
    assert "TOML" in listing["unreadable"][0]["error"]


def test_a_named_folder_that_does_not_exist_is_refused_with_the_nearest(
    parent: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(parent)
    monkeypatch.setenv("INRFLOW_RUNS", "later")
    assert run(["runs"]) == 0 and "no runs in `later`" in capsys.readouterr().err
    for name, hint in (
        ("cluods", "did you mean `clouds`?"),
        ("clouds/chekpoints", "did you mean `clouds/checkpoints`?"),
        ("nothing/alike", "name a folder of runs; without one those in `$INRFLOW_RUNS`"),
    ):
        assert run(["runs", name]) == 2
        error = " ".join(capsys.readouterr().err.split())
        assert f"error: the folder `{name}` does not exist hint: {hint}" in error
    monkeypatch.setenv("INRFLOW_RUNS", str(parent))
    monkeypatch.chdir(parent / "clouds")
    assert run(["runs", "clouds"]) == 2
    assert "`inrflow runs --run clouds` lists the run of that name" in capsys.readouterr().err
    assert run(["runs", "preset.toml"]) == 2 and "`preset.toml` is not a folder" in capsys.readouterr().err


def test_a_run_with_a_setting_of_another_version_is_listed(parent: Path, capsys: pytest.CaptureFixture[str]):
    preset = parent / "clouds" / "preset.toml"
    preset.write_text(preset.read_text().replace("[network]", "[network]\nof_a_later_version = 1"))
    assert run(["runs", str(parent), "--json"]) == 0
    assert [row["run"] for row in json.loads(capsys.readouterr().out)["runs"]] == [str(parent / "clouds")]


def test_a_run_of_an_unknown_part_is_unreadable(parent: Path, capsys: pytest.CaptureFixture[str]):
    preset = parent / "clouds" / "preset.toml"
    preset.write_text(preset.read_text().replace('name = "heun"', 'name = "hein"').replace('"euler"', '"hein"'))
    assert run(["runs", str(parent), "--json"]) == 0
    listing = json.loads(capsys.readouterr().out)
    assert listing["runs"] == [] and "`hein`" in listing["unreadable"][1]["error"]


def test_a_plot_has_the_losses_of_the_selected_runs(parent: Path, capsys: pytest.CaptureFixture[str]):
    out = parent / "curves.png"
    arguments = ["runs", str(parent), "--run", "clouds", "--plot", str(out)]
    assert run([*arguments, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["plot"] == str(out)
    assert Image.open(out).size == (768, 432) and Image.open(out).info["runs"] == "clouds"
    assert run(arguments) == 2, "it exists"
    assert run(["runs", str(parent), "--plot", str(parent / "curves.jpg")]) == 2
    (parent / "clouds" / "log.jsonl").unlink()
    assert run([*arguments, "--overwrite"]) == 3
    assert run([*arguments[:3], "cloud", "--plot", str(out), "--overwrite"]) == 3
    assert "did you mean `clouds`?" in capsys.readouterr().err


def test_a_curve_is_the_mean_of_equal_parts_of_the_log_by_stage(parent: Path):
    lines = [{"step": step, "loss": float(step % 2)} for step in range(1, 401)]
    lines += [
        {"step": 7, "stage": "full", "held_out_loss": 0.25},
        {"step": 8, "loss": None},
        {"step": 9, "loss": float("nan")},
    ]
    (parent / "clouds" / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    curves = loss_curves.loss_curves(open_run(parent / "clouds"))
    assert curves["full: held-out loss"] == ([7], [0.25])
    assert curves["loss"] == (list(range(4, 404, 4))[:-1] + [400], [0.5] * 100)
    assert curves.keys() == {"loss", "full: held-out loss"}
