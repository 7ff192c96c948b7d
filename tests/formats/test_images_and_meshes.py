"""PNG, NPZ, OBJ and GLB: what is read back is what was written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from inrflow_core.geometry import mesh
from inrflow_core.sample_files import writer

ORIGIN = {"preset": "digits-demo", "seed": "3"}


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_one_image_comes_back_from_png_to_the_bit_with_its_origin(tmp_path: Path, channels: int) -> None:
    image = np.random.default_rng(0).integers(0, 256, (1, 9, 7, channels), dtype=np.uint8)
    writer.write(tmp_path / "out.png", image, "image", origin=ORIGIN)
    with Image.open(tmp_path / "out.png") as read:
        np.testing.assert_array_equal(np.asarray(read).reshape(image[0].shape), image[0])
        assert read.text == ORIGIN  # type: ignore[attr-defined]


def test_npz_gives_every_sample_to_the_bit_without_pickles(tmp_path: Path) -> None:
    clouds = np.random.default_rng(0).normal(size=(3, 50, 6)).astype(np.float32)
    writer.write(tmp_path / "out.npz", clouds, "points", origin=ORIGIN)
    with np.load(tmp_path / "out.npz", allow_pickle=False) as archive:
        np.testing.assert_array_equal(archive["points"], clouds)
        assert str(archive["origin"]) == '{"preset": "digits-demo", "seed": "3"}'


@pytest.mark.parametrize("suffix", [".obj", ".glb"])
@pytest.mark.parametrize("channels", [3, 6])
def test_trimesh_reads_the_reconstructed_mesh_with_its_colors(tmp_path: Path, suffix: str, channels: int) -> None:
    import trimesh

    rng = np.random.default_rng(0)
    points = rng.normal(size=(1, 900, 3))
    points /= np.linalg.norm(points, axis=2, keepdims=True)
    cloud = np.concatenate([points, np.sign(points)], axis=2).astype(np.float32)[..., :channels]
    path = tmp_path / f"out{suffix}"
    writer.write(path, cloud, "points", origin=ORIGIN, surface="pivoting")
    expected = mesh.reconstruct_surface(cloud[0], method="pivoting")
    read = trimesh.load(path, force="mesh", process=False, maintain_order=True)
    assert isinstance(read, trimesh.Trimesh)
    np.testing.assert_allclose(read.vertices, expected.vertices, atol=1e-5)
    np.testing.assert_array_equal(read.faces, expected.faces)
    if channels == 6:
        colors = np.asarray(getattr(read.visual, "vertex_colors"))  # noqa: B009 (trimesh's classes hide it)
        np.testing.assert_array_equal(colors[:, :3], expected.colors)


def test_columns_of_a_sheet_and_size_of_a_cloud_are_options(tmp_path: Path) -> None:
    images = np.zeros((6, 64, 64, 1), dtype=np.uint8)
    writer.write(tmp_path / "a.png", images, "image", origin={}, columns=6)
    clouds = np.random.default_rng(0).normal(size=(1, 50, 3)).astype(np.float32)
    writer.write(tmp_path / "b.png", clouds, "points", origin={}, size=100)
    assert Image.open(tmp_path / "a.png").size == (6 * 68 + 4, 72)
    assert Image.open(tmp_path / "b.png").size == (100, 100)
