"""The training data as predictions of novel views, computed once more by loops."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from inrflow_core.evaluation import evaluator, gather, metric_specs, scene_baselines
from inrflow_core.geometry import cameras
from inrflow_core.runtime.progress import SILENT, Reporter
from inrflow_core.sample_files import readers, scene_views
from inrflow_core.sample_files.collection import ShardCollection
from inrflow_core.sampling import novel_views
from tests import camera_rings
from tests.domains import scenes
from tests.domains.scenes import Scene

SIDE = 3


def scene(seed: int, views: int) -> Scene:
    rng = np.random.default_rng(seed)
    poses = [cameras.orbit(rng.uniform(0, 360), rng.uniform(-30, 80), 1.3) for _ in range(views)]
    return rng.integers(0, 256, (views, SIDE, SIDE, 3), dtype=np.uint8), np.stack(poses)


TRAIN = [scene(number, 3 + number % 3) for number in range(5)]
TEST = [scene(100 + number, 4 + number) for number in range(3)]


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return scenes.write_splits(tmp_path_factory.mktemp("scenes") / "shards", {"train": TRAIN, "test": TEST})


def split(shards: Path, name: str) -> ShardCollection:
    return scene_views.check_posed(readers.open_collection(shards, name))


def nearest_view(camera: np.ndarray, poses: np.ndarray) -> int:
    """The view whose camera is nearest, one by one."""
    return min(range(len(poses)), key=lambda view: float(np.linalg.norm(camera[:3].astype(float) - poses[view, :3])))


def expected_views(kind: str) -> list[np.ndarray]:
    """The predictions of all novel views in their order."""
    result = []
    for views, poses in TEST:
        support = len(views) // 2
        differences = [
            np.sum((one[nearest_view(poses[support], own)].astype(float) - views[support]) ** 2) for one, own in TRAIN
        ]
        chosen, own = TRAIN[int(np.argmin(differences))]
        for view in (view for view in range(len(views)) if view != support):
            if kind == scene_baselines.NEAREST:
                result.append(chosen[nearest_view(poses[view], own)])
            else:
                mean = np.mean([one[nearest_view(poses[view], its)].astype(float) for one, its in TRAIN], axis=0)
                result.append(np.floor(mean + 0.5).astype(np.uint8))
    return result


def test_both_baselines_are_those_of_their_definitions(shards: Path):
    test = split(shards, "test")
    plan = novel_views.plan_views(test, is_encoded=True)
    found = {one.name: one for one in scene_baselines.iter_baselines(plan, split(shards, "train"), SILENT)}
    assert [*found] == [scene_baselines.MEAN, scene_baselines.NEAREST]
    (metric,) = metric_specs.parse_metrics(["novel-view-psnr"], "radiance")
    for name, samples in found.items():
        assert samples.items.count == 3 + 4 + 5 and samples.has(metric)
        expected = np.stack(expected_views(name))
        np.testing.assert_array_equal(samples.items.read(range(12)).values[:, 0], expected)
        real = np.concatenate([np.delete(views, len(views) // 2, axis=0) for views, _ in TEST])
        psnr = 10 * np.log10(255**2 / np.square(expected.astype(float) - real).mean((1, 2, 3)))
        scorer = evaluator.Evaluator(test, gather.EvaluationSettings(shards))
        score = scorer.score(samples, metric)
        assert score.value == pytest.approx(np.mean([psnr[:3].mean(), psnr[3:7].mean(), psnr[7:].mean()]), rel=1e-12)
        assert (score.samples, score.reference, score.unit) == (3, 3, "dB")
        per_scene = scorer.cached_views(samples, [metric])[metric.full]
        assert per_scene["test-1"] == pytest.approx(psnr[3:7].mean()) and len(per_scene) == 3


def test_small_blocks_and_few_training_scenes_change_what_they_say(shards: Path, monkeypatch: pytest.MonkeyPatch):
    plan, training = novel_views.plan_views(split(shards, "test"), is_encoded=True), split(shards, "train")

    def values() -> list[np.ndarray]:
        return [one.items.read(range(12)).values for one in scene_baselines.iter_baselines(plan, training, SILENT)]

    whole = values()
    monkeypatch.setattr(scene_baselines, "BLOCK_BYTES", 1)
    np.testing.assert_array_equal(np.stack(values()), np.stack(whole))
    monkeypatch.setattr(scene_baselines, "MOST_PAIRS", 24)  # 12 cameras with 2 of 5 scenes
    few = [*scene_baselines.iter_baselines(plan, training, SILENT)]
    assert [one.facts["training_scenes"] for one in few] == ["2 of 5, split train"] * 2
    monkeypatch.setattr(scene_baselines, "MOST_BYTES", 1)
    warnings: list[str] = []
    (left,) = scene_baselines.iter_baselines(plan, training, Reporter(warn=warnings.append))
    assert left.name == scene_baselines.NEAREST and "12 different cameras would take" in warnings[0]


def test_equal_cameras_are_compared_once_and_a_copy_of_a_scene_is_found(tmp_path: Path):
    poses = camera_rings.orbit_ring(4)
    views = [scene(number, 4)[0] for number in range(3)]
    made = {"train": [(one, poses) for one in views], "val": [(views[1], poses), (views[2], poses)]}
    shards = scenes.write_splits(tmp_path / "shards", made)
    plan = novel_views.plan_views(split(shards, "val"), is_encoded=True)
    novel = scene_baselines.novel_cameras(plan)
    assert len(novel.poses) == 3 and novel.pose_of.tolist()[:3] == novel.pose_of.tolist()[3:]
    training = split(shards, "train")
    scenes_found, views_found = scene_baselines.nearest_views(novel, training)
    assert scenes_found.tolist() == [1, 1, 1, 2, 2, 2] and views_found.tolist() == [0, 1, 3] * 2
    means = scene_baselines.mean_views(novel, training)
    exact = np.mean([one[3].astype(float) for one in views], axis=0)
    np.testing.assert_array_equal(means[novel.pose_of[2]], np.floor(exact + 0.5))


def test_the_nearest_cameras_of_many_poses_are_found_in_bounded_memory():
    rng = np.random.default_rng(0)
    poses, known = rng.normal(size=(20_000, 3, 4)), rng.normal(size=(100, 3, 4))
    known[7] = known[3]  # of equals the first
    tracemalloc.start()
    nearest = scene_baselines.nearest_cameras(poses, known)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 64 << 20  # all differences at once are 192 MB, twice
    rows = rng.integers(0, len(poses), 200)
    expected = [np.square(known - poses[row]).sum((1, 2)).argmin() for row in rows]
    assert nearest[rows].tolist() == expected and 7 not in nearest and 3 in nearest
