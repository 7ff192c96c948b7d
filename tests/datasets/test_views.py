"""Rendered scenes: objects are within the depths of SRN's cameras, and a mesh alone decides its views and its split."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inrflow_core.datasets import views
from inrflow_core.datasets._contract import Example
from inrflow_core.errors import MissingError
from inrflow_core.geometry import cameras
from inrflow_core.preparation import pipeline
from inrflow_core.preparation.job import resolve_job
from inrflow_core.shards.shard_dataset import ShardDataset

# A wedge, off the origin: its corners are at least 1 from the middle of its box.
WEDGE = (
    "mtllib a.mtl\nv 10 0 0\nv 16 0 0\nv 16 0 4\nv 10 0 4\nv 10 3 0\nv 10 3 4\n"
    "usemtl red\nf 1 2 3 4\nf 1 5 2\nf 2 5 6 3\nf 4 3 6\nf 1 4 6 5\n"
)
CORNERS = np.array([line.split()[1:] for line in WEDGE.split("\n") if line.startswith("v ")], dtype=np.float64)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "meshes"
    folder.mkdir()
    (folder / "wedge.obj").write_text(WEDGE)
    (folder / "a.mtl").write_text("newmtl red\nKd 1 0 0\n")
    return folder


def read(source: Path, name: str = "wedge.obj", **settings: Any) -> Example:
    given: dict[str, Any] = {"resolution": 48, "views": 6, "val": 0.0} | settings
    config = views.Config(**given)
    items = {item.name: item for item in views.scan(source, config).splits["train"]}
    return views.read(items[name], config)


def test_every_corner_is_within_the_depths_of_srn_and_on_the_object_in_the_image(source: Path):
    example = read(source)
    assert example.values.shape == (6, 48, 48, 3)
    center = (CORNERS.min(0) + CORNERS.max(0)) / 2
    scaled = (CORNERS - center) * 0.5 / np.linalg.norm(CORNERS - center, axis=1).max()
    for image, camera in zip(example.values, example.variable_length["camera"], strict=True):
        seen, depths = cameras.project(camera, scaled)
        assert depths.min() >= 0.8 and depths.max() <= 1.8
        is_object = (image != 255).any(-1)
        row, column = np.nonzero(is_object)
        box = np.stack([column, row], axis=1)
        np.testing.assert_allclose(seen.min(0) * 48, box.min(0), atol=1)
        np.testing.assert_allclose(seen.max(0) * 48, box.max(0) + 1, atol=1)
        assert (image[is_object][:, 0] >= image[is_object][:, 1]).all(), "red, on white at the edge"
        assert not is_object[[0, -1]].any() and not is_object[:, [0, -1]].any() and is_object.sum() > 100
    assert example.variable_length["camera"][0, 3, 0] * 128 == pytest.approx(131.25, abs=1e-4)


def test_random_cameras_are_uniform_on_the_upper_half_of_the_sphere():
    config = views.Config(views=4000)
    positions = views.view_cameras("a", config)[:, :3, 3] / 1.3
    np.testing.assert_allclose(np.linalg.norm(positions, axis=1), 1, atol=1e-6)
    counts, _ = np.histogram(positions[:, 1], bins=4, range=(0, 1))
    assert counts.sum() == 4000 and (np.abs(counts - 1000) < 120).all()
    np.testing.assert_allclose(positions.mean(0), [0, 0.5, 0], atol=0.03)


def test_a_ring_has_equal_steps_at_its_elevation(source: Path):
    poses = read(source, views=4, elevations="ring", elevation=30.0, distance=2.0).variable_length["camera"]
    np.testing.assert_allclose(poses[:, 1, 3], 1, atol=1e-6)
    np.testing.assert_allclose(poses[:2, [0, 2], 3], -poses[2:, [0, 2], 3], atol=1e-6)


def test_equal_meshes_have_equal_views_under_any_name_and_others_have_their_own(source: Path):
    (source / "deeper").mkdir()
    shutil.copy(source / "wedge.obj", source / "deeper" / "other.obj")
    shutil.copy(source / "a.mtl", source / "deeper")
    (source / "third.obj").write_text(WEDGE + "# another\n")
    same, other = read(source, "deeper/other.obj"), read(source, "third.obj")
    np.testing.assert_array_equal(same.values, read(source).values)
    assert np.abs(other.variable_length["camera"] - same.variable_length["camera"]).max() > 0.1


def test_points_of_the_surface_are_on_the_object_with_its_colors_and_change_no_view(source: Path):
    example, plain = read(source, surface_points=500), read(source)
    np.testing.assert_array_equal(example.values, plain.values)
    assert not plain.condition
    surface = example.condition["surface"]
    assert surface.shape == (500, 6) and surface.dtype == np.float32
    np.testing.assert_allclose(surface[:, 3:], np.tile([1, -1, -1], (500, 1)), atol=1e-6)
    assert np.ptp(surface[:, 0]) > 0.7 and np.linalg.norm(surface[:, :3], axis=1).max() <= 0.5 + 1e-6
    for image, camera in zip(example.values, example.variable_length["camera"], strict=True):
        column, row = (cameras.project(camera, surface[:, :3])[0] * 48).astype(int).T
        assert (image[row, column] != 255).any(-1).mean() > 0.97
    (source / "gray.obj").write_text(WEDGE.replace("usemtl red", ""))
    np.testing.assert_allclose(read(source, "gray.obj", surface_points=9).condition["surface"][:, 3:], 190 / 127.5 - 1)


def test_shares_of_the_meshes_are_held_out_by_content(source: Path):
    for number in range(300):
        (source / f"{number}.obj").write_text(f"{WEDGE}# {number}\n")
    splits = {name: len(items) for name, items in views.scan(source, views.Config(val=0.2, test=0.1)).splits.items()}
    assert 40 < splits["val"] < 80 and 15 < splits["test"] < 45 and sum(splits.values()) == 301
    of_val = {item.name for item in views.scan(source, views.Config(val=0.2)).splits["val"]}
    assert {item.name for item in views.scan(source, views.Config(val=0.2, test=0.1)).splits["val"]} == of_val


def test_bad_meshes_are_skipped_with_their_reason(source: Path, tmp_path: Path):
    (source / "empty.obj").write_text("v 0 0 0\n")
    (source / "flat.obj").write_text("v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n")
    config = views.Config(resolution=16, views=4, elevations="ring", elevation=0.0, val=0.0)
    report = pipeline.prepare(resolve_job("views", source, tmp_path / "out", config), workers=1)
    assert report.splits == {"train": 1}
    assert {bad.name: bad.reason for bad in report.skipped} == {
        "empty.obj": "it is a mesh without faces",
        "flat.obj": "2 of its 4 views are all white, the first is `001`",
    }
    batch = ShardDataset(tmp_path / "out").read("train", [0])
    assert batch.values.shape == (1, 4, 16, 16, 3) and batch.condition["camera"].shape == (1, 4, 4, 4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"views": 1}, "`views` is 1: at least 2"),
        ({"surface_points": 0}, "`surface_points` is 0: at least 1"),
        ({"distance": 0.4}, "`distance` is 0.4: above 0.5"),
        ({"val": 0.6, "test": 0.4}, "together below 1"),
        ({"field_of_view": 180.0}, "between 0 and 180"),
        ({"elevation": 91.0}, "from -90 to 90"),
    ],
)
def test_settings_out_of_range_are_named(settings: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        views.Config(**settings)


def test_a_folder_without_meshes_is_an_error(tmp_path: Path):
    with pytest.raises(MissingError, match=r"for .off, .obj"):
        views.scan(tmp_path, views.Config())
