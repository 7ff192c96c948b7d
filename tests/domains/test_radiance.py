"""Scenes: rays have depth 1, training reads two views of a scene and no more, and views are what was stored."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from inrflow_core.config.training import DataConfig
from inrflow_core.domains import radiance
from inrflow_core.domains._contract import batch_of
from inrflow_core.errors import UsageError
from inrflow_core.fields import Camera, Orbit
from inrflow_core.geometry import cameras
from inrflow_core.shards.shard_dataset import ShardDataset
from inrflow_core.shards.shard_file import ShardFile
from inrflow_core.training.loader import Loader
from tests.domains import scenes

SIDE = 4
SIZES = (5, 2, 3)
"""Views of the scenes in the shards."""


def domain(**settings: Any) -> radiance.Domain:
    return radiance.Domain(radiance.Config(**({"resolution": SIDE} | settings)))


def scene(number: int, views: int) -> tuple[np.ndarray, np.ndarray]:
    """Views whose gray says which they are, and their cameras."""
    gray = np.arange(10 * number, 10 * number + views, dtype=np.uint8)
    values = np.broadcast_to(gray[:, None, None, None], (views, SIDE, SIDE, 3)).copy()
    return values, np.stack([cameras.orbit(40 * view + number, 10, 1.3) for view in range(views)])


@pytest.fixture
def shards(tmp_path: Path) -> ShardDataset:
    return ShardDataset(scenes.write(tmp_path, [scene(number, views) for number, views in enumerate(SIZES)]))


def test_a_point_on_a_ray_has_its_depth_in_the_camera_and_its_pixel():
    camera = cameras.orbit(70, 25, 1.3)
    queries = domain().queries(6, condition={"camera": torch.from_numpy(camera)[None]})
    assert queries.coordinates is not None and queries.directions is not None
    for depth in (0.8, 1.8):
        points = (queries.coordinates + depth * queries.directions)[0].double().numpy()
        seen, depths = cameras.project(camera, points)
        np.testing.assert_allclose(depths, depth, atol=1e-6)
        y, x = np.mgrid[:6, :6].reshape(2, -1)
        np.testing.assert_allclose(seen, np.stack([x + 0.5, y + 0.5], 1) / 6, atol=1e-6)


def test_rays_are_those_of_the_one_camera_up_to_their_length():
    camera = cameras.orbit(-20, 50, 2.0)
    origins, directions = cameras.depth_rays(torch.from_numpy(camera), 3, 5)
    origin, units = cameras.rays(camera, 3, 5)
    np.testing.assert_allclose(origins, np.broadcast_to(origin, (15, 3)), atol=1e-6)
    np.testing.assert_allclose(torch.nn.functional.normalize(directions, dim=-1), units, atol=1e-6)


def test_the_shorter_side_of_a_view_has_the_field_of_view_of_the_camera():
    square, wide = (domain().queries(size) for size in ((4, 4), (4, 8)))
    assert square.directions is not None and wide.directions is not None
    middle = wide.directions.unflatten(0, (4, 8))[:, 2:6]
    torch.testing.assert_close(middle, square.directions.unflatten(0, (4, 4)))
    torch.testing.assert_close(wide.noise_keys.view(4, 8, 2)[:, 2:6], square.noise_keys.view(4, 4, 2))


def test_noise_is_keyed_by_the_pixels_of_the_training_view():
    rows, columns = np.mgrid[:SIDE, :SIDE].reshape(2, -1)
    np.testing.assert_array_equal(domain().queries().noise_keys, np.stack([rows, columns], 1))
    fine = domain().queries((3 * SIDE, 3 * SIDE)).noise_keys.view(3 * SIDE, 3 * SIDE, 2)
    np.testing.assert_array_equal(fine[1::3, 1::3].flatten(0, 1), domain().queries().noise_keys)


def test_a_turntable_goes_around_at_one_distance_and_elevation():
    size = domain().parse_size("2x3x4")
    assert size == Orbit(2, 3, 4)
    queries = domain(distance=2.0, elevation=30.0).queries(size)
    assert queries.coordinates is not None
    origins = queries.coordinates.view(4, 6, 3)[:, 0]
    torch.testing.assert_close(origins.norm(dim=-1), torch.full((4,), 2.0))
    torch.testing.assert_close(origins[:, 1], torch.full((4,), 1.0))
    torch.testing.assert_close(origins[:2, ::2], -origins[2:, ::2], atol=1e-6, rtol=0)
    assert domain().output_spec(size).shape == (4, 2, 3, 3) and domain().num_queries(size) == 24
    assert domain().describe_size(size) == "4 views of 2 x 3 pixels"
    raised = domain().queries(Orbit(2, 2, 1, Camera(elevation=90.0, distance=5.0))).coordinates
    assert raised is not None and raised[0, 1] == pytest.approx(5)


@pytest.mark.parametrize("text", ["0", "4x0", "4x4x0", "4x4x9999", "a", "4x4x4x4"])
def test_a_size_that_is_not_one_is_refused(text: str):
    with pytest.raises(UsageError, match="is not a size of views"):
        domain().parse_size(text)


def test_sets_are_views_in_the_scale_of_the_network_and_back():
    values = np.random.default_rng(0).integers(0, 256, (2, 3, SIDE, SIDE, 3), dtype=np.uint8)
    sets = domain().to_set(batch_of(values), torch.arange(2))
    assert sets.values.shape == (2, 3 * SIDE * SIDE, 3) and sets.values.min() >= -1 and sets.values.max() <= 1
    restored = domain().decode_values(sets.values, condition=sets.condition)
    np.testing.assert_array_equal(restored, values)
    equal = 10 * np.log10(255**2 * SIDE * SIDE * 3)
    assert domain().compare(restored[0], values[0])["psnr"] == pytest.approx(equal), (
        "as if one number were off by one level"
    )
    assert domain().compare(values[0] // 2 * 2, values[0] // 2 * 2 + 1) == pytest.approx({"psnr": 48.13}, abs=0.01)


def test_training_reads_two_different_views_at_random_by_the_seeds():
    sizes, seeds = np.full(4000, 5), torch.arange(4000)
    rows = domain().rows_to_read(sizes, seeds)
    assert (rows[:, 0] != rows[:, 1]).all() and rows.min() == 0 and rows.max() == 4
    counts = np.bincount(5 * rows[:, 0] + rows[:, 1], minlength=25).reshape(5, 5)
    assert (counts[~np.eye(5, dtype=bool)] > 150).all()  # 200 of each pair
    np.testing.assert_array_equal(domain().rows_to_read(sizes[:9], seeds[100:109]), rows[100:109])
    with pytest.raises(UsageError, match="one view, and training needs two"):
        domain().rows_to_read(np.array([1]), seeds[:1])


def test_only_the_two_views_of_a_step_are_read_with_their_cameras(
    shards: ShardDataset, monkeypatch: pytest.MonkeyPatch
):
    read, bytes_read = ShardFile.read, []
    monkeypatch.setattr(
        ShardFile, "read", lambda self, rows, index, out, count=1: (bytes_read.append(out.nbytes), read(self, rows, index, out, count))[1]
    )  # fmt: skip
    loader = Loader(shards, domain(), DataConfig(path=""), split="train", seed=1, batch=3)
    examples, seeds = loader.order(0, range(3))
    batch = loader.train_batch(loader.batch(0, range(3)))
    assert sum(bytes_read) == 3 * 2 * (SIDE * SIDE * 3 + 64)
    rows = domain().rows_to_read(np.array(SIZES)[examples], seeds)
    for side, sets in enumerate((batch.context, batch.queries)):
        assert sets.values.shape == (3, SIDE * SIDE, 3)
        for row, example in enumerate(examples):
            values, poses = scene(int(example), SIZES[example])
            view = rows[row, side]
            gray = (sets.values[row].numpy() + 1) * 127.5
            np.testing.assert_allclose(gray, values[view].reshape(-1, 3), atol=1e-4)
            np.testing.assert_array_equal(sets.condition["camera"][row], poses[view])
            expected = domain().queries(condition={"camera": torch.from_numpy(poses[view])[None]})
            assert sets.queries.coordinates is not None and expected.coordinates is not None
            torch.testing.assert_close(sets.queries.coordinates[row], expected.coordinates[0])
            assert sets.queries.directions is not None and expected.directions is not None
            torch.testing.assert_close(sets.queries.directions[row], expected.directions[0])


def test_whole_scenes_mark_the_views_that_they_do_not_have(shards: ShardDataset):
    sets = domain().to_set(shards.read("train", [0, 1]), torch.arange(2))
    assert sets.mask is not None and sets.mask.sum(1).tolist() == [5 * SIDE**2, 2 * SIDE**2]
    batch = domain().train_batch(sets)
    for part in (batch.context, batch.queries):
        assert part.values.shape == (2, SIDE**2, 3) and torch.isfinite(part.values).all()
        assert ((part.values[1] + 1) * 127.5).max() < 12  # of the second scene, 10 or 11, not padding


def test_a_planned_batch_has_the_shape_of_a_training_batch():
    batch = domain().train_batch(domain().dummy_batch(2))
    spec = domain().shape
    for part in (batch.context, batch.queries):
        assert part.values.shape == (2, spec.num_queries, spec.value_size)
        assert part.condition["camera"].shape == (2, 4, 4) and len(part.queries) == spec.num_queries
    assert not batch.is_shared


def test_several_scenes_are_shown_as_rows_of_views():
    views = np.zeros((2, 3, 64, 64, 3), np.uint8)
    wide, single = domain().render(views), domain().render(views[:1, :1])
    assert wide.size == (3 * 68 + 4, 2 * 68 + 4) and single.size == (64, 64)
    assert radiance.Domain.thumbnails(views).shape == (2, 64, 192, 3)


def test_an_image_file_is_one_view_of_the_default_camera(tmp_path: Path):
    Image.new("RGBA", (12, 8), (255, 0, 0, 0)).save(tmp_path / "clear.png")
    assert radiance.Domain.accepts(tmp_path / "clear.png") and not radiance.Domain.accepts(tmp_path / "a.cif")
    example = domain().read_input(tmp_path / "clear.png", {})
    assert example.values.shape == (1, SIDE, SIDE, 3) and (example.values == 255).all()  # transparent is white
    sets = domain().to_set(batch_of(example.values[None]), torch.zeros(1, dtype=torch.int64))
    expected = torch.from_numpy(cameras.orbit(0, 20, 1.3, field_of_view=radiance.Config().field_of_view))
    torch.testing.assert_close(sets.condition["camera"], expected[None, None])
    default = domain().queries()
    assert sets.queries.coordinates is not None and default.coordinates is not None
    torch.testing.assert_close(sets.queries.coordinates[0], default.coordinates)
