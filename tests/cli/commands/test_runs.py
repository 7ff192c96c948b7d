"""`inrflow runs`: which runs it lists, which it reports as unreadable, and that it imports no torch."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from inrflow_cli.app import run
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
