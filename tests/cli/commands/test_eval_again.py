"""`inrflow eval` into a folder that has results: the same settings print them, others are refused by name."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from inrflow_cli import console
from inrflow_cli.app import run
from inrflow_core.errors import MissingError, UsageError
from inrflow_core.evaluation import finished, job, results
from inrflow_core.evaluation.sampling_plan import SamplingSettings
from inrflow_core.storage import plain_file
from tests import tiny

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (24, 8, 8, 1), dtype=np.uint8)
WORDS = ["--samples", "a.npz", "--reference", "b.npz", "--metrics", "fid:random,kid:random"]


@pytest.fixture(scope="module")
def finished_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("again")
    tiny.run_folder(folder / "run", tiny.IMAGE, domain={"name": "image", "resolution": 8, "channels": 1})
    np.savez(folder / "a.npz", images=IMAGES)
    np.savez(folder / "b.npz", images=255 - IMAGES)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert evaluate(*WORDS, "--run", "run", "--num", "10") == 0
    return folder


@pytest.fixture(autouse=True)
def _working_folder(tmp_path, monkeypatch, finished_folder):
    shutil.copytree(finished_folder, tmp_path / "files")
    monkeypatch.chdir(tmp_path / "files")
    console.stderr.cache_clear()
    yield
    console.stderr.cache_clear()


def evaluate(*words) -> int:
    return run(["eval", *map(str, words), "--out", "out"])


def again(*words) -> int:
    """The same command, with more words."""
    return evaluate(*WORDS, "--run", "run", "--num", "10", *words)


def test_the_same_command_prints_the_stored_scores_and_computes_nothing(capsys):
    files = {path: path.stat().st_mtime_ns for path in Path("out").rglob("*") if path.is_file()}
    assert again("--json") == 0
    shown = capsys.readouterr()
    assert json.loads(shown.out) == {"out": "out", **json.loads(Path("out/metrics.json").read_text())}
    assert "was finished before with the same settings" in shown.err and "`--overwrite` measures" in shown.err
    assert "sampling" not in shown.err and "samples/s" in shown.err
    assert again("--batch", "3", "--workers", "1", "--device", "cpu") == 0
    table = capsys.readouterr().out
    assert "FID" in table and "KID" in table and table.count("run") == 1
    assert {path: path.stat().st_mtime_ns for path in Path("out").rglob("*") if path.is_file()} == files


def test_a_dry_run_prints_the_plan_and_whether_it_is_finished(capsys):
    assert again("--dry-run", "--json") == 0
    shown = capsys.readouterr()
    plan = {"metrics": ["fid:random", "kid:random"], "missing": [], "seconds": 0, "is_finished": True}
    assert json.loads(shown.out) == plan
    assert "`out` is finished with these settings" in shown.err and "FID" not in shown.err
    assert again("--dry-run", "--json", "--overwrite") == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["metrics"] == ["fid:random", "kid:random"] and plan["seconds"] > 0 and not plan["is_finished"]


def test_the_table_is_the_one_that_the_evaluation_printed(capsys):
    assert again("--overwrite") == 0
    first = capsys.readouterr().out
    assert again() == 0
    assert capsys.readouterr().out == first
    assert again("--format", "csv") == 0
    assert len(capsys.readouterr().out.splitlines()) == 5


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--num", "9"], "`--num` = 10, and this command says 9"),
        (["--steps", "3"], "`--steps` = none, and this command says 3"),
        (["--set", "sampler.temperature=0.5"], "`--set` = none, and this command says sampler.temperature=0.5"),
        (["--metrics", "kid:random"], "`--metrics` = fid:random, kid:random"),
        (["--reference-num", "20"], "`--reference"),
        (["--no-copies"], "`--copies` = yes, and this command says no"),
        (["--seed", "1"], "`--seed` = 0, and this command says 1"),
        (["--name", "ours", "--name", "theirs"], "`--name` = none, and this command says theirs"),
    ],
)
def test_other_settings_are_refused_by_name(words, named, capsys):
    before = Path("out/metrics.json").read_bytes()
    changed = [word for word in words if word != "--metrics"]
    if "--metrics" in words:
        code = evaluate(*WORDS[:4], "--metrics", changed[0], "--run", "run", "--num", "10")
    else:
        code = again(*words)
    error = " ".join(capsys.readouterr().err.split())
    assert code == 2 and "error: `out/metrics.json` exists already, with `--" in error and named in error
    assert "`--overwrite`" in error and Path("out/metrics.json").read_bytes() == before


def test_inputs_are_compared_by_what_they_hold(capsys):
    shutil.move("a.npz", "sub-a.npz")
    np.savez("a.npz", images=IMAGES[::-1])
    assert again() == 2
    assert "`--samples` = a.npz (" in " ".join(capsys.readouterr().err.split())
    shutil.move("sub-a.npz", "a.npz")
    assert again() == 0


def test_results_that_were_changed_or_do_not_record_their_settings_are_refused(capsys):
    text = Path("out/metrics.json").read_text()
    Path("out/metrics.json").write_text(text.replace("fid", "fit", 1))
    assert again() == 2
    assert "was changed since it was written" in " ".join(capsys.readouterr().err.split())
    Path("out/metrics.json").write_text(text)
    settings = Path("out/cache") / finished.SETTINGS
    recorded = json.loads(settings.read_text())["settings"]
    Path("out/metrics.json").write_text(text.replace('"missing": []', '"missing": ["fid:adm"]'))
    record = json.loads(settings.read_text())
    settings.write_text(json.dumps(record | {"metrics": plain_file.file_digest(Path("out/metrics.json"))}))
    with pytest.raises(UsageError, match="lacks metrics whose weights are here now"):
        finished.stored(Path("out"), Path("out/cache"), recorded, {})
    absent = {"fid:adm": MissingError("absent")}
    stored = finished.stored(Path("out"), Path("out/cache"), recorded, absent)
    assert stored is not None and list(stored.skipped_metrics) == ["fid:adm"]
    Path("out/metrics.json").write_text(text)
    settings.write_text(json.dumps(record))
    complete = finished.stored(Path("out"), Path("out/cache"), recorded, absent)  # weights that went away since
    assert complete is not None and len(complete.scored[0].scores) == 2
    page = Path("out/report.html").read_text()
    Path("out/report.html").write_text(page + " ")
    capsys.readouterr()
    assert again() == 2
    assert "`out/report.html` exists already, and was changed" in " ".join(capsys.readouterr().err.split())
    Path("out/report.html").write_text(page)
    settings.unlink()
    assert again() == 2
    assert "error: `out/metrics.json` exists already\n" in capsys.readouterr().err


def test_an_interrupted_overwrite_leaves_no_record_of_the_earlier_results(monkeypatch, capsys):
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(results.Results, "save", interrupted)
        assert again("--seed", "7", "--overwrite") == 130
    capsys.readouterr()
    assert again() == 2
    assert "error: `out/metrics.json` exists already\n" in capsys.readouterr().err
    assert again("--overwrite") == 0 and again() == 0


def test_a_memorization_set_is_compared_by_what_it_holds(capsys):
    np.savez("c.npz", images=IMAGES)
    assert again("--memorization-set", "c.npz", "--overwrite") == 0
    assert again("--memorization-set", "c.npz") == 0
    np.savez("c.npz", images=255 - IMAGES)
    capsys.readouterr()
    assert again("--memorization-set", "c.npz") == 2
    assert "`--memorization-set` = c.npz (" in " ".join(capsys.readouterr().err.split())


def test_in_python_finished_results_are_returned_and_not_written_again():
    inputs = {"runs": [Path("run")], "samples": [Path("a.npz")], "reference": Path("b.npz")}
    sampling = SamplingSettings(num=10)
    ready = job.check_job(
        job.EvaluationJob(Path("out"), **inputs, metrics=["fid:random", "kid:random"], sampling=sampling)
    )
    before = Path("out/metrics.json").stat().st_mtime_ns
    assert ready.stored is not None and job.run_evaluation(ready) is ready.stored
    assert Path("out/metrics.json").stat().st_mtime_ns == before
