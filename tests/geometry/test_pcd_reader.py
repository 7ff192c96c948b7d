"""PCD files: the encodings agree with each other and with Open3D's writer, and nothing is read beyond a damaged file's end."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from inrflow_core.geometry import pcd_reader
from inrflow_core.geometry.open3d_import import load_open3d

POINTS = np.random.default_rng(0).normal(size=(500, 3))
HEADER = "# .PCD v.7\nVERSION .7\nFIELDS {fields}\nSIZE {size}\nTYPE {type}\nCOUNT {count}\nWIDTH 2\nHEIGHT 1\nPOINTS 2\nDATA {data}\n"


def header(fields="x y z", size="4 4 4", type="F F F", count="1 1 1", data="binary") -> bytes:
    return HEADER.format(fields=fields, size=size, type=type, count=count, data=data).encode()


@pytest.mark.parametrize(
    "options", [{"write_ascii": True}, {}, {"compressed": True}], ids=["ascii", "binary", "packed"]
)
def test_files_of_open3d_give_their_points(tmp_path: Path, options: dict[str, bool]):
    open3d = load_open3d()
    cloud = open3d.geometry.PointCloud(open3d.utility.Vector3dVector(np.concatenate([POINTS, np.zeros((900, 3))])))
    cloud.paint_uniform_color([1, 0, 0])  # runs that LZF copies
    open3d.io.write_point_cloud(str(tmp_path / "a.pcd"), cloud, **options)
    points = pcd_reader.parse((tmp_path / "a.pcd").read_bytes())
    np.testing.assert_allclose(points[:500], POINTS, atol=1e-6)
    assert not points[500:].any() and len(points) == 1400


def test_other_fields_and_types_are_passed_over():
    rows = np.array([(9, [1, 2], 0.5, 1.5, 2.5), (8, [3, 4], 3.5, 4.5, 5.5)], dtype="<u1, (2,)<i2, <f8, <f8, <f8")
    content = header("label normal y x z", "1 2 8 8 8", "U I F F F", "1 2 1 1 1") + rows.tobytes()
    np.testing.assert_array_equal(pcd_reader.parse(content), [[1.5, 0.5, 2.5], [4.5, 3.5, 5.5]])


@pytest.mark.parametrize(
    ("kind", "number"), [("F", "<f4"), ("U", "<u4"), ("I", "<i4")], ids=["float", "unsigned", "signed"]
)
@pytest.mark.parametrize("name", ["rgb", "rgba"])
def test_packed_colors_are_the_lower_bytes_whatever_the_type(kind: str, number: str, name: str):
    packed = np.array([0x00FF8001, 0x7F000203], "<u4")
    rows = np.zeros(2, dtype=[("xyz", "<f4", 3), ("color", number)])
    rows["color"] = packed.view(number)
    head = header(f"x y z {name}", "4 4 4 4", f"F F F {kind}", "1 1 1 1")
    levels = [[255, 128, 1], [0, 2, 3]]
    points = pcd_reader.parse(head + rows.tobytes(), with_colors=True)
    np.testing.assert_allclose((points[:, 3:] + 1) * 127.5, levels, atol=1e-4)
    text = " ".join(f"0 0 0 {value!r}" for value in rows["color"].tolist()).encode()
    points = pcd_reader.parse(head.replace(b"DATA binary", b"DATA ascii") + text, with_colors=True)
    np.testing.assert_allclose((points[:, 3:] + 1) * 127.5, levels, atol=1e-4)
    assert pcd_reader.parse(head + rows.tobytes()).shape == (2, 3)
    for wrong in ("nan", "1e300", *([] if kind == "F" else ["0.5", "99999999999"])):
        text = f"0 0 0 1 0 0 0 {wrong}".encode()
        with pytest.raises(ValueError, match="its colors hold .*, which are not 32 bits"):
            pcd_reader.parse(head.replace(b"DATA binary", b"DATA ascii") + text, with_colors=True)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"ply\n", "no line `DATA`"),
        (header("a b c") + bytes(24), "its points have a, b, c, and not x, y and z"),
        (header(size="4 4") + bytes(24), "differ in length"),
        (header(size="4 4 3") + bytes(24), "type F and size 3"),
        (header(data="zip") + bytes(24), "its data are `zip`"),
        (header() + bytes(23), "ends early: its header promises 2 points of 12 bytes"),
        (header(data="ascii") + b"1 2 3 4 5", "it has 5 numbers, and its header promises 2 points of 3"),
        (header().replace(b"POINTS 2", b"POINTS 99999999999") + bytes(24), "ends early"),
        (header(data="binary_compressed") + bytes(8), "its data are 0 bytes"),
        (header(data="binary_compressed") + b"\x08\0\0\0\x18\0\0\0" + b"\x1f" * 8, "compressed data are damaged"),
        (header(data="binary_compressed") + b"\x02\0\0\0\x18\0\0\0" + b"\xff\xff", "cut off"),
        (header(data="binary_compressed") + b"\x03\0\0\0\x18\0\0\0" + b"\x20\x05\x00", "compressed data are damaged"),
    ],
)
def test_a_damaged_file_is_refused_with_the_reason(content: bytes, reason: str):
    with pytest.raises(ValueError, match=reason):
        pcd_reader.parse(content)
