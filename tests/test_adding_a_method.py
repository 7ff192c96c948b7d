"""docs/adding-a-method.md, followed literally: its files in a copy of the code, and its commands in their order."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from PIL import Image

from tests import adding_a_method
from tests.training import forked_commands

CHECKOUT = Path(__file__).parents[1]
LESS = {r"steps = 600": "steps = 6", r"steps = 200": "steps = 3", r"batch = 64": "batch = 8"}
"""What the test changes in the preset of the page, for its time."""


@pytest.fixture(scope="module")
def copy(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("copy")
    for name in ("inrflow_core", "inrflow_cli", "presets"):
        shutil.copytree(CHECKOUT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(CHECKOUT / "pyproject.toml", folder)
    for path, text in adding_a_method.files().items():
        if path.startswith("presets/"):
            for long, short in LESS.items():
                assert len(re.findall(long, text)) == 1
                text = re.sub(long, short, text)
        assert not (folder / path).exists()
        (folder / path).write_text(text, encoding="utf-8")
    return folder


def test_the_pages_files_and_commands_work(copy, tmp_path):
    commands = [command.split() for command in adding_a_method.commands()]
    assert all(name == "inrflow" for name, *_ in commands)
    done = forked_commands.run([{"arguments": arguments} for _, *arguments in commands], tmp_path, copy)
    for command, (code, text) in zip(commands, done, strict=True):
        assert code == 0, f"{' '.join(command)}\n{text}"
    said = {" ".join(command): text for command, (_, text) in zip(commands, done, strict=True)}
    plan = said["inrflow train --preset denoise-digits --dry-run"]
    assert "teacher" in plan and "is unknown" not in plan and "denoise" in plan and "distill" in plan
    assert "step 9 of 9 is saved" in said["inrflow train --preset denoise-digits"]
    (large,) = (text for command, text in said.items() if command.endswith("large.png"))
    assert "32 x 32 pixels" in large
    assert Image.open(tmp_path / "larger.png").size == Image.open(tmp_path / "four.png").size  # one sheet, finer
    assert (tmp_path / "denoise.onnx").stat().st_size > 100_000
    assert not any("denoise" in path.name for path in (CHECKOUT / "inrflow_core" / "methods").iterdir())
