"""`inrflow eval` of predicted structures: from files to the table, metrics.json and the page."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from inrflow_cli import console
from inrflow_cli.app import run
from inrflow_core.proteins import residues
from tests.protein_examples import helix, shaken, write

SEQUENCES = {
    f"p{number:02d}": "".join(np.random.default_rng(number).choice(list("ACDEFGHIKLMNPQRSTVWY"), 12 + number))
    for number in range(21)
}


@pytest.fixture(autouse=True)
def _working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    console.stderr.cache_clear()
    yield
    console.stderr.cache_clear()


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """21 references, and two predictions of each: the second is worse, and all the more the longer the protein."""
    for index, (name, sequence) in enumerate(SEQUENCES.items()):
        structure = helix(sequence, name)
        write(tmp_path / "experiments" / f"{name}.pdb", structure)
        for number, size in enumerate((0.1, 0.2 + 0.1 * index)):
            write(tmp_path / "predictions" / name / f"{number}.pdb", shaken(structure, size, index))
    return tmp_path / "predictions", tmp_path / "experiments"


def evaluate(*words: object) -> int:
    return run(["eval", *map(str, words)])


def scores(folder: Path) -> dict[str, dict]:
    metrics = json.loads((folder / "metrics.json").read_text())
    return {score["metric"]: score for score in metrics["results"][0]["scores"]}


def test_a_folder_of_predictions_is_compared_with_the_references_of_their_names(
    folders: tuple[Path, Path], tmp_path: Path
):
    predictions, experiments = folders
    assert evaluate("--samples", predictions, "--reference", experiments, "--out", "out") == 0
    by_metric = scores(tmp_path / "out")
    assert list(by_metric) == [
        "lddt:ca:auto:mean", "tm-score:reference:auto:mean", "rmsd:ca:auto:mean", "bond-lengths:backbone", "clashes:heavy",
    ]  # fmt: skip
    for score in by_metric.values():
        assert (score["samples"], score["reference"]) == (42, 21)
    lddt = by_metric["lddt:ca:auto:mean"]
    low, high = lddt["interval"]
    assert 0.6 < low < lddt["value"] < high < 1 and lddt["note"].startswith("best of 2 samples of each protein: 0.9")
    assert by_metric["bond-lengths:backbone"]["note"] == "of the references: 100 %"
    items = json.loads((tmp_path / "out" / "metrics.json").read_text())["results"][0]["items"]
    assert list(items) == list(by_metric)
    for name, values in items.items():
        assert sorted(values) == sorted(SEQUENCES)
        assert np.mean([*values.values()]) == pytest.approx(by_metric[name]["value"], rel=1e-12)


def test_the_page_shows_the_worst_and_the_best_first(folders: tuple[Path, Path], tmp_path: Path):
    predictions, experiments = folders
    assert evaluate("--samples", predictions, "--reference", experiments, "--out", "out", "--metrics", "rmsd") == 0
    page = (tmp_path / "out" / "report.html").read_text()
    section = page[page.index('id="proteins"') : page.index('id="histograms"')]
    rows = re.findall(r'<th scope="row">(p\d\d)</th>', section)
    assert "20 of 21: the worst and the best by lDDT" in section
    assert len(rows) == 20 and {"p19", "p20"} <= set(rows[:5]) and {"p00", "p01"} <= set(rows[-5:])
    captions = re.findall(r"<figcaption>(p\d\d)", section)
    assert captions == [*rows[:4], *rows[-4:]]
    assert section.count("#d9731a") > 8 and section.count("#2f8f4e") > 8


def test_one_prediction_is_compared_with_one_reference(folders: tuple[Path, Path], tmp_path: Path):
    sample, reference = folders[0] / "p05" / "0.pdb", folders[1] / "p05.pdb"
    assert evaluate("--samples", sample, "--reference", reference, "--metrics", "lddt,lddt:best", "--out", "out") == 0
    by_metric = scores(tmp_path / "out")
    assert by_metric["lddt:ca:auto:mean"]["value"] == by_metric["lddt:ca:auto:best"]["value"]
    assert by_metric["lddt:ca:auto:mean"]["interval"] is None and by_metric["lddt:ca:auto:mean"]["note"] is None


def test_the_same_files_always_have_the_same_scores(folders: tuple[Path, Path], tmp_path: Path):
    for out in ("a", "b"):
        assert evaluate("--samples", folders[0], "--reference", folders[1], "--out", out) == 0
    for name in ("metrics.json", "report.html"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_one_sample_without_atoms_in_common_loses_no_metric_that_does_without(
    folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    whole = helix(SEQUENCES["p00"])
    owner, slot = residues.atom_layout(whole.codes)
    write(folders[0] / "p00" / "2.pdb", replace(whole, is_known=whole.is_known & (slot == 0)))  # N alone
    assert evaluate("--samples", folders[0], "--reference", folders[1], "--out", "out") == 2
    assert set(scores(tmp_path / "out")) == {"clashes:heavy"}
    assert "too few atoms of `p00/2`" in capsys.readouterr().err
    assert 'id="proteins"' not in (tmp_path / "out" / "report.html").read_text()


def test_what_cannot_be_evaluated_is_refused(
    folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    predictions, experiments = folders
    np.save(tmp_path / "clouds.npy", np.zeros((4, 7, 3), dtype=np.float32))

    def refused(*words: object) -> str:
        assert evaluate(*words, "--out", "out") == 2
        return capsys.readouterr().err

    assert "are point clouds, and the reference" in refused("--samples", "clouds.npy", "--reference", experiments)
    assert "`--points` does not apply to proteins" in refused(
        "--samples", predictions, "--reference", experiments, "--points", 9
    )
    assert "evaluates images, and these are proteins" in refused(
        "--samples", predictions, "--reference", experiments, "--metrics", "fid"
    )
    (tmp_path / "others").mkdir()
    for number in (1, 2):
        write(tmp_path / "others" / f"other-{number}.pdb", helix("ACDEFG"))
    assert "has the name of a reference" in refused("--samples", "others", "--reference", experiments)
