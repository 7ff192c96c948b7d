"""The pages under docs/ keep their word: the Python that they show runs, in its order, on small models and data."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from inrflow_core.metrics import _inputs
from tests import tiny
from tests.datasets import raw

TEN = [*(str(number) for number in range(9)), "torus"]


def python_of(page: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


@pytest.mark.slow
def test_the_python_page_runs_from_top_to_bottom(checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tiny, "NAMES", TEN)
    for name, kind in (("digits-demo", tiny.IMAGE), ("solids-demo", tiny.POINTS)):
        tiny.run_folder(tmp_path / "runs" / name, kind, condition={"classes": len(TEN)})
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save("digit.png")
    names: dict = {}
    for block in python_of(checkout / "docs" / "python.md"):
        exec(compile(block, "python.md", "exec"), names)
    assert names["large"].shape == names["part"].shape == (3, 96, 96, 1)
    assert names["cloud"].shape == (1, 128_000, 3)


def test_the_data_set_of_the_docs_reads_the_same_from_its_folder_and_from_above(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (text,) = python_of(checkout / "docs" / "adding-a-data-set.md")
    (tmp_path / "my_faces.py").write_text(text)
    spec = importlib.util.spec_from_file_location("my_faces", tmp_path / "my_faces.py")
    assert spec is not None and spec.loader is not None
    my_faces = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "my_faces", my_faces)  # dataclasses look their module up
    spec.loader.exec_module(my_faces)
    assert my_faces.NEEDS_SOURCE and not my_faces.IS_READ_BY_SCAN
    config = my_faces.Config(resolution=8)
    for name in ("2019/1.jpg", "2019/2.jpg", "2020/3.jpg"):
        path = tmp_path / "data" / "my-faces" / "faces" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(raw.encoded(1, "JPEG"))
    near, far = (my_faces.scan(tmp_path / "data" / below, config) for below in ("my-faces", "."))
    assert [(split, [item.name for item in items]) for split, items in near.splits.items()] == [
        ("train", ["2019/1.jpg", "2019/2.jpg"]),
        ("val", ["2020/3.jpg"]),
    ]
    assert (far.fingerprint, [item.name for item in far.splits["train"]]) == (
        near.fingerprint,
        [item.name for item in near.splits["train"]],
    )
    assert my_faces.read(near.splits["val"][0], config).values.shape == (8, 8, 3)


def test_the_metric_of_the_docs_is_one(checkout: Path):
    (text,) = python_of(checkout / "docs" / "adding-a-metric.md")
    names: dict = {"__name__": "mean_distance"}
    exec(compile(text, "adding-a-metric.md", "exec"), names)
    assert [names["inputs"](protocol).network for protocol in names["PROTOCOLS"]] == ["inception", "random"]
    rows = np.random.default_rng(0).normal(size=(30, 3)).astype(np.float32)
    shifted = _inputs.Features(rows, rows + np.array([3, 0, 4], dtype=np.float32))
    assert names["compute"](shifted, "random") == pytest.approx(5.0, rel=1e-5)
    assert names["compute"](_inputs.Features(rows, rows), "random") == 0


PAGES = [*Path(__file__).parents[1].glob("*.md"), *Path(__file__).parents[1].glob("docs/**/*.md")]
OTHERS = {"--signal", "--hostfile", "--dependency", "--gpus-per-node", "--gpus-per-task", "--no"}
"""Options of Slurm, DeepSpeed and torchrun that the pages explain."""
PLACEHOLDERS = {
    "tests/PACKAGE/test_FILE.py",
    "inrflow_core/metrics/_NAME_inputs.py",
    "datasets/my_faces.py",
    "samplers/rk4.py",
    "my_samplers/rk4.py",
}
PLACEHOLDERS |= {"tests/PACKAGE/test_BEHAVIOR.py", "tests/datasets/test_my_faces.py", "metrics/mean_distance.py"}
"""Paths in place of those of a reader's own files."""


@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "CHANGELOG.md"], ids=lambda page: page.name)
def test_every_file_that_a_page_names_or_links_exists(page: Path, checkout: Path):
    text = page.read_text(encoding="utf-8")
    named = set(
        re.findall(r"`((?:[\w.-]+/)*\w[\w.-]*\.py|(?:inrflow_core|inrflow_cli|tests|tools|docs)/[\w/.-]+)`", text)
    )
    folders = ("", "inrflow_core", "inrflow_cli", "tests", "tools")
    for path in named - PLACEHOLDERS:
        is_there = any((checkout / folder / path).exists() for folder in folders)
        assert is_there or ("/" not in path and any(checkout.glob(f"inrflow_c*/**/{path}"))), path
    for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
        assert (page.parent / link).exists(), link


def sections_of(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub derives them."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\s-]", "", title.lower()).strip().replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_section_that_a_page_links_exists(page: Path):
    links = re.findall(r"\]\(([^)#:]*)#([^)]+)\)", page.read_text(encoding="utf-8"))
    assert not [
        f"{path}#{name}" for path, name in links if name not in sections_of(page.parent / path if path else page)
    ]


@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "CHANGELOG.md"], ids=lambda page: page.name)
def test_every_option_of_inrflow_in_a_page_exists(page: Path):
    import click
    import typer

    from inrflow_cli import app

    group: Any = typer.main.get_command(app.app)
    context = click.Context(group)
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    fenced = "\n".join(re.findall(r"^```.*?$(.*?)^```$", text, re.DOTALL | re.MULTILINE))
    inline = re.findall(r"`(inrflow [^`]*)`", re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE))
    for line in [*fenced.splitlines(), *(" ".join(words.split()) for words in inline)]:
        for name, words in re.findall(r"\binrflow ([a-z]+)([^#]*)", line):
            command = group.get_command(context, name)
            assert command is not None, name
            if hasattr(command, "commands"):
                command = command.commands.get((words.split() or [""])[0], command)
            known = {"--help", *(option for part in command.params for option in (*part.opts, *part.secondary_opts))}
            assert set(re.findall(r"(?<!\S)--[a-z][a-z0-9-]*", words)) <= known, line


@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "CHANGELOG.md"], ids=lambda page: page.name)
def test_every_option_that_a_page_names_alone_exists(page: Path, checkout: Path):
    import click
    import typer

    from inrflow_cli import app

    group: Any = typer.main.get_command(app.app)
    context = click.Context(group)
    commands = [group, *(group.get_command(context, name) for name in group.list_commands(context))]
    commands += [inner for command in commands[1:] for inner in getattr(command, "commands", {}).values()]
    known = {option for command in commands for part in command.params for option in (*part.opts, *part.secondary_opts)}
    scripts = [*(checkout / "tools").rglob("*.py"), *(checkout / "tests" / "benchmarks").glob("*.py")]
    own = {option for path in scripts for option in re.findall(r"\"(--[a-z-]+)\"", path.read_text(encoding="utf-8"))}
    text = page.read_text(encoding="utf-8")
    named = {
        option
        for words in re.findall(r"`(--[^`]+)`", text)
        for option in re.findall(r"(?<!\S)--[a-z][a-z0-9-]*", words)
    }
    assert named <= known | own | {"--help"} | OTHERS, named - known - own
