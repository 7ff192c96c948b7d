"""Metrics of scenes while a radiance field is trained: a few views of held-out scenes, drawn and encoded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inrflow_core.config.preset import Preset, resolve
from inrflow_core.errors import UsageError
from inrflow_core.evaluation import evaluator, gather, metric_specs, results
from inrflow_core.geometry import cameras
from inrflow_core.runs.best import read_best
from inrflow_core.sample_files import readers, scene_views
from inrflow_core.sampling import novel_views, sample
from inrflow_core.training import periodic_eval, setup
from tests import tiny
from tests.domains import scenes
from tests.domains.scenes import Scene
from tests.training import small

SIDE = 12


def made(seed: int, counts: tuple[int, ...]) -> list[Scene]:
    rng = np.random.default_rng(seed)
    return [
        (
            rng.integers(0, 256, (count, SIDE, SIDE, 3), dtype=np.uint8),
            np.stack([cameras.orbit(30 * view, 20, 1.3) for view in range(count)]),
        )
        for count in counts
    ]


def preset(**settings: Any) -> Preset:
    """Two steps of each stage, the second of which is evaluated."""
    tables = tiny.tables(
        tiny.RADIANCE,
        domain={"name": "radiance", "resolution": SIDE},
        method={"num_queries": 8},
        training={**small.TRAINING, "steps": 2},
        eval={"every": 2, "num": 2, **settings},
    )
    return resolve("scenes", tables)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    splits = {"train": made(0, (3, 4, 2)), "val": made(1, (12, 3, 10))}
    return scenes.write_splits(tmp_path_factory.mktemp("scenes") / "shards", splits)


def train(preset: Preset, shards: Path, out: Path) -> list[dict[str, Any]]:
    setup.train(setup.TrainJob(preset, out, data=shards, device="cpu", threads=1))
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [line for line in lines if "eval" in line]


def test_the_values_are_those_of_the_checkpoint_at_the_same_views(shards: Path, tmp_path: Path):
    records = train(preset(), shards, tmp_path / "run")
    assert [record["step"] for record in records] == [2, 4]
    last = records[-1]
    names = ["novel-view-psnr:view-64-or-middle", "novel-view-ssim:view-64-or-middle", "fid:random", "kid:random"]
    assert [*last["eval"]] == names and "2 scenes in 8 views each against 3 of `val`" in last["eval_by"]
    best = read_best(tmp_path / "run")
    assert best is not None and best.metric == names[0]
    model, reference = (
        sample.load(tmp_path / "run", device="cpu"),
        scene_views.check_posed(readers.open_collection(shards, "val")),
    )
    two = scene_views.check_posed(reference.select(np.array([0, 2])))
    scorer = evaluator.Evaluator(reference, gather.EvaluationSettings(tmp_path / "again"))
    for is_encoded, count in ((False, 16), (True, 16)):
        plan = novel_views.plan_views(two, is_encoded=is_encoded, most_views=periodic_eval.VIEWS)
        assert len(plan) == count
        subject = results.EvaluatedSamples(
            "again", novel_views.render_in_memory(model, plan, tmp_path), matched_by="view" if is_encoded else ""
        )
        for metric in filter(subject.has, metric_specs.parse_metrics(names, "radiance")):
            assert scorer.score(subject, metric).value == pytest.approx(last["eval"][metric.full], rel=1e-9)


def test_a_run_that_is_evaluated_has_the_losses_of_one_that_is_not(shards: Path, tmp_path: Path):
    train(preset(metrics=["novel-view-psnr"]), shards, tmp_path / "evaluated")
    setup.train(
        setup.TrainJob(
            preset(every=100, metrics=["fid:random"]), tmp_path / "other", data=shards, device="cpu", threads=1
        )
    )
    assert small.losses(tmp_path / "evaluated") == small.losses(tmp_path / "other")


def test_scenes_of_one_view_and_pairs_of_images_are_refused_before_training(shards: Path, tmp_path: Path):
    single = scenes.write_splits(tmp_path / "single", {"train": made(0, (3, 4)), "val": made(1, (3, 1))})
    with pytest.raises(UsageError, match="the scene `val-1` of .* has one view"):
        train(preset(), single, tmp_path / "run")
    with pytest.raises(UsageError, match="`psnr` evaluates images, and these are scenes"):
        train(preset(metrics=["psnr"]), shards, tmp_path / "run")
