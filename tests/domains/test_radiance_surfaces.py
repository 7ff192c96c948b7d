"""Scenes that are encoded from points of their surface: what the encoder and the decoder see, and files of surfaces."""

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
from inrflow_core.errors import IntegrityError, UsageError
from inrflow_core.geometry import cameras
from inrflow_core.shards.shard_dataset import ShardDataset
from inrflow_core.training.loader import Loader
from tests.domains import scenes

SIDE, VIEWS, STORED = 4, 5, 12
EXTENT = 0.8


def domain(**settings: Any) -> radiance.Domain:
    return radiance.Domain(radiance.Config(**({"resolution": SIDE, "surface_points": 8, "extent": EXTENT} | settings)))


def surfaces(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-0.7, 0.7, (count, STORED, 6)).astype(np.float32)


@pytest.fixture
def loader(tmp_path: Path) -> Loader:
    """Three scenes, whose views are gray by scene and view."""
    found = []
    for scene in range(3):
        gray = np.arange(10 * scene, 10 * scene + VIEWS, dtype=np.uint8)
        values = np.broadcast_to(gray[:, None, None, None], (VIEWS, SIDE, SIDE, 3)).copy()
        found.append((values, np.stack([cameras.orbit(40 * view + scene, 10, 1.3) for view in range(VIEWS)])))
    folder = scenes.write_splits(tmp_path, {"train": found}, surfaces={"train": surfaces(3)})
    return Loader(ShardDataset(folder), domain(), DataConfig(str(folder)), split="train", seed=0, batch=3)


def test_the_encoder_reads_a_subset_of_the_points_in_units_of_the_cube_and_the_decoder_one_view(loader: Loader):
    seen = set()
    for step in range(12):
        examples, seeds = loader.order(step, range(3))
        sets = loader.sets(examples, seeds, augment=True)
        batch = loader.train_batch(sets)
        for row, scene in enumerate(examples.tolist()):
            stored = surfaces(3)[scene] / np.array([EXTENT] * 3 + [1] * 3, dtype=np.float32)
            mine = batch.context.values[row].numpy()
            assert mine.shape == (8, 6) and len(np.unique(mine, axis=0)) == 8
            nearest = np.abs(mine[:, None] - stored[None]).max(-1).min(1)
            assert nearest.max() < 1e-6
            gray = batch.queries.values[row].add(1).mul(127.5).round().unique()
            assert len(gray) == 1 and int(gray) // 10 == scene
            view = int(gray) % 10
            expected = torch.from_numpy(cameras.orbit(40 * view + scene, 10, 1.3))
            torch.testing.assert_close(batch.queries.condition["camera"][row], expected)
            seen.add((scene, view))
        rays = loader.domain.queries(condition=batch.queries.condition)
        torch.testing.assert_close(batch.queries.queries.coordinates, rays.coordinates)
        torch.testing.assert_close(batch.queries.queries.directions, rays.directions)
        assert "views" not in batch.context.condition and "views" not in batch.queries.condition
    assert len(seen) > 10, "of 15 views"
    again = loader.train_batch(loader.batch(0, range(3)))
    torch.testing.assert_close(again.context.values, loader.train_batch(loader.batch(0, range(3))).context.values)
    one = loader.train_batch(loader.batch(0, range(1, 2)))
    assert torch.equal(one.context.values[0], again.context.values[1])
    assert torch.equal(one.queries.values[0], again.queries.values[1])


def test_weights_record_no_cameras_where_the_encoder_reads_no_view(loader: Loader):
    assert loader.support_cameras() is None
    loader.domain = domain(surface_points=None)
    assert loader.support_cameras() is not None


def at_corner() -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """A view, and a surface of which one coordinate is 0.7."""
    return np.zeros((1, 1, SIDE, SIDE, 3), np.uint8), {"surface": np.full((1, STORED, 6), 0.7, np.float32)}


def test_too_few_points_are_refused_in_training_and_taken_as_they_are_else():
    batch = batch_of(np.zeros((1, 1, SIDE, SIDE, 3), np.uint8), {"surface": surfaces(1)})
    many = domain(surface_points=20)
    with pytest.raises(UsageError, match="the scenes have 12 surface points, and the preset needs 20"):
        many.to_set(batch, torch.zeros(1, dtype=torch.int64), augment=True)
    assert many.to_set(batch, torch.zeros(1, dtype=torch.int64)).values.shape == (1, STORED, 6)
    with pytest.raises(UsageError, match="has a coordinate of 0.7, and scenes are within 0.5 of the origin") as refusal:
        domain(extent=0.5).to_set(batch_of(*at_corner()), torch.zeros(1, dtype=torch.int64), augment=True)
    assert refusal.value.hint == "set `domain.extent=0.707`, or prepare smaller scenes"
    with pytest.raises(ValueError, match="`surface_points` is 0: at least 1"):
        radiance.Config(surface_points=0)


def test_the_cube_of_the_network_is_that_of_the_domain():
    layout = domain().shape.layout
    assert (layout.extent, layout.surface_points) == (EXTENT, 8)  # pyright: ignore[reportAttributeAccessIssue]
    assert domain().box == ((-EXTENT,) * 3, (EXTENT,) * 3)


def write_cloud(path: Path, colors: bool = True) -> np.ndarray:
    rng = np.random.default_rng(2)
    points = rng.uniform(-1, 1, (50, 3)) * [3, 1, 2] + [7, 0, 0]
    rgb = rng.integers(0, 256, (50, 3))
    names = "".join(f"property uchar {name}\n" for name in ("red", "green", "blue")) if colors else ""
    header = f"ply\nformat ascii 1.0\nelement vertex 50\nproperty float x\nproperty float y\nproperty float z\n{names}"
    rows = np.concatenate([points, rgb], 1) if colors else points
    lines = [" ".join(f"{number:.6g}" for number in row) for row in rows]
    path.write_text(header + "end_header\n" + "\n".join(lines) + "\n")
    return np.concatenate([points, rgb / 127.5 - 1], 1)


def test_a_colored_cloud_is_placed_in_the_cube_and_comes_back_to_its_own_units(tmp_path: Path):
    original = write_cloud(tmp_path / "a.ply")
    example = domain().read_input(tmp_path / "a.ply", {})
    surface = example.condition["surface"]
    assert example.values.shape == (0, SIDE, SIDE, 3)
    assert np.linalg.norm(surface[:, :3], axis=1).max() == pytest.approx(EXTENT, abs=1e-5)
    np.testing.assert_allclose(surface[:, :3] * example.scale + example.offset, original[:, :3], atol=1e-4)
    np.testing.assert_allclose(surface[:, 3:], original[:, 3:], atol=1e-6)
    sets = domain().to_set(
        batch_of(example.values[None], {"surface": surface[None]}), torch.zeros(1, dtype=torch.int64)
    )
    assert sets.values.shape == (1, 8, 6) and not sets.condition


def test_a_mesh_is_read_as_points_on_its_surface_with_their_colors(tmp_path: Path):
    (tmp_path / "a.obj").write_text("mtllib a.mtl\nv 0 0 0\nv 2 0 0\nv 0 2 0\nusemtl red\nf 1 2 3\n")
    (tmp_path / "a.mtl").write_text("newmtl red\nKd 1 0 0\n")
    surface = domain().read_input(tmp_path / "a.obj", {}).condition["surface"]
    assert surface.shape == (10_000, 6)
    np.testing.assert_allclose(surface[:, 3:], np.tile([1, -1, -1], (10_000, 1)), atol=1e-6)
    assert np.array_equal(surface, domain().read_input(tmp_path / "a.obj", {}).condition["surface"])
    (tmp_path / "far.obj").write_text("v 4500000.25 0 9e8\nv 4500002.25 0 9e8\nv 4500000.25 2 9e8\nf 1 2 3\n")
    example = domain().read_input(tmp_path / "far.obj", {})
    assert example.scale == pytest.approx(2**0.5 / EXTENT) and np.allclose(
        example.offset, [4500001.25, 1, 9e8], 0, 1e-6
    )
    coordinates = example.condition["surface"][:, :3]
    assert len(np.unique(coordinates[:, 0])) > 9_000  # single precision there has steps of half a unit
    np.testing.assert_allclose(coordinates.max(0), [EXTENT / 2**0.5] * 2 + [0], atol=0.02)
    (tmp_path / "b.obj").write_text("nothing")
    with pytest.raises(IntegrityError, match="cannot be read"):
        domain().read_input(tmp_path / "b.obj", {})


def test_files_of_the_other_kind_and_clouds_without_colors_are_refused(tmp_path: Path):
    write_cloud(tmp_path / "plain.ply", colors=False)
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    with pytest.raises(UsageError, match="have no colors"):
        domain().read_input(tmp_path / "plain.ply", {})
    with pytest.raises(UsageError, match="the model encodes scenes from colored points of a surface"):
        domain().read_input(tmp_path / "a.png", {})
    with pytest.raises(UsageError, match="the model encodes scenes from a view"):
        domain(surface_points=None).read_input(tmp_path / "plain.ply", {})


def test_the_error_of_colors_is_that_at_the_points():
    surface = surfaces(1)[0]
    example = radiance.InputExample(np.empty((0, SIDE, SIDE, 3), np.uint8), condition={"surface": surface})

    def medium(points: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        rows = [int(np.abs(surface[:, :3] - point.numpy()).sum(1).argmin()) for point in points]
        return torch.ones(len(points)), (torch.from_numpy(surface[rows, 3:]) + 1) / 2 + 0.1

    assert domain().color_error(medium, example, chunk=5) == {"color_psnr": pytest.approx(20, abs=1e-3)}
