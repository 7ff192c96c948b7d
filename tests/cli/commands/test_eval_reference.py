"""`inrflow eval --run`: the reference that a run brings, and the labels that follow the reference."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from inrflow_cli import console
from inrflow_cli.app import run
from inrflow_core.datasets import solids
from inrflow_core.preparation import job, pipeline
from inrflow_core.sample_files import readers
from inrflow_core.shards.shard_dataset import ShardDataset
from inrflow_core.storage import plain_file
from tests import tiny


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("eval") / "solids"
    config = solids.Config(train=30, val=24, points=40)
    pipeline.prepare(job.resolve_job("solids", out=out, config=config), workers=1)
    return out


@pytest.fixture(autouse=True)
def _working_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    console.stderr.cache_clear()
    yield
    console.stderr.cache_clear()


def evaluate(*words) -> int:
    return run(["eval", *map(str, words)])


def test_without_the_search_for_copies_the_scores_are_the_same(shards, tmp_path, capsys):
    tiny.run_folder(tmp_path / "run", tiny.POINTS, data={"path": str(shards)})
    words = ["--run", tmp_path / "run", "--reference", shards, "--num", "24", "--metrics", "mmd"]
    assert evaluate(*words, "--out", "a") == evaluate(*words, "--out", "b", "--no-copies") == 0
    assert (tmp_path / "a" / "metrics.json").read_bytes() == (tmp_path / "b" / "metrics.json").read_bytes()
    title = "then the training items nearest to it"
    assert title in (tmp_path / "a" / "report.html").read_text()
    assert title not in (tmp_path / "b" / "report.html").read_text()
    capsys.readouterr()
    assert evaluate(*words, "--out", "c", "--no-copies", "--memorization-set", shards) == 2
    assert "`--memorization-set` and `--no-copies` contradict each other" in capsys.readouterr().err


def test_other_shards_at_the_path_of_the_training_data_are_refused(shards, tmp_path, capsys):
    data = {"path": str(tmp_path / "solids")}
    tiny.run_folder(tmp_path / "run", tiny.POINTS, data=data)
    shutil.copytree(shards, tmp_path / "solids")
    words = ["--run", tmp_path / "run", "--num", "4", "--metrics", "mmd"]
    assert evaluate(*words, "--out", "unrecorded") == 0
    assert "the reference is the shards that the preset names" in capsys.readouterr().err
    record = {"precision": "fp32", "data": plain_file.file_digest(tmp_path / "solids/manifest.json"), "init_from": None}
    (tmp_path / "run/environment.json").write_text(json.dumps(record))
    assert evaluate(*words, "--out", "recorded") == 0
    assert "the reference is the shards that the run was trained on" in capsys.readouterr().err
    (tmp_path / "run/environment.json").write_text(json.dumps(record | {"data": "0" * 64}))
    assert evaluate(*words, "--out", "another") == 2
    assert "does not hold the data that the run" in capsys.readouterr().err
    assert evaluate(*words, "--reference", tmp_path / "solids", "--out", "named") == 0


def trained_elsewhere(folder: Path, shards: Path, recorded: str) -> None:
    """A run in `folder` whose training was started with `--data`, as environment.json records it."""
    tiny.run_folder(folder, tiny.POINTS, data={"path": "shards/solids", "prepare": "inrflow prepare solids"})
    digest = plain_file.file_digest(shards / "manifest.json")
    record = {"precision": "fp32", "data": digest, "init_from": None, "shards": recorded}
    (folder / "environment.json").write_text(json.dumps(record))


def test_the_shards_that_a_training_named_are_the_reference(shards, tmp_path, capsys):
    words = ["--num", "4", "--metrics", "mmd", "--no-copies"]
    shutil.copytree(shards, "mine")
    trained_elsewhere(tmp_path / "runs/one", shards, "../../mine")
    trained_elsewhere(tmp_path / "runs/two", shards, str(tmp_path / "mine"))
    checkpoint = "runs/one/checkpoints/00000002"
    (weights,) = Path(checkpoint).glob("ema_*.safetensors")
    for number, source in enumerate(("one", "runs/one", checkpoint, weights)):
        assert evaluate("--run", source, *words, "--out", number) == 0
        assert "the reference is the shards that the run was trained on, `mine`" in capsys.readouterr().err
    assert evaluate("--run", "two", *words, "--out", "absolute") == 0
    Path("project").mkdir()
    for name in ("runs", "mine"):
        shutil.move(name, f"project/{name}")
    assert evaluate("--run", "project/runs/one", *words, "--out", "moved") == 0
    assert "was trained on, `project/mine`" in capsys.readouterr().err
    shutil.move("project/mine", "project/yours")
    assert evaluate("--run", "project/runs/one", *words, "--out", "gone") == 3
    error = " ".join(capsys.readouterr().err.split())
    assert "the shards `project/mine`, which `project/runs/one` was trained on, do not exist" in error
    assert "name their folder with `--reference PATH`" in error
    shutil.copytree("project/yours", "shards/solids")  # the same data where the preset names them
    assert evaluate("--run", "project/runs/one", *words, "--out", "preset") == 0
    shutil.copytree("project/yours", "project/mine")
    Path("project/mine/manifest.json").write_text(Path("project/mine/manifest.json").read_text() + " ")
    assert evaluate("--run", "project/runs/one", *words, "--out", "still there") == 0
    shutil.rmtree("shards/solids")
    assert evaluate("--run", "project/runs/one", *words, "--out", "other") == 2
    assert "does not hold the data that the run" in capsys.readouterr().err


@pytest.mark.parametrize("is_absolute", [False, True])
def test_a_run_is_evaluated_through_a_link(shards, tmp_path, capsys, is_absolute):
    words = ["--num", "4", "--metrics", "mmd", "--no-copies"]
    shutil.copytree(shards, "mine")
    trained_elsewhere(tmp_path / "deep/er/one", shards, str(tmp_path / "mine") if is_absolute else "../../../mine")
    Path("runs").mkdir()
    Path("runs/linked").symlink_to("../deep/er/one")
    Path("latest").symlink_to("deep/er")
    for source in ("linked", "runs/linked", tmp_path / "runs/linked", "latest/one", "runs/linked/checkpoints/00000002"):
        assert evaluate("--run", source, *words, "--out", "results", "--overwrite") == 0
        said = capsys.readouterr().err
        assert "the reference is the shards that the run was trained on" in said and "mine`" in said


def test_runs_of_the_same_shards_under_other_paths_are_evaluated_together(shards, tmp_path, capsys):
    words = ["--num", "4", "--metrics", "mmd", "--no-copies"]
    for name in ("one", "two"):
        shutil.copytree(shards, f"of-{name}")
        trained_elsewhere(tmp_path / "runs" / name, shards, f"../../of-{name}")
    assert evaluate("--run", "one", "--run", "two", *words, "--out", "both") == 0
    Path("of-two/manifest.json").write_text(Path("of-two/manifest.json").read_text() + " ")
    digest = plain_file.file_digest(Path("of-two/manifest.json"))
    record = Path("runs/two/environment.json")
    record.write_text(json.dumps(json.loads(record.read_text()) | {"data": digest}))
    capsys.readouterr()
    assert evaluate("--run", "one", "--run", "two", *words, "--out", "other") == 2
    assert "were trained on different data" in capsys.readouterr().err


def test_a_shipped_model_is_evaluated_on_the_shards_of_its_preset(shards, tmp_path, capsys):
    words = ["--model", "solids", "--num", "4", "--steps", "1", "--metrics", "jsd", "--no-copies"]
    assert evaluate(*words, "--out", "a") == 3
    error = " ".join(capsys.readouterr().err.split())
    assert "the shards `shards/solids`, which the preset of `solids` names, do not exist" in error
    assert "make them with `inrflow prepare solids`, or add `--reference PATH`" in error
    shutil.copytree(shards, "shards/solids")
    assert evaluate(*words, "--points", "40", "--out", "a") == 0
    tiny.run_folder(tmp_path / "run", tiny.POINTS)
    beside = ["--run", "run", "--reference", shards, "--points", "40", "--name", "mine", "--name", "theirs"]
    assert evaluate(*words, *beside, "--out", "b") == 0
    results = json.loads(Path("b/metrics.json").read_text())["results"]
    assert [one["name"] for one in results] == ["mine", "theirs"]
    assert evaluate("--model", "solid", "--out", "c") == 2
    assert "did you mean `solids`?" in capsys.readouterr().err


def test_runs_on_different_data_have_no_common_reference(shards, tmp_path, capsys):
    tiny.run_folder(tmp_path / "one", tiny.POINTS, data={"path": str(shards)})
    tiny.run_folder(tmp_path / "other", tiny.POINTS, data={"path": str(tmp_path / "elsewhere")})
    tiny.run_folder(tmp_path / "part", tiny.POINTS, data={"path": str(shards), "classes": ["ball"]})
    for other in ("other", "part"):
        words = ["--run", tmp_path / "one", "--run", tmp_path / other, "--num", "4", "--metrics", "mmd"]
        assert evaluate(*words, "--out", "results") == 2
        assert "were trained on different data" in capsys.readouterr().err
    words = ["--run", tmp_path / "one", "--run", tmp_path / "other", "--num", "4", "--metrics", "mmd"]
    assert evaluate(*words, "--reference", shards, "--out", "results") == 0


def test_runs_on_other_classes_of_the_same_data_are_compared_on_named_classes(shards, tmp_path, capsys):
    for name, classes in (("one", ["ball", "box"]), ("part", ["ball"])):
        tiny.run_folder(tmp_path / name, tiny.POINTS, data={"path": str(shards), "classes": classes})
    words = [
        "--run",
        tmp_path / "one",
        "--run",
        tmp_path / "part",
        "--num",
        "4",
        "--metrics",
        "mmd",
        "--out",
        "results",
    ]
    assert evaluate(*words) == 2 and "name classes of both with `--classes`" in capsys.readouterr().err
    assert evaluate(*words, "--classes", "ball") == 0
    assert "of the classes ball" in capsys.readouterr().err


def test_checkpoints_of_a_weights_file_are_its_own(shards, tmp_path, capsys):
    tiny.run_folder(tmp_path / "run", tiny.POINTS, metadata={"decay": 0.999})
    weights = tmp_path / "run/checkpoints/00000002/ema_0.999.safetensors"
    words = ["--run", weights, "--num", "4", "--metrics", "mmd", "--reference", shards]
    for more in (["--checkpoints", "1"], ["--checkpoints", "best"], ["--checkpoints", "all"], ["--ema", "0"]):
        assert evaluate(*words, *more, "--out", "results") == 2
        assert str(weights) in capsys.readouterr().err.replace("\n", "")
    assert evaluate(*words, "--checkpoints", "2", "--ema", "0.999", "--out", "results") == 0


def test_labels_of_a_run_have_the_frequencies_of_the_reference(shards, tmp_path):
    names = list(ShardDataset(shards).classes)
    tiny.run_folder(
        tmp_path / "run", tiny.POINTS, metadata={"classes": names}, condition={"name": "label", "classes": len(names)}
    )
    words = ["--run", tmp_path / "run", "--num", "40", "--metrics", "jsd", "--reference", shards]
    for number, more in enumerate(([], ["--classes", names[2]], ["--label", "uniform"])):
        assert evaluate(*words, *more, "--out", str(number)) == 0
    labels = [
        readers.open_collection(tmp_path / str(number) / "samples/run.h5").read(range(40)).labels for number in range(3)
    ]
    assert set(labels[1]) == {2} and len(set(labels[2])) == len(names)
