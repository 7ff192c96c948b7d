"""Clouds that a model encodes, from files of every format."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from inrflow_core.errors import IntegrityError
from inrflow_core.formats import npz, ply
from inrflow_core.geometry import cloud_files
from inrflow_core.geometry.open3d_import import load_open3d

PLY = "ply\nformat ascii 1.0\nelement vertex 2\n{}end_header\n{} 0 0\n0 1 0\n"
XYZ = "".join(f"property double {name}\n" for name in "xyz")


@pytest.mark.parametrize(
    ("number", "message"),
    [
        ("1e39", "its size or position is beyond single precision"),
        ("2e38", "its size or position is beyond single precision"),
        ("nan", "not finite numbers"),
        ("1e38", None),
    ],
)
@pytest.mark.parametrize("suffix", [".ply", ".xyz", ".npy"])
def test_numbers_beyond_single_precision_are_refused_as_such(tmp_path: Path, suffix: str, number: str, message: str):
    path = tmp_path / f"cloud{suffix}"
    if suffix == ".npy":
        np.save(path, [[float(number), 0, 0], [0, 1, 0]])
    else:
        path.write_text(PLY.format(XYZ, number) if suffix == ".ply" else f"{number} 0 0\n0 1 0\n")
    if message is None:
        assert cloud_files.read_input(path)[0][0, 0] == np.float32(1e38)
        return
    with pytest.raises(IntegrityError, match=message) as caught:
        cloud_files.read_input(path)
    assert ("scale its coordinates" in (caught.value.hint or "")) == (number != "nan")


LEVELS = np.random.default_rng(0).integers(0, 256, (50, 3))
COLORED = np.concatenate([np.random.default_rng(1).normal(size=(50, 3)), LEVELS / 127.5 - 1], axis=1).astype(np.float32)


@pytest.mark.parametrize("options", [{"write_ascii": True}, {}, {"compressed": True}], ids=str)
def test_colors_of_pcd_files_of_open3d_are_read_to_the_level(tmp_path: Path, options: dict[str, bool]):
    open3d = load_open3d()
    cloud = open3d.geometry.PointCloud(open3d.utility.Vector3dVector(COLORED[:, :3].astype(float)))
    cloud.colors = open3d.utility.Vector3dVector(LEVELS / 255)
    open3d.io.write_point_cloud(str(tmp_path / "a.pcd"), cloud, **options)
    points, center = cloud_files.read_input(tmp_path / "a.pcd")
    np.testing.assert_allclose(points[:, :3], COLORED[:, :3], atol=1e-6)
    np.testing.assert_array_equal(np.rint((points[:, 3:] + 1) * 127.5), LEVELS)
    assert points.dtype == np.float32 and not center.any()


def test_colors_of_our_own_files_are_those_that_were_written(tmp_path: Path):
    npz.write(tmp_path / "a.npz", COLORED[None], origin={}, array="points")
    ply.write(tmp_path / "a.ply", COLORED, origin={})
    for name in ("a.npz", "a.ply"):
        np.testing.assert_allclose(cloud_files.read_input(tmp_path / name)[0], COLORED, atol=1e-6)
        place = cloud_files.Location(str(tmp_path), name)
        place = cloud_files.rows(tmp_path, name)[0] if name == "a.npz" else place
        assert cloud_files.read(place).shape == (50, 3) and cloud_files.read(place, with_colors=True).shape == (50, 6)


def test_columns_that_may_be_normals_are_no_colors(tmp_path: Path):
    np.savez(tmp_path / "a.npz", points=COLORED)
    np.save(tmp_path / "a.npy", COLORED)
    np.savetxt(tmp_path / "a.xyz", COLORED)
    for name in ("a.npz", "a.npy", "a.xyz"):
        assert cloud_files.read_input(tmp_path / name)[0].shape == (50, 3)
