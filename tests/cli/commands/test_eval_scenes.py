"""`inrflow eval` of radiance fields: drawn scenes by metrics of features, encoded ones beside what training data alone predict."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inrflow_cli import console
from inrflow_cli.app import run
from inrflow_core.geometry import cameras
from inrflow_core.sampling import novel_views
from inrflow_core.shards.shard_dataset import ShardDataset
from tests import tiny
from tests.domains import scenes
from tests.domains.scenes import Scene
from tests.report.rates import without_rates

SIDE, COUNTS = 16, (4, 3, 5)
NOVEL = ["novel-view-psnr:view-64-or-middle", "novel-view-ssim:view-64-or-middle"]
DOMAIN = {"name": "radiance", "resolution": SIDE}


def made(seed: int, counts: tuple[int, ...], side: int = SIDE) -> list[Scene]:
    rng = np.random.default_rng(seed)
    return [
        (
            rng.integers(0, 256, (count, side, side, 3), dtype=np.uint8),
            np.stack([cameras.orbit(rng.uniform(0, 360), 20, 1.3) for _ in range(count)]),
        )
        for count in counts
    ]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    parent = tmp_path_factory.mktemp("eval-scenes")
    scenes.write_splits(parent / "shards", {"train": made(0, (3, 4)), "test": made(1, COUNTS)})
    tiny.run_folder(parent / "fields", tiny.RADIANCE, domain=DOMAIN)
    return parent


@pytest.fixture(autouse=True)
def _working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    console.stderr.cache_clear()
    yield
    console.stderr.cache_clear()


def evaluate(folders: Path, *words: Any, out: str = "out", reference: Path | str | None = None) -> int:
    named = ["--run", folders / "fields", "--reference", reference or folders / "shards", "--out", out, *words]
    return run(["eval", *map(str, named)])


def refused(capsys: pytest.CaptureFixture[str], folders: Path, *words: Any, **named: Any) -> str:
    code = evaluate(folders, *words, **named)
    error = capsys.readouterr().err
    assert "Traceback" not in error and error.count("error:") == error.count("hint:") == 1
    return f"{code}: {' '.join(error.partition('error: ')[2].split())}"


def metrics_of(out: str = "out") -> dict[str, Any]:
    return json.loads(Path(out, "metrics.json").read_text())


def test_a_run_is_evaluated_beside_both_baselines(folders: Path, capsys: pytest.CaptureFixture[str]):
    assert evaluate(folders) == 0
    table, metrics = capsys.readouterr().out, metrics_of()
    by_name = {result["name"]: result for result in metrics["results"]}
    assert [*by_name] == ["fields", "fields, from one view", "mean of the training views", "nearest training scene"]
    assert all(word in table for word in ("novel-view PSNR", "FID", "KID", "nearest training scene"))
    drawn, encoded, mean, nearest = by_name.values()
    assert [score["metric"] for score in drawn["scores"]] == ["fid:random", "kid:random"] and "scenes" not in drawn
    for one in (encoded, mean, nearest):
        assert [score["metric"] for score in one["scores"]] == NOVEL
        assert [*one["scenes"]] == NOVEL and [*one["scenes"][NOVEL[0]]] == ["test-0", "test-1", "test-2"]
        for score in one["scores"]:
            assert score["value"] == pytest.approx(np.mean([*one["scenes"][score["metric"]].values()]))
            assert (score["samples"], score["reference"], score["interval"]) == (3, 3, None)
    assert [one["samples"]["count"] for one in by_name.values()] == [12, 9, 9, 9]
    assert (drawn["facts"]["scenes"], drawn["facts"]["nfe"], encoded["facts"]["nfe"]) == (3, 1, 1)
    assert encoded["facts"]["support"] == "view-64-or-middle" and drawn["facts"]["seeds"] == "0-2"
    assert "seeds" not in encoded["facts"]
    assert mean["facts"]["training_scenes"] == "2 of 2, split train"
    page = Path("out/report.html").read_text()
    assert all(name in page for name in by_name)


def test_the_same_seeds_are_the_same_scenes_whatever_the_batch_and_after_an_interruption(
    folders: Path, monkeypatch: pytest.MonkeyPatch
):
    assert evaluate(folders, "--seed", 5, out="whole") == 0
    render, calls = novel_views.render, list[int]()

    def interrupted(model: Any, plan: Any, rows: Any, options: Any = None, **named: Any) -> np.ndarray:
        calls.append(len(rows))
        if len(calls) == 4:
            raise KeyboardInterrupt
        return render(model, plan, rows, options, **named)

    with monkeypatch.context() as patch:
        patch.setattr(novel_views, "render", interrupted)
        assert evaluate(folders, "--seed", 5, "--batch", 4) == 130
    assert not Path("out/metrics.json").exists() and Path("out/samples/fields.h5").exists()
    rest = list[int]()
    monkeypatch.setattr(
        novel_views, "render", lambda model, plan, rows, *given, **named: (rest.append(len(rows)), render(model, plan, rows, *given, **named))[1]
    )  # fmt: skip
    assert evaluate(folders, "--seed", 5, "--batch", 4) == 0
    assert calls == [4, 4, 4, 4] and rest == [4, 4, 1]  # the drawn scenes exist already
    for name in ("metrics.json", "report.html"):
        assert without_rates(Path("out", name)) == without_rates(Path("whole", name))
    shards = [ShardDataset(Path(out, "samples/fields.h5")).read("samples", range(12)) for out in ("out", "whole")]
    np.testing.assert_array_equal(shards[0].values, shards[1].values)
    assert shards[0].seeds.tolist() == [5] * 4 + [6] * 3 + [7] * 5


def test_only_what_the_metrics_need_is_rendered(folders: Path):
    assert evaluate(folders, "--metrics", "fid:random", out="a") == 0
    assert [path.name for path in Path("a/samples").glob("*.h5")] == ["fields.h5"]
    assert [result["name"] for result in metrics_of("a")["results"]] == ["fields"]
    assert evaluate(folders, "--metrics", "novel-view-psnr", "--num", 2, out="b") == 0
    assert [path.name for path in Path("b/samples").glob("*.h5")] == ["fields-encoded.h5"]
    assert [*metrics_of("b")["results"][0]["scenes"][NOVEL[0]]] == ["test-0", "test-2"]


def test_one_scene_has_views_enough_for_every_metric(folders: Path):
    assert evaluate(folders, "--num", 1, "--reference-num", 2) == 0
    results = metrics_of()["results"]
    assert [[score["samples"] for score in one["scores"]] for one in results] == [[4, 4], [1, 1], [1, 1], [1, 1]]
    assert [score["reference"] for score in results[0]["scores"]] == [9, 9]


def test_the_cost_is_estimated_without_writing(folders: Path, capsys: pytest.CaptureFixture[str]):
    assert evaluate(folders, "--dry-run") == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "render the views of 3 scenes of `fields`" in shown and shown.count("comparisons of 12 views") == 2
    assert "features of 24 images" in shown or "features of 12 images" in shown  # those of the reference may be cached
    assert not Path("out").exists()


def test_features_of_absent_weights_are_left_out_and_said_so(
    folders: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("INRFLOW_WEIGHTS", raising=False)
    assert evaluate(folders, "--metrics", "fid,fid:random,novel-view-psnr") == 3
    assert "the other metrics are computed" in " ".join(capsys.readouterr().err.split())
    assert metrics_of()["missing"] == ["fid:clean"] and len(metrics_of()["results"]) == 4


def test_drawn_scenes_in_a_file_have_the_metrics_of_features(folders: Path, capsys: pytest.CaptureFixture[str]):
    views = np.random.default_rng(0).integers(0, 256, (3, 4, SIDE, SIDE, 3), dtype=np.uint8)
    np.savez("drawn.npz", views=views)
    words = ["eval", "--samples", "drawn.npz", "--reference", str(folders / "shards"), "--out"]
    assert run([*words, "out"]) == 0
    (result,) = metrics_of()["results"]
    assert [score["metric"] for score in result["scores"]] == ["fid:random", "kid:random"]
    assert {(score["samples"], score["reference"]) for score in result["scores"]} == {(12, 12)}
    assert run([*words, "novel", "--metrics", "novel-view-psnr"]) == 2
    assert "does not record which view of which scene" in " ".join(capsys.readouterr().err.split())


def test_what_cannot_be_evaluated_is_refused_before_rendering(folders: Path, capsys: pytest.CaptureFixture[str]):
    scenes.write_splits(Path("single"), {"test": made(2, (3, 1))})
    scenes.write_splits(Path("other-size"), {"test": made(2, (3, 3), side=8)})
    scenes.write_splits(Path("unposed"), {"test": made(2, (3, 3))}, has_cameras=False)
    np.savez("plain.npz", views=np.zeros((3, 4, SIDE, SIDE, 3), np.uint8))
    said = {name: refused(capsys, folders, reference=name) for name in ("single", "other-size", "unposed", "plain.npz")}
    assert said["single"].startswith("2: the scene `test-1` of `single`, split `test` has one view")
    assert said["other-size"].startswith(
        "2: `fields` renders views of 16 x 16 pixels, and `other-size`, split `test` holds views of 8 x 8 hint: prepare"
    )
    assert said["unposed"].startswith("2: `unposed`, split `test` has no cameras of its views")
    assert said["plain.npz"].startswith("2: `plain.npz` has no cameras of its views")
    for option, value in (("--resolution", "32"), ("--view", "3"), ("--label", "cat"), ("--points", "5")):
        assert refused(capsys, folders, option, value).startswith(f"2: `{option}"), option
    assert refused(capsys, folders, "--metrics", "psnr").startswith("2: `psnr` evaluates images, and these are scenes")
    assert refused(capsys, folders, "--metrics", "novel-view-psnr", "--steps", 2).startswith("2: `--steps` does not")
    assert not Path("out/samples").exists()


def test_without_training_scenes_there_are_no_baselines(folders: Path, capsys: pytest.CaptureFixture[str]):
    scenes.write_splits(Path("alone"), {"test": made(1, COUNTS)})
    words = ["--metrics", "novel-view-psnr"]
    assert evaluate(folders, *words, reference="alone") == 0
    assert "compared with no baseline" in " ".join(capsys.readouterr().err.split())
    assert [result["name"] for result in metrics_of()["results"]] == ["fields, from one view"]
    assert evaluate(folders, *words, "--memorization-set", folders / "shards", reference="alone", out="more") == 0
    assert len(metrics_of("more")["results"]) == 3
    assert evaluate(folders, *words, out="same") == 0
    scores = [[one["scores"] for one in metrics_of(out)["results"]] for out in ("more", "same")]
    assert scores[0] == scores[1]


def test_a_damaged_view_is_reported(folders: Path, capsys: pytest.CaptureFixture[str]):
    shutil.copytree(folders / "shards", "damaged", ignore=shutil.ignore_patterns("statistics"))
    shard = Path("damaged/test-00000.h5")
    content = bytearray(shard.read_bytes())
    content[-9] ^= 1
    shard.write_bytes(content)
    said = refused(capsys, folders, "--metrics", "novel-view-psnr", reference="damaged")
    assert said.startswith("4: ") and "is damaged" in said
