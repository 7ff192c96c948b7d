"""`inrflow presets`: the table without torch, one preset, and a copy to edit."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from inrflow_cli import app, console
from inrflow_core.config import preset, preset_table
from inrflow_core.planning import gpu_specs

HEAVY = ("torch", "numpy", "h5py", "deepspeed")


@pytest.fixture(autouse=True)
def _own_stderr(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("COLUMNS", "200")
    console.stderr.cache_clear()
    yield
    console.stderr.cache_clear()


def test_the_table_lists_every_preset_without_torch():
    code = (
        "import sys; from inrflow_cli.app import run; code = run(['presets', '--json']);"
        f"heavy = set({HEAVY}) & set(sys.modules); sys.exit(code or ' '.join(heavy) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    listing = json.loads(done.stdout)
    assert listing["gpu"] == "h200" and [row["name"] for row in listing["presets"]] == preset.names()
    assert all(row["parameters"] > 0 and row["training_flops"] > 0 and row["what"] for row in listing["presets"])
    assert all(name in done.stderr for name in preset.names())


def test_a_plan_for_the_gpu_of_the_table_says_its_hours_beside_its_own(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert app.run(["presets", "solids-demo", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)["gpu_hours"]
    assert (
        app.run(
            ["train", "--preset", "solids-demo", "--dry-run", "--plan-for", "h200", "--precision", "bf16", "--json"]
        )
        == 0
    )
    out, text = capsys.readouterr()
    plan = json.loads(out)
    assert plan["needed_gpu_hours"] == pytest.approx(listed, rel=1e-5) and plan["gpu_hours"] > listed
    assert f"; {listed:.3g} by the FLOPs needed alone, which `inrflow presets` counts in bf16" in text


def test_a_preset_is_described_with_its_figures_and_the_commands_that_train_it(capsys):
    assert app.run(["presets", "imagenet128-xl", "--json"]) == 0
    out, text = capsys.readouterr()
    row = json.loads(out)
    assert (row["parameters"], row["paper"], row["dataset"]) == (732_986_211, "FID 2.73", "imagenet")
    assert row["stages"] == [{"steps": 1_700_000, "batch": 512}]
    assert row["training_flops"] == pytest.approx(1_700_000 * 512 * 3 * 1.331e12, rel=1e-3)
    assert row["gpu_hours"] == pytest.approx(row["training_flops"] / (0.4 * 989e12) / 3600)
    for line in ("733M", "FID 2.73", row["prepare"], "inrflow train --preset imagenet128-xl --dry-run"):
        assert line in text


def test_the_help_says_the_share_of_the_peak_that_is_assumed():
    from inrflow_cli.commands import presets

    assert f"{gpu_specs.ASSUMED_MFU['bf16']:.0%}".replace("%", " %") in (presets.presets.__doc__ or "")


def test_a_copy_trains_as_the_preset_and_keeps_its_comments(tmp_path: Path, capsys):
    copy = tmp_path / "mine.toml"
    assert app.run(["presets", "digits-demo", "--copy", str(copy), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"out": str(copy), "preset": "digits-demo"}
    assert copy.read_bytes() == (preset.folder() / "digits-demo.toml").read_bytes()
    loaded = preset.load(str(copy))
    assert loaded.name == "mine" and loaded.table() == preset.load("digits-demo").table()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["digits-dmo"], "hint: did you mean `digits-demo`, `digits-ddmi-demo` or `digits-inrct-demo`?"),
        (["digits-demo", "--copy", "mine"], "`mine` does not end in `.toml`"),
        (["digits-demo", "--copy", "there.toml"], "`there.toml` exists already"),
        (["digits-demo", "--overwrite"], "`--overwrite` needs `--copy FILE.toml`"),
        (["--copy", "mine.toml"], "`--copy` needs the name of a preset"),
    ],
)
def test_what_cannot_be_listed_or_copied_is_an_error(words, says, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there.toml").write_text("mine")
    assert app.run(["presets", *words]) == 2
    assert says in capsys.readouterr().err
    assert (tmp_path / "there.toml").read_text() == "mine" and len(list(tmp_path.iterdir())) == 1


def test_a_preset_that_is_not_in_the_file_of_sizes_is_listed_without_them(tmp_path, monkeypatch, capsys):
    (tmp_path / "mine.toml").write_bytes((preset.folder() / "digits-demo.toml").read_bytes())
    (tmp_path / preset_table.SIZES).write_text("{}")
    monkeypatch.setattr(preset, "folder", lambda: tmp_path)
    preset_table.all_sizes.cache_clear()
    try:
        assert app.run(["presets", "--json"]) == 0
    finally:
        preset_table.all_sizes.cache_clear()
    (row,) = json.loads(capsys.readouterr().out)["presets"]
    assert (row["name"], row["parameters"], row["gpu_hours"]) == ("mine", None, None)
    assert row["stages"] == [{"steps": 1100, "batch": 64}]
