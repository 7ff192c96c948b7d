"""Laws of latent diffusion of scenes: it reads points of a surface, is trained on rays of a view, and is rendered anywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from inrflow_core.domains._contract import batch_of
from inrflow_core.errors import UsageError
from inrflow_core.fields import Camera, Orbit
from inrflow_core.geometry import cameras
from inrflow_core.methods._contract import StepState
from inrflow_core.models import Model
from inrflow_core.sample_files import readers, scene_views
from inrflow_core.sample_files.collection import ShardCollection
from inrflow_core.sampling import invert, novel_views, sample
from inrflow_core.sampling.options import sampling_options
from inrflow_core.sets import CoordValueSet, TrainBatch
from tests import tiny
from tests.domains import scenes
from tests.sampling import test_novel_views

FIRST, SECOND = StepState("autoencoder", 8, 9), StepState("diffusion", 8, 9)
SIDE, POINTS = 8, 20


def model(**settings: Any) -> Model:
    return tiny.model(tiny.SCENES, method=settings)


def surfaces(count: int) -> np.ndarray:
    return np.random.default_rng(1).uniform(-0.45, 0.45, (count, POINTS, 6)).astype(np.float32)


def sets(built: Model, count: int = 4) -> CoordValueSet:
    views = np.random.default_rng(2).integers(0, 256, (count, 1, SIDE, SIDE, 3), dtype=np.uint8)
    poses = np.stack([cameras.orbit(40 * number, 15, 1.3)[None] for number in range(count)])
    return built.domain.to_set(batch_of(views, {"surface": surfaces(count), "camera": poses}), torch.arange(count))


@pytest.mark.parametrize("settings", [{}, {"num_queries": 10}], ids=["all rays", "some rays"])
def test_the_loss_of_a_scene_depends_on_the_scene_alone(settings: dict[str, Any]):
    built = model(**settings)
    batch = built.domain.train_batch(sets(built))
    latents = batch.context.with_values(built.method.precompute("latents", sets(built)))
    for each, state in ((batch, FIRST), (TrainBatch.from_sets(latents), SECOND)):
        whole = built.method.loss(each, state)
        parts = torch.cat([built.method.loss(each[row : row + 1], state) for row in range(4)])
        torch.testing.assert_close(parts, whole, rtol=2e-4, atol=2e-5)
        assert whole.shape == (4,) and len(whole.unique()) == 4


def test_a_drawn_scene_depends_on_its_seed_alone_and_its_view_not_on_the_chunk():
    built = model()
    whole = sample.sample_fields(built, [0, 1, 2], None, sampling_options(built))
    view = built.domain.queries((6, 9))
    values = whole.query(view)
    one = sample.sample_fields(built, [1], None, sampling_options(built))
    torch.testing.assert_close(one.query(view, chunk=7), values[1:2], rtol=1e-4, atol=1e-5)
    assert (values[0] - values[1]).abs().max() > 1e-3
    turntable = sample.evaluate(built, whole, Orbit(4, 4, 3, Camera(azimuth=10.0)))
    assert turntable.shape == (3, 3, 4, 4, 3) and turntable.dtype == np.uint8


def test_density_and_color_are_those_that_rays_see_and_a_saved_scene_has_them(tmp_path: Path):
    built = model()
    made = sample.sample_fields(built, [3, 4], None, sampling_options(built)).cache_context()
    points = torch.rand(30, 3, generator=torch.Generator().manual_seed(3)) - 0.5
    density, color = made.density_and_color(1, points)  # pyright: ignore[reportAttributeAccessIssue]
    expected = built.method.readout.density_and_color(made.state, points)  # pyright: ignore[reportAttributeAccessIssue]
    torch.testing.assert_close((density, color), (expected[0][1], expected[1][1]))
    assert (density >= 0).all() and density.std() > 1e-3 and (color > 0).all() and (color < 1).all()
    made.save(tmp_path / "field.safetensors", built.preset)
    loaded, field = sample.load_field(tmp_path / "field.safetensors", "cpu")
    assert np.array_equal(sample.evaluate(loaded, field), sample.evaluate(built, made))
    torch.testing.assert_close(field.density_and_color(1, points), (density, color))  # pyright: ignore[reportAttributeAccessIssue]


def test_functions_without_density_say_so():
    shapes = tiny.model(tiny.SHAPES)
    made = sample.sample_fields(shapes, [3], [0], sampling_options(shapes))
    with pytest.raises(UsageError, match="these functions have no density in space"):
        made.density_and_color(0, torch.zeros(1, 3))  # pyright: ignore[reportAttributeAccessIssue]


@pytest.fixture
def reference(tmp_path: Path) -> ShardCollection:
    rng = np.random.default_rng(0)
    made = [
        (rng.integers(0, 256, (count, SIDE, SIDE, 3), dtype=np.uint8), test_novel_views.poses(number, count))
        for number, count in enumerate((5, 3))
    ]
    folder = scenes.write_splits(tmp_path / "shards", {"test": made}, surfaces={"test": surfaces(2)})
    return scene_views.check_posed(readers.open_collection(folder, "test"))


def test_novel_views_are_those_of_the_scene_that_is_encoded_from_its_surface(reference: ShardCollection):
    built = model()
    plan = novel_views.plan_views(reference, is_encoded=True)
    views = novel_views.render(built, plan, np.arange(len(plan)))
    for row, (scene, view) in enumerate(zip(plan.scenes, plan.views, strict=True)):
        values = built.domain.to_set(
            batch_of(np.empty((1, 0, SIDE, SIDE, 3), np.uint8), {"surface": surfaces(2)[scene][None]}),
            torch.zeros(1, dtype=torch.int64),
        )
        field = built.method.invert(values, invert.inversion_options(built))
        pose = torch.from_numpy(scene_views.read_cameras(reference, int(scene))[view][None])
        field.condition = {"camera": pose}
        assert np.array_equal(sample.evaluate(built, field)[0], views[row])
    assert len(np.unique(views[plan.scenes == 0], axis=0)) > 1


def test_a_reference_without_surfaces_is_refused(tmp_path: Path):
    made = [(np.zeros((3, SIDE, SIDE, 3), np.uint8), test_novel_views.poses(0, 3))]
    plain = scene_views.check_posed(readers.open_collection(scenes.write(tmp_path / "shards", made, ("test",)), "test"))
    plan = novel_views.plan_views(plain, is_encoded=True)
    with pytest.raises(UsageError, match="has no points of the surfaces that the model encodes"):
        novel_views.render(model(), plan, np.arange(1))


def test_a_colored_mesh_is_encoded_and_its_error_is_that_of_its_colors(tmp_path: Path):
    (tmp_path / "a.obj").write_text("v 0 0 0\nv 2 0 0\nv 0 2 0\nf 1 2 3\n")
    built = model()
    example = invert.read_input(built, tmp_path / "a.obj")
    field = invert.invert(built, example)
    assert sample.evaluate(built, field).shape == (1, 1, SIDE, SIDE, 3)
    error = invert.reconstruction_error(built, example, field)
    _, color = field.density_and_color(0, torch.from_numpy(example.condition["surface"][:, :3]))  # pyright: ignore[reportAttributeAccessIssue]
    expected = -10 * np.log10(np.square(color.numpy() - 190 / 255).mean())
    assert error == {"color_psnr": pytest.approx(expected, rel=1e-4)}
    with pytest.raises(UsageError, match="the model encodes surfaces, and no views"):
        invert.read_input(built, tmp_path / "a.obj", Camera(azimuth=3.0))
