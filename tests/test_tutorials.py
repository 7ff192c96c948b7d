"""The tutorials keep their word: every command in them runs as printed, in its order, on small data and with few steps."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from inrflow_cli import app
from inrflow_core.proteins import residues
from tests import protein_files
from tests.datasets import raw
from tests.test_readme import blocks, commands

BRIEF = [
    "training.steps=2",
    "training.save_every=2",
    "training.samples_every=none",
    "training.batch=2",
    "sampler.steps=1",
]
SMALL = {
    "photos-demo": [
        "network.width=32",
        "network.heads=2",
        "network.depth=1",
        "network.latents=16",
        "network.decoder_width=16",
    ],
    "clouds-demo": [
        "network.width=32",
        "network.heads=2",
        "network.depth=2",
        "network.latents=8",
        "domain.num_points=64",
    ],
    "proteins-demo": [
        *("network.width=32", "network.heads=2", "network.depth=1", "method.num_queries=64", "domain.residues=14"),
        *("network.latents=14", "training.held_out_every=none"),
    ],
    "digits-demo": ["network.width=32", "network.heads=2", "network.depth=1"],
    "shapes-demo": [
        *("network.autoencoder.resolution=16", "network.autoencoder.width=8", "network.autoencoder.multipliers=[1,2]"),
        *("network.denoiser.width=16", "network.denoiser.multipliers=[1]", "network.denoiser.head_width=16"),
        *("training.autoencoder.steps=2", "training.autoencoder.batch=2", "domain.num_queries=64"),
    ],
}
"""What makes a training short; the commands are otherwise those of the page."""


def make_photos(folder: Path) -> None:
    """Images of 70 x 90 pixels in two classes."""
    for number in range(24):
        path = folder / "photos" / ("cats", "dogs")[number % 2] / f"{number // 2}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        raw.image(number, size=(90, 70)).save(path)


def make_clouds(folder: Path) -> None:
    """Clouds of 300 points in text, and boxes as meshes in two classes."""
    faces = "f 4 3 2 1\nf 5 6 7 8\nf 1 2 6 5\nf 2 3 7 6\nf 3 4 8 7\nf 4 1 5 8\n"
    corners = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0], [0, 0, 1], [1, 0, 1], [1, 1, 1], [0, 1, 1]])
    for number in range(24):
        random = np.random.default_rng(number)
        points = random.normal(size=(300, 3)) * [1, 2, 0.5]
        lines = ["ply", "format ascii 1.0", "element vertex 300", *(f"property float {axis}" for axis in "xyz")]
        text = "\n".join(" ".join(f"{value:.6f}" for value in row) for row in points)
        (folder / "clouds").mkdir(exist_ok=True)
        (folder / "clouds" / f"{number}.ply").write_text("\n".join([*lines, "end_header", text, ""]))
        path = folder / "meshes" / ("cups", "plates")[number % 2] / f"{number // 2}.obj"
        path.parent.mkdir(parents=True, exist_ok=True)
        vertices = corners * random.uniform(0.5, 1.5, 3)
        path.write_text("".join(f"v {x:.6f} {y:.6f} {z:.6f}\n" for x, y, z in vertices) + faces)


def make_proteins(folder: Path) -> None:
    """Structures of 12 to 16 residues, two new sequences, and the experiments of the same names."""
    for number in range(60):
        path = folder / "structures" / f"{number:04d}.pdb"
        path.parent.mkdir(exist_ok=True)
        letters = np.random.default_rng(number).choice(list(residues.LETTERS), 12 + number % 5)
        path.write_bytes(
            protein_files.pdb(protein_files.pdb_lines(protein_files.structure("".join(letters), seed=number)))
        )
    (folder / "experiments").mkdir()
    for number, name in enumerate(("new1", "new2")):
        letters = "MKTAYIAKQRQI"[number:]
        with (folder / "new.fa").open("a") as file:
            file.write(f">{name}\n{letters}\n")
        lines = protein_files.pdb_lines(protein_files.structure(letters, seed=number, name=name))
        (folder / "experiments" / f"{name}.pdb").write_bytes(protein_files.pdb(lines))


MAKERS = {
    "proteins": make_proteins,
    "own-photos": make_photos,
    "own-clouds": make_clouds,
    "evaluation-for-a-paper": lambda folder: None,  # its digits come with scikit-learn
}
WRITTEN = {
    "proteins": ("fold.pdb", "fold.png", "folds/new1.cif", "results/folds/metrics.json", "folds.html"),
    "own-photos": ("new.png", "new-4x.png", "cat-4x.png", "cats.png", "dogs.png", "results/metrics.json"),
    "evaluation-for-a-paper": ("table.tex", "results/seeds/report.html", "results/guidance/metrics.json"),
    "own-clouds": ("new.png", "new.ply", "finer.ply", "surface.glb", "cup.ply", "shape.glb"),
}


def test_every_tutorial_has_data_for_its_commands(checkout: Path):
    pages = {page.stem for page in (checkout / "docs" / "tutorials").glob("*.md")}
    pages -= {"adding-parts", "planning-on-gpus"}  # test_adding_parts.py, and below
    assert pages == MAKERS.keys() == WRITTEN.keys()


def test_the_plans_of_the_tutorial_on_gpus_are_those_that_it_shows(
    tmp_path: Path, checkout: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    page = (checkout / "docs" / "tutorials" / "planning-on-gpus.md").read_text(encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    codes, printed = [], ""
    for program, *arguments in commands(page):
        assert program == "inrflow" and "--dry-run" in arguments
        codes.append(app.run(arguments))
        printed += " ".join(["", *capsys.readouterr()])
    assert codes == [0, 5, 0]
    plain = re.sub(r"^```sh\n.*?^```$", "", page, flags=re.DOTALL | re.MULTILINE)
    shown = [line for block in blocks(plain, "") for line in block.splitlines()]
    assert len(shown) == 7
    words = " ".join(printed.split())
    for line in ["memory of a process: 108 GB needed, 141 GB on h200: enough", "a step takes 0.66 s", *shown]:
        assert " ".join(line.split()) in words, line


@pytest.mark.slow
@pytest.mark.parametrize("name", MAKERS)
def test_every_command_of_a_tutorial_runs(
    name: str,
    tmp_path: Path,
    checkout: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    text = (checkout / "docs" / "tutorials" / f"{name}.md").read_text(encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    for variable in ("INRFLOW_DATA", "INRFLOW_RUNS"):
        monkeypatch.delenv(variable, raising=False)
    MAKERS[name](tmp_path)
    for program, *arguments in commands(text):
        assert program == "inrflow"
        if arguments[0] == "train":
            preset = arguments[arguments.index("--preset") + 1]
            arguments += [word for one in BRIEF + SMALL[preset] for word in ("--set", one)]
        arguments, _, file = "\0".join(arguments).partition("\0>\0")  # what a shell makes of `> file`
        capsys.readouterr()
        assert app.run(arguments.split("\0")) == 0, arguments
        if file:
            (tmp_path / file).write_text(capsys.readouterr().out)
    for code in blocks(text, "python"):
        exec(code, {})
    for file in WRITTEN[name]:
        assert (tmp_path / file).stat().st_size > 0, file
