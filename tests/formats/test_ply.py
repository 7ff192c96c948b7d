"""PLY: writing then reading gives the same bits; foreign and broken files are met."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from inrflow_core.errors import IntegrityError, UsageError
from inrflow_core.formats import ply
from inrflow_core.geometry import ply_reader

ORIGIN = {"inrflow": "0.1.0", "note": "two\nlines and a sign: é"}


def cloud(count: int = 500, channels: int = 3) -> np.ndarray:
    rng = np.random.default_rng(5)
    points = rng.normal(size=(count, 3)).astype(np.float32) * np.float32(10.0) ** rng.integers(-20, 20, (count, 3))
    colors = rng.integers(0, 256, (count, 3)).astype(np.float32) * np.float32(2 / 255) - 1
    return np.concatenate([points, colors], axis=1)[:, :channels].astype(np.float32)


@pytest.mark.parametrize("is_text", [False, True])
@pytest.mark.parametrize("channels", [3, 6])
def test_write_then_read_is_exact(tmp_path: Path, is_text: bool, channels: int) -> None:
    points = cloud(channels=channels)
    ply.write(tmp_path / "out.ply", points, origin=ORIGIN, is_text=is_text)
    np.testing.assert_array_equal(ply_reader.read_points(tmp_path / "out.ply"), points)


@pytest.mark.parametrize("is_text", [False, True])
def test_open3d_reads_the_same_points_normals_and_colors(tmp_path: Path, is_text: bool) -> None:
    from inrflow_core.geometry.open3d_import import load_open3d

    rng = np.random.default_rng(0)
    points = rng.normal(size=(300, 6)).astype(np.float32).clip(-1, 1)
    ply.write(tmp_path / "out.ply", points, origin=ORIGIN, is_text=is_text, has_normals=True)
    read = load_open3d().io.read_point_cloud(str(tmp_path / "out.ply"))
    np.testing.assert_array_equal(np.asarray(read.points).astype(np.float32), points[:, :3])
    np.testing.assert_allclose(np.linalg.norm(np.asarray(read.normals), axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(np.asarray(read.colors) * 2 - 1, points[:, 3:], atol=1 / 255)


def test_colors_can_be_left_out_and_not_be_invented(tmp_path: Path) -> None:
    ply.write(tmp_path / "out.ply", cloud(channels=6), origin={}, has_colors=False)
    assert list(ply_reader.read_columns(tmp_path / "out.ply")) == ["x", "y", "z"]
    with pytest.raises(UsageError, match="the cloud has no colors"):
        ply.write(tmp_path / "other.ply", cloud(), origin={}, has_colors=True)


def test_a_comment_stays_on_one_ascii_line(tmp_path: Path) -> None:
    ply.write(tmp_path / "out.ply", cloud(), origin=ORIGIN)
    head = (tmp_path / "out.ply").read_bytes().split(b"end_header\n")[0]
    assert b"comment note: two lines and a sign: ?\n" in head


BIG_ENDIAN = (
    b"ply\r\nformat binary_big_endian 1.0\r\nobj_info made elsewhere\r\nelement camera 1\r\nproperty float fov\r\n"
    b"element vertex 2\r\nproperty double x\r\nproperty double y\r\nproperty double z\r\nproperty uchar red\r\n"
    b"property uchar green\r\nproperty uchar blue\r\nelement face 1\r\nproperty list uchar int vertex_indices\r\n"
    b"end_header\r\n"
)


def test_a_foreign_file_of_another_order_with_elements_around_the_vertices_is_read(tmp_path: Path) -> None:
    row = np.dtype([("p", ">f8", 3), ("c", "u1", 3)])
    body = np.array([((1, 2, 3), (0, 255, 0)), ((4, 5, 6), (255, 0, 0))], dtype=row).tobytes()
    (tmp_path / "a.ply").write_bytes(BIG_ENDIAN + b"\0\0\0\0" + body + b"\x03" + bytes(12))
    expected = [[1, 2, 3, -1, 1, -1], [4, 5, 6, 1, -1, -1]]
    np.testing.assert_array_equal(ply_reader.read_points(tmp_path / "a.ply"), np.array(expected, dtype=np.float32))


def damaged(raw: bytes) -> dict[str, bytes]:
    return {
        "junk": b"\x89PNG\r\n" + bytes(100),
        "empty": b"",
        "no-end": raw[:40],
        "cut": raw[:-7],
        "unknown-type": raw.replace(b"float x", b"quart x"),
        "no-vertices": raw.replace(b"element vertex", b"element ground"),
        "no-x": raw.replace(b"float x", b"float u"),
        "lying": raw.replace(b"vertex 500", b"vertex 999"),
        "huge": raw.replace(b"vertex 500", b"vertex 999999999999999999"),
        "beyond": raw.replace(b"vertex 500", b"vertex " + b"9" * 40),
        "negative": raw.replace(b"element vertex", b"element edge -9\nproperty float a\nelement vertex"),
        "no-count": raw.replace(b"vertex 500", b"vertex"),
        "no-format": raw.replace(b"format binary_little_endian 1.0", b"format"),
        "no-type": raw.replace(b"property float x", b"property"),
        "nan": raw[:-12] + np.full(3, np.nan, dtype="<f4").tobytes(),
        "no-points": raw.split(b"end_header\n")[0].replace(b"vertex 500", b"vertex 0") + b"end_header\n",
    }


@pytest.mark.parametrize("fault", list(damaged(b"")))
def test_a_damaged_file_is_an_integrity_error_that_names_it(tmp_path: Path, fault: str) -> None:
    path = tmp_path / "a.ply"
    ply.write(path, cloud(), origin={})
    path.write_bytes(damaged(path.read_bytes())[fault])
    with pytest.raises(IntegrityError, match=r"a\.ply"):
        ply_reader.read_points(path)


def test_a_real_mesh_gives_its_vertices(real_data: Callable[[str], Path]) -> None:
    points = ply_reader.read_points(real_data("pointclouds/point_e_examples/corgi.ply"))
    from inrflow_core.geometry.open3d_import import load_open3d

    mesh = load_open3d().io.read_triangle_mesh(str(real_data("pointclouds/point_e_examples/corgi.ply")))
    np.testing.assert_array_equal(points[:, :3], np.asarray(mesh.vertices).astype(np.float32))


@pytest.mark.parametrize(
    ("kind", "dtype", "factor"), [("ushort", "<u2", 257), ("float", "<f4", 1), ("float", "<f4", 1 / 255)]
)
def test_colors_of_every_type_are_scaled(tmp_path: Path, kind: str, dtype: str, factor: float) -> None:
    rows = np.zeros(2, [("p", "<f4", 3), ("c", dtype, 3)])
    rows["p"], rows["c"] = [[0, 0, 0], [1, 1, 1]], np.array([[0, 51, 255], [255, 0, 0]]) * factor
    properties = [
        *(f"property float {name}" for name in "xyz"),
        *(f"property {kind} {name}" for name in ply_reader.COLORS),
    ]
    head = "\n".join(["ply", "format binary_little_endian 1.0", "element vertex 2", *properties, "end_header\n"])
    (tmp_path / "a.ply").write_bytes(head.encode() + rows.tobytes())
    np.testing.assert_allclose(
        ply_reader.read_points(tmp_path / "a.ply")[:, 3:], [[-1, -0.6, 1], [1, -1, -1]], atol=1e-6
    )


def test_a_cloud_of_doubles_far_away_is_centered_before_it_is_single(tmp_path: Path) -> None:
    points = np.random.default_rng(0).uniform(-1, 1, size=(512, 3)) + [4_500_000, 500_000, 200]
    head = "ply\nformat binary_little_endian 1.0\nelement vertex 512\n"
    head += "".join(f"property double {name}\n" for name in "xyz") + "end_header\n"
    (tmp_path / "a.ply").write_bytes(head.encode() + points.tobytes())
    read, center = ply_reader.read_cloud(tmp_path / "a.ply")
    assert len(np.unique(read[:, 0])) == 512
    np.testing.assert_allclose(read + center, points, atol=1e-6)
