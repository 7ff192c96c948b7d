"""`inrflow eval` `--format`, `--name` and `--dry-run`, and `eval` of the newest run."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest

from inrflow_cli import console
from inrflow_cli.app import run
from inrflow_cli.views import score_formats
from inrflow_core.preparation import job, pipeline
from tests import tiny

NUMBER = r"-?\d+(?:\.\d+)?(?:e[+-]?\d+)?"


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    """Two sets of samples and a reference of small gray images."""
    folder = tmp_path_factory.mktemp("formats")
    for seed, name in enumerate(("real", "a_1", "b")):
        images = np.random.default_rng(seed).integers(0, 200 + 20 * seed, (24, 8, 8, 1), dtype=np.uint8)
        np.savez(folder / f"{name}.npz", images=images)
    return folder


@pytest.fixture(autouse=True)
def _working_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    console.stderr.cache_clear()
    yield
    console.stderr.cache_clear()


def scores(files: Path, capsys, form: str) -> tuple[str, list[dict]]:
    """What is printed on stdout, and the results in metrics.json."""
    sets = [
        "--samples",
        files / "a_1.npz",
        "--samples",
        files / "b.npz",
        "--reference",
        files / "real.npz",
        "--no-copies",
    ]
    words = [*sets, "--metrics", "fid:random,kid:random", "--out", "out", "--overwrite", "--format", form]
    assert run(["eval", *map(str, words)]) == 0
    captured = capsys.readouterr()
    assert "FID" in captured.err  # the table, where stdout is for a program
    return captured.out, json.loads(Path("out/metrics.json").read_text())["results"]


def test_csv_has_every_score_with_all_its_digits(files, capsys):
    text, results = scores(files, capsys, "csv")
    rows = list(csv.DictReader(io.StringIO(text)))
    assert tuple(rows[0]) == score_formats.COLUMNS
    expected = [(one["name"], score) for one in results for score in one["scores"]]
    assert [(row["samples"], row["metric"], float(row["value"])) for row in rows] == [
        (name, score["metric"], score["value"]) for name, score in expected
    ]
    for row, (_, score) in zip(rows, expected, strict=True):
        assert [float(row["low"]), float(row["high"])] == score["interval"]
        assert row["higher_is_better"] == "false" and int(row["num_samples"]) == 24


@pytest.mark.parametrize("form", ["latex", "markdown"])
def test_tables_have_a_row_for_each_set_and_a_column_for_each_metric(files, capsys, form):
    text, results = scores(files, capsys, form)
    is_latex = form == "latex"
    lines = text.splitlines()
    rows = [line.strip(" |\\").split(" & " if is_latex else " | ") for line in (lines[3:-1] if is_latex else lines[2:])]
    assert [row[0] for row in rows] == [r"a\_1.npz" if is_latex else "a_1.npz", "b.npz"]
    for row, one in zip(rows, results, strict=True):
        for cell, score in zip(row[1:], one["scores"], strict=True):
            value, reach = map(float, re.findall(NUMBER, cell))
            low, high = score["interval"]
            assert abs(value - score["value"]) <= (high - low) / 2 and reach == pytest.approx((high - low) / 2, rel=0.1)
    if is_latex:
        assert lines[0] == r"\begin{tabular}{lrr}" and lines[-1] == r"\end{tabular}"
        assert (
            "KID random ($10^{-3}$) $\\downarrow$" in lines[1] and lines[1].endswith(r" \\") and lines[2] == r"\hline"
        )


@pytest.mark.parametrize(("columns", "names"), [(80, ["a_1"]), (50, ["a_1"]), (50, ["a_1", "b"])])
def test_the_table_of_a_narrow_terminal_has_every_name_and_value_unbroken(files, capsys, monkeypatch, columns, names):
    monkeypatch.setenv("COLUMNS", str(columns))
    sets = [word for name in names for word in ("--samples", str(files / f"{name}.npz"))]
    words = [*sets, "--reference", str(files / "real.npz"), "--no-copies", "--out", "out"]
    assert run(["eval", *words, "--metrics", "fid:random,kid:random,recall:random"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= columns
    for one in json.loads(Path("out/metrics.json").read_text())["results"]:
        for score in one["scores"]:
            (head,) = [index for index, line in enumerate(lines) if re.match(rf" {score['title']} [↑↓]", line)]
            block = lines[head : head + 3 + len(names)] if len(names) > 1 else [lines[head]]
            (row,) = [line for line in block if one["name"] in line or len(names) == 1]
            value = float(re.findall(rf"({NUMBER})\s+±", row)[0])
            low, high = score["interval"]
            assert abs(value - score["value"]) <= (high - low) / 2


def test_the_search_for_copies_is_part_of_the_estimate_unless_it_is_left_out(files, tmp_path, capsys):
    pipeline.prepare(job.resolve_job("digits", out=tmp_path / "digits", limit=40), workers=1)
    words = ["eval", "--samples", str(files / "b.npz"), "--reference", "digits", "--dry-run", "--out", "out"]
    assert run([*words, "--json"]) == 0
    shown = capsys.readouterr()
    assert "search for copies among 40 training images" in shown.err and json.loads(shown.out)["seconds"] > 0
    assert run([*words, "--no-copies"]) == 0
    assert "search for copies" not in capsys.readouterr().out


def test_names_are_labels_in_table_page_metrics_and_formats(files, tmp_path, capsys):
    tiny.run_folder(tmp_path / "mine", tiny.IMAGE, domain={"name": "image", "resolution": 8, "channels": 1})
    words = ["--samples", str(files / "b.npz"), "--run", "mine", "--reference", str(files / "real.npz"), "--no-copies"]
    words += ["--metrics", "kid:random", "--num", "24", "--format", "latex", "--out", "out"]
    labels = ["GAN & co", "ours, w/o <b>"]
    assert run(["eval", *words, "--name", labels[0], "--name", labels[1]]) == 0
    captured = capsys.readouterr()
    assert all(f"evaluating 24 samples of `{label}`" in captured.err for label in labels)
    assert r"GAN \& co &" in captured.out and "ours, w/o <b> &" in captured.out
    metrics = json.loads(Path("out/metrics.json").read_text())
    assert [one["name"] for one in metrics["results"]] == labels and metrics["results"][1]["facts"]["run"] == labels[1]
    page = Path("out/report.html").read_text()
    assert "<title>Evaluation of GAN &amp; co and 0" not in page and "ours, w/o &lt;b&gt;" in page
    assert sorted(path.name for path in Path("out/samples").glob("*.h5")) == ["mine.h5"]
    before = Path("out/samples/mine.h5").stat().st_mtime_ns
    assert run(["eval", *words, "--overwrite"]) == 0  # other labels, the same samples
    assert Path("out/samples/mine.h5").stat().st_mtime_ns == before
    names = [one["name"] for one in json.loads(Path("out/metrics.json").read_text())["results"]]
    assert names == ["b.npz", "mine"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--name", "a"], "1 names, and 2 `--samples` and 0 runs"),
        (["--name", "a", "--name", "a"], "`--name a` is there twice"),
        (["--name", "a", "--name", "b\n"], "`--name 'b\\n'` is not a line of text"),
    ],
)
def test_names_are_one_for_each_set_in_order(files, words, says, capsys):
    sets = ["--samples", files / "a_1.npz", "--samples", files / "b.npz", "--reference", files / "real.npz"]
    assert run(["eval", *map(str, sets), "--out", "out", *words]) == 2
    assert says in capsys.readouterr().err


def test_latex_prints_special_characters_as_they_are():
    assert score_formats.escape_latex("50 % of a_b {x} \\ ~^&#$") == (
        r"50 \% of a\_b \{x\} \textbackslash{} \textasciitilde{}\textasciicircum{}\&\#\$"
    )


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--format", "latx"], "scores cannot be printed as `latx`\n\nhint: did you mean `latex`?"),
        (["--format", "csv", "--json"], "`--json` does not apply with `--format`"),
        (["--format", "csv", "--dry-run"], "`--dry-run` does not apply with `--format`"),
    ],
)
def test_a_format_that_is_not_there_or_contradicts_is_refused(words, says, capsys):
    assert run(["eval", "--samples", "x.npz", "--out", "out", *words]) == 2
    assert says in capsys.readouterr().err


def test_without_a_run_and_samples_the_newest_run_is_evaluated(files, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("INRFLOW_RUNS", str(tmp_path / "all"))
    assert run(["eval", "--out", "out"]) == 2
    message = capsys.readouterr().err
    assert "nothing to evaluate: looked for a run" in message and "add `--run DIR` or `--samples PATH`" in message
    tiny.run_folder(tmp_path / "all/mine", tiny.IMAGE, domain={"name": "image", "resolution": 8, "channels": 1})
    words = ["--reference", str(files / "real.npz"), "--metrics", "kid:random", "--num", "24", "--no-copies"]
    assert run(["eval", *words, "--out", "out"]) == 0
    assert f"evaluating the latest run, `{tmp_path}/all/mine`" in capsys.readouterr().err
    assert [one["name"] for one in json.loads(Path("out/metrics.json").read_text())["results"]] == ["mine"]


def test_the_list_of_metrics_is_readable_in_a_pipe(capsys, monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)
    assert run(["eval", "--list"]) == 0
    out = capsys.readouterr().out
    assert "fid: FID, image, lower is better, default: random\n  clean torch-fidelity adm random\n" in out
    monkeypatch.setenv("COLUMNS", "400")
    assert run(["eval", "--list"]) == 0
    assert max(map(len, capsys.readouterr().out.splitlines())) > 200
