"""Novel views: a plan fixes what is rendered, and a view's bytes depend on its scene and camera alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from inrflow_core.errors import UsageError
from inrflow_core.evaluation import evaluator, gather, metric_specs, results
from inrflow_core.geometry import cameras
from inrflow_core.models import Model
from inrflow_core.runtime.query_budget import QueryBudget
from inrflow_core.sample_files import readers, scene_views
from inrflow_core.sample_files.collection import ShardCollection
from inrflow_core.sampling import novel_views, sample
from inrflow_core.sets import Queries
from tests import tiny
from tests.domains import scenes

SIDE, COUNTS = 8, (5, 3, 4)


def poses(scene: int, views: int) -> np.ndarray:
    return np.stack([cameras.orbit(50 * view + 7 * scene, 20, 1.3, field_of_view=52) for view in range(views)])


@pytest.fixture(scope="module")
def model() -> Model:
    return tiny.model(tiny.RADIANCE)


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> ShardCollection:
    rng = np.random.default_rng(0)
    made = [
        (rng.integers(0, 256, (count, SIDE, SIDE, 3), dtype=np.uint8), poses(number, count))
        for number, count in enumerate(COUNTS)
    ]
    return opened(scenes.write(tmp_path_factory.mktemp("scenes") / "shards", made, ("test",)))


def opened(shards: Path) -> ShardCollection:
    return scene_views.check_posed(readers.open_collection(shards, "test"))


def test_a_plan_has_all_views_of_drawn_scenes_and_the_other_ones_of_encoded_scenes(reference: ShardCollection):
    drawn = novel_views.plan_views(reference, is_encoded=False, seed=7)
    assert drawn.scenes.tolist() == [0] * 5 + [1] * 3 + [2] * 4 and drawn.seeds.tolist() == [7] * 5 + [8] * 3 + [9] * 4
    assert drawn.views.tolist() == [*range(5), *range(3), *range(4)] and "support" not in drawn.sample_conditions
    encoded = novel_views.plan_views(reference, is_encoded=True)
    assert encoded.views.tolist() == [0, 1, 3, 4, 0, 2, 0, 1, 3]
    assert encoded.sample_conditions["support"].tolist() == [2] * 4 + [1] * 2 + [2] * 3
    few = novel_views.plan_views(reference, is_encoded=True, most_views=2)
    assert few.views.tolist() == [0, 4, 0, 2, 0, 3]
    part = novel_views.plan_views(scene_views.check_posed(reference.select(np.array([2, 0]))), is_encoded=True)
    assert part.sample_conditions["item"].tolist() == [2] * 3 + [0] * 4


@pytest.mark.parametrize("is_encoded", [False, True])
def test_a_view_depends_neither_on_the_others_nor_on_the_chunk(
    model: Model, reference: ShardCollection, is_encoded: bool
):
    plan = novel_views.plan_views(reference, is_encoded=is_encoded, seed=3)
    whole = novel_views.render(model, plan, np.arange(len(plan)))
    assert whole.shape == (len(plan), 1, SIDE, SIDE, 3) and len(np.unique(whole)) > 20
    assert len(np.unique(whole.reshape(len(plan), -1), axis=0)) == len(plan)
    for rows in (np.array([4]), np.array([8, 2, 5])):
        np.testing.assert_array_equal(novel_views.render(model, plan, rows), whole[rows])
    chunked = novel_views.render(model, plan, np.arange(4), budget=QueryBudget(7)).astype(int)
    assert np.abs(chunked - whole[:4]).max() <= 1


def test_a_drawn_scene_is_the_one_that_sample_draws_by_its_seed(model: Model, reference: ShardCollection):
    plan = novel_views.plan_views(reference, is_encoded=False, seed=11)
    rows = np.flatnonzero(plan.scenes == 1)
    field = sample.sample_fields(model, [12])
    field.condition = {"camera": torch.from_numpy(poses(1, 3)[None])}
    np.testing.assert_array_equal(novel_views.render(model, plan, rows)[:, 0], sample.evaluate(model, field)[0])


def colors(queries: Queries) -> Tensor:
    assert queries.directions is not None
    return torch.sin(5 * queries.directions)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda views: views, 10 * np.log10(255**2 * SIDE * SIDE * 3)),
        (lambda views: views // 2 * 2 + (1 - views % 2), 20 * np.log10(255)),  # one level up or down everywhere
    ],
)
def test_a_field_of_known_rendering_has_its_closed_form(
    model: Model,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[np.ndarray], np.ndarray],
    expected: float,
):
    """Colors that the directions of rays decide; the encoder reads the middle view of each scene."""
    invert, encoded = model.method.invert, list[Tensor]()
    monkeypatch.setattr(
        model.method, "invert", lambda sets, *given: (encoded.append(sets.values), invert(sets, *given))[1]
    )
    monkeypatch.setattr(model.method.readout, "query", lambda state, queries: colors(queries))
    made = []
    for number, count in enumerate(COUNTS):
        condition = {"camera": torch.from_numpy(poses(number, count)[None])}
        views = model.domain.decode_values(colors(model.domain.queries(condition=condition)), condition=condition)[0]
        made.append((change(views), poses(number, count)))
    reference = opened(scenes.write(tmp_path / "shards", made, ("test",)))
    plan = novel_views.plan_views(reference, is_encoded=True)
    samples = novel_views.render_in_memory(model, plan, tmp_path)
    (metric,) = metric_specs.parse_metrics(["novel-view-psnr"], "radiance")
    scorer = evaluator.Evaluator(reference, gather.EvaluationSettings(tmp_path))
    score = scorer.score(results.EvaluatedSamples("known", samples, matched_by="view"), metric)
    assert score.value == pytest.approx(expected, rel=1e-12)
    middle = [views[len(views) // 2] for views, _ in made]
    for values, view in zip(encoded, middle, strict=True):
        torch.testing.assert_close((values[0] + 1) * 127.5, torch.from_numpy(view).float().flatten(0, 1))


def test_a_scene_of_one_view_is_refused(tmp_path: Path):
    made = [(np.zeros((count, 4, 4, 3), np.uint8), poses(0, count)) for count in (2, 1)]
    reference = opened(scenes.write(tmp_path / "shards", made, ("test",)))
    with pytest.raises(UsageError, match="the scene `test-1` of .* has one view"):
        novel_views.plan_views(reference, is_encoded=True)
    assert len(novel_views.plan_views(reference, is_encoded=False)) == 3


def test_scenes_without_cameras_are_refused(tmp_path: Path):
    made = {"test": [(np.zeros((2, 4, 4, 3), np.uint8), poses(0, 2))]}
    shards = scenes.write_splits(tmp_path / "shards", made, has_cameras=False)
    np.savez(tmp_path / "drawn.npz", views=np.zeros((2, 3, 4, 4, 3), np.uint8))
    for path in (shards, tmp_path / "drawn.npz"):
        with pytest.raises(UsageError, match="has no cameras of its views"):
            scene_views.check_posed(readers.open_collection(path))
