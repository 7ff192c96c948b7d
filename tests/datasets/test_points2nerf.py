"""Points2NeRF's files: points are on the object in every view, in the project's axes; damaged files are named and counted."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inrflow_core.datasets import points2nerf
from inrflow_core.datasets._contract import Example
from inrflow_core.errors import MissingError, UnreadableItemError
from inrflow_core.geometry import cameras
from inrflow_core.preparation import pipeline
from inrflow_core.preparation.job import resolve_job
from inrflow_core.shards.shard_dataset import ShardDataset

SIDE, VIEWS = 32, 6
BALL = np.array([0.2, -0.1, 0.3])
"""Where a small red ball is in the world of the views, whose z points up."""
POINT = np.array([0.2, 0.3, 0.1]) / 2.2
"""Where it is among the points, in which y points up, as in ShapeNet's files."""
IN_THE_WORLD = np.concatenate([np.tile(BALL, (20, 1)), np.tile([1.0, 0, 0], (20, 1))], 1)
"""Points of its surface of a file whose points are in the world of its views."""
TO_OPENGL = np.diag([1.0, -1.0, -1.0])


def pose(azimuth: float) -> np.ndarray:
    """Camera to world in OpenGL's axes, 2 units from the origin of a world whose z points up."""
    turned = cameras.look_at((1.9 * np.cos(azimuth), 1.9 * np.sin(azimuth), 0.6), up=(0, 0, 1)).astype(np.float64)
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = turned[:3, :3] @ TO_OPENGL, turned[:3, 3]
    return matrix


def view(matrix: np.ndarray) -> np.ndarray:
    """The ball as a red pixel on white: OpenGL looks along -z, with y up."""
    seen = matrix[:3, :3].T @ (BALL - matrix[:3, 3])
    focal = 0.5 * SIDE / np.tan(0.5 * 0.6911112)
    column, row = SIDE / 2 + focal * seen[0] / -seen[2], SIDE / 2 - focal * seen[1] / -seen[2]
    image = np.ones((SIDE, SIDE, 3), np.float16)
    image[int(row), int(column)] = 1, 0, 0
    return image


def arrays(**changes: Any) -> dict[str, np.ndarray]:
    poses = np.stack([pose(number) for number in range(VIEWS)])
    surface = np.concatenate([np.tile(POINT, (20, 1)), np.tile([1.0, 0, 0], (20, 1))], 1)
    whole = {"images": np.stack([view(one) for one in poses]), "cam_poses": poses, "data": surface}
    return {name: value for name, value in (whole | changes).items() if value is not None}


def write(folder: Path, name: str = "a", **changes: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    content: dict[str, Any] = arrays(**changes)
    np.savez(folder / f"{name}.npz", **content)
    return folder


def read(folder: Path, **settings: Any) -> Example:
    given: dict[str, Any] = {"resolution": SIDE, "surface_points": 20} | settings
    config = points2nerf.Config(**given)
    return points2nerf.read(points2nerf.scan(folder, config).splits["train"][0], config)


def test_points_are_on_the_object_in_every_view_and_the_world_has_y_up(tmp_path: Path):
    example = read(write(tmp_path))
    surface, poses = example.condition["surface"], example.variable_length["camera"]
    np.testing.assert_allclose(surface[0], [0.2, 0.3, 0.1, 1, -1, -1], atol=1e-6)
    assert surface.dtype == np.float32 and surface.shape == (20, 6)
    for image, camera in zip(example.values, poses, strict=True):
        row, column = np.argwhere((image != 255).any(-1)).T
        (seen,), _ = cameras.project(camera, surface[:1, :3])
        assert (int(seen[1] * SIDE), int(seen[0] * SIDE)) == (row[0], column[0]) and len(row) == 1
        assert image[row[0], column[0]].tolist() == [255, 0, 0]
    np.testing.assert_allclose(poses[:, 1, 3], 0.6, atol=1e-6)


def test_views_and_points_are_evenly_spaced_where_fewer_are_stored(tmp_path: Path):
    whole = read(write(tmp_path))
    write(tmp_path / "world", data=IN_THE_WORLD)
    some = read(tmp_path / "world", views=3, surface_points=5, up="y", points_up="y", points_scale=1.0, resolution=16)
    assert some.values.shape == (3, 16, 16, 3) and some.condition["surface"].shape == (5, 6)
    np.testing.assert_allclose(some.condition["surface"][0, :3], BALL, atol=1e-6)
    same = read(tmp_path / "world", points_up="z", points_scale=1.0)
    np.testing.assert_allclose(same.condition["surface"][0, :3], 2.2 * POINT, atol=1e-6)
    turn = np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]])
    moved = some.variable_length["camera"][:, :3, 3] @ turn.T
    np.testing.assert_allclose(moved, whole.variable_length["camera"][::2, :3, 3], atol=1e-6)


@pytest.mark.parametrize(
    ("data", "placed", "reason"),
    [
        (
            "world",
            {},
            "0% of its points are on the object in its views, and 100% with `--set points_up=z --set points_scale=1.0`",
        ),
        ("world", {"points_up": "z"}, "100% with `--set points_up=z --set points_scale=1.0`"),
        ("shapenet", {"points_up": "z", "points_scale": 1.0}, "100% with `--set points_up=y --set points_scale=2.2`"),
    ],
)
def test_points_beside_the_object_are_refused_with_the_settings_that_fit(
    tmp_path: Path, data: str, placed: dict[str, Any], reason: str
):
    changes: dict[str, Any] = {"data": IN_THE_WORLD} if data == "world" else {}
    write(tmp_path, **changes)
    with pytest.raises(UnreadableItemError) as caught:
        read(tmp_path, **placed)
    assert reason in caught.value.reason


def test_points_that_no_setting_puts_on_the_object_are_stored_as_they_are(tmp_path: Path):
    """A white object is on white views: nothing says where its points belong."""
    far = np.concatenate([np.full((20, 3), 0.01), np.ones((20, 3))], 1)
    np.testing.assert_allclose(read(write(tmp_path, data=far)).condition["surface"][0, :3], 0.022, atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"data": None}, "it has no array `data`"),
        ({"images": np.ones((2, 8, 9, 3))}, "its `images` are of shape (2, 8, 9, 3), not (n, H, H, 3)"),
        ({"images": np.ones((VIEWS, 16, 16, 3))}, "its views have 16 x 16 pixels, fewer than `resolution`, 32"),
        ({"images": np.ones((VIEWS, SIDE, SIDE, 3))}, "6 of its 6 views are all white"),
        ({"images": np.full((VIEWS, SIDE, SIDE, 3), 7.0)}, "its `images` have numbers that are not from 0 to 1"),
        ({"images": np.full((VIEWS, SIDE, SIDE, 3), np.nan)}, "its `images` have numbers that are not from 0 to 1"),
        ({"images": np.zeros((VIEWS, SIDE, SIDE, 3), np.uint8)}, "its `images` are uint8, not floats"),
        ({"images": np.array([{}])}, "it holds Python objects"),
        ({"cam_poses": np.zeros((5, 4, 4))}, "its `cam_poses` are of shape (5, 4, 4), and it has 6 images"),
        ({"cam_poses": np.ones((VIEWS, 4, 4))}, "the pose of its view 0 is not a rotation and a position"),
        ({"data": np.ones((20, 3))}, "its `data` are of shape (20, 3), not (N, 6)"),
        ({"data": np.ones((19, 6))}, "it has 19 points, fewer than `surface_points`, 20"),
        ({"data": np.full((20, 6), np.inf)}, "its `data` have numbers that are not finite"),
        ({"data": np.full((20, 6), 2.0)}, "the colors of its `data` are not from 0 to 1"),
    ],
)
def test_what_cannot_be_used_is_said(tmp_path: Path, changes: dict[str, Any], reason: str):
    with pytest.raises(UnreadableItemError) as caught:
        read(write(tmp_path, **changes))
    assert reason in caught.value.reason


def test_the_first_four_fifths_by_name_are_for_training_and_a_damaged_file_is_counted(tmp_path: Path):
    for name in "abcde":
        write(tmp_path / "raw", name)
    (tmp_path / "raw" / "b.npz").write_bytes((tmp_path / "raw" / "b.npz").read_bytes()[:300])
    config = points2nerf.Config(resolution=SIDE, surface_points=20)
    report = pipeline.prepare(resolve_job("points2nerf", tmp_path / "raw", tmp_path / "out", config), workers=1)
    assert report.splits == {"train": 3, "test": 1}
    assert [(bad.name, "zip" in bad.reason) for bad in report.skipped] == [("b", True)]
    batch = ShardDataset(tmp_path / "out").read("test", [0])
    np.testing.assert_array_equal(
        batch.condition["surface"][0], read(write(tmp_path / "one", "e")).condition["surface"]
    )


def test_a_scale_of_points_out_of_range_is_refused():
    for scale in (0.0, -1.0, 1001.0, np.nan):
        with pytest.raises(ValueError, match="`points_scale` is .*: above 0, at most 1000"):
            points2nerf.Config(points_scale=scale)


def test_a_source_without_such_files_is_refused(tmp_path: Path):
    with pytest.raises(MissingError, match=re.escape("holds no `points2nerf` data")):
        points2nerf.scan(tmp_path, points2nerf.Config())
