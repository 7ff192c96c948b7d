"""docs/tutorials/adding-parts.md, followed literally: its files in a copy of the code, and its commands in their order."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from tests.adding_a_method import BLOCK, PATH
from tests.training import forked_commands

CHECKOUT = Path(__file__).parents[1]
BLOCKS = BLOCK.findall((CHECKOUT / "docs" / "tutorials" / "adding-parts.md").read_text(encoding="utf-8"))
BRIEF = ["training.steps=4", "training.save_every=4", "training.samples_every=none", "training.held_out_every=none"]
BRIEF += ["network.width=32", "network.depth=1", "network.decoder_width=16", "sampler.steps=4"]
"""What makes the training of the page short."""


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("copy")
    for name in ("inrflow_core", "inrflow_cli", "presets"):
        shutil.copytree(CHECKOUT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(CHECKOUT / "pyproject.toml", folder)
    for language, text in BLOCKS:
        head = PATH.match(text)
        if language == "python":
            assert head is not None and not (folder / head[1]).exists()
            (folder / head[1]).write_text(text[head.end() :], encoding="utf-8")
    return folder


@pytest.mark.slow
def test_the_pages_files_and_commands_work(copy: Path, tmp_path: Path):
    lines = [line.split() for language, text in BLOCKS if language == "bash" for line in text.splitlines()]
    jobs = []
    for program, *arguments in lines:
        assert program == "inrflow"
        extra = [word for one in BRIEF if arguments[0] == "train" for word in ("--set", one)]
        jobs.append({"arguments": arguments + extra})
    done = forked_commands.run(jobs, tmp_path, copy)
    for line, (code, text) in zip(lines, done, strict=True):
        assert code == 0, f"{' '.join(line)}\n{text}"
    said = {" ".join(line): text for line, (_, text) in zip(lines, done, strict=True)}
    assert "stripes" in said["inrflow prepare --list"] and "variance-ratio" in said["inrflow eval --list"]
    assert Image.open(tmp_path / "narrow-6x.png").size > Image.open(tmp_path / "narrow.png").size
    scores = (tmp_path / "results" / "stripes" / "metrics.json").read_text()
    real = json.loads((tmp_path / "results" / "real" / "metrics.json").read_text())
    (score,) = real["results"][0]["scores"]
    assert score["metric"].startswith("variance-ratio") and 0.7 < score["value"] < 1.4
    assert '"variance-ratio' in scores and '"kid' in scores and "ralston" in scores
