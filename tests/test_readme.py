"""The README keeps its word: every command in it runs, in its order, on data of the real layouts made small."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from inrflow_cli import app

SMALL = {
    "training.steps": 2,
    "training.batch": 2,
    "training.save_every": 2,
    "training.held_out_every": "none",
    "training.samples_every": "none",
    "network.width": 32,
    "network.heads": 2,
    "network.depth": 2,
    "network.latents": 16,
    "network.decoder_width": "none",
    "network.decoder_heads": "none",
    "method.num_queries": 16,
    "sampler.steps": 1,
    "eval": "none",
}
"""What makes a training short; the commands are otherwise those of the README."""


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def commands(text: str) -> list[list[str]]:
    """The commands of all shell blocks, in order, without their comments."""
    lines = [line for block in blocks(text, "sh") for line in block.splitlines()]
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def make_raw_data(folder: Path) -> None:
    """ShapeNet and ImageNet as their authors lay them out, with few and small items."""
    random = np.random.default_rng(0)
    for split, count in (("train", 3), ("val", 2), ("test", 1)):
        target = folder / "shapenet" / "ShapeNetCore.v2.PC15k" / "02691156" / split
        target.mkdir(parents=True)
        for index in range(count):
            np.save(target / f"{index:032x}.npy", random.normal(size=(15000, 3)).astype(np.float32))
    for split in ("train", "val"):
        for synset in ("n01440764", "n01443537"):
            target = folder / "imagenet" / split / synset
            target.mkdir(parents=True)
            for index in range(2):
                pixels = random.integers(0, 256, size=(140, 150, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(target / f"{synset}_{index}.JPEG")


def test_every_command_of_the_readme_runs(tmp_path: Path, checkout: Path, monkeypatch: pytest.MonkeyPatch):
    text = (checkout / "README.md").read_text(encoding="utf-8")
    make_raw_data(tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("INRFLOW_DATA", raising=False)
    monkeypatch.delenv("INRFLOW_RUNS", raising=False)
    ran = [words for words in commands(text) if words[0] == "inrflow"]
    assert {words[1] for words in ran} >= {"prepare", "train", "sample", "upsample"}
    for program, *arguments in ran:
        if arguments[0] == "train":
            changed = SMALL | ({"condition.classes": 2} if "imagenet128-xl" in arguments else {})
            arguments += [word for key, value in changed.items() for word in ("--set", f"{key}={value}")]
        assert app.run(arguments) == 0, shlex.join([program, *arguments])
    for block in blocks(text, "python"):
        exec(compile(block, "README.md", "exec"), {})
    assert (tmp_path / "out.ply").read_bytes()[:2000].count(b"element vertex 128000\n") == 1


def test_every_make_target_of_the_readme_is_there(checkout: Path):
    text = (checkout / "README.md").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", (checkout / "Makefile").read_text(), re.MULTILINE))
    mentioned = set(re.findall(r"\bmake ([a-z-]+)", text))
    assert mentioned
    assert mentioned <= targets


def test_every_link_of_the_readme_and_the_docs_leads_somewhere(checkout: Path):
    pages = [checkout / "README.md", *sorted((checkout / "docs").rglob("*.md"))]
    for page in pages:
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8")):
            assert "://" in target or (page.parent / target).exists(), f"{page.name}: {target}"


def test_every_command_of_the_table_is_a_command(checkout: Path):
    text = (checkout / "README.md").read_text(encoding="utf-8")
    named = set(re.findall(r"^\| `inrflow (\w+)", text, re.MULTILINE))
    assert named == set(app.COMMANDS)
