"""Polygons, PLY, OBJ, OFF and STL: the area and the colors that a file says, or the reason why it is refused."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from inrflow_core.errors import UnreadableItemError
from inrflow_core.mesh_files import polygons, reading

L = [(4, 1), (1, 1), (1, 4), (0, 4), (0, 0), (4, 0)]
"""An L of area 7 in a box of area 16; its first corners fan over what is outside."""
ROWS = "".join(f"{x} {y} 0\n" for x, y in L)
SQUARE = "v 0 0 0\nv 1 0 0\nv 1 1 0\nv 0 1 0\nvt 0 0\nvt 1 0\nvt 1 1\nvt 0 1\n"
HEADER = "ply\nformat ascii 1.0\nelement vertex {}\nproperty float x\nproperty float y\nproperty float z\n"
CONCAVE = {
    "a.obj": "".join(f"v {x} {y} 0\n" for x, y in L) + "f 1 2 3 4 5 6\n",
    "a.off": f"OFF\n6 1 0\n{ROWS}6 0 1 2 3 4 5\n",
    "a.ply": HEADER.format(6)
    + f"element face 1\nproperty list uchar int vertex_indices\nend_header\n{ROWS}6 0 1 2 3 4 5\n",
}
TRIANGLES = np.array([[[0, 0, 0], [1, 0, 0], [0, 1, 0]], [[1, 0, 0], [1, 1, 0], [0, 1, 0]]], np.float32)


def load(folder: Path, name: str, content: str | bytes, *, with_colors: bool = False) -> reading.Body:
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return reading.load(folder, name, with_colors=with_colors)


def area(body: reading.Body) -> float:
    first, second, third = (body.mesh.vertices[body.mesh.faces[:, corner]] for corner in range(3))
    return float(np.linalg.norm(np.cross(second - first, third - first), axis=1).sum() / 2)


def color(body: reading.Body, x: float, y: float) -> list[int]:
    """The color of the place (x, y, 0)."""
    for number, corners in enumerate(body.mesh.vertices[body.mesh.faces][:, :, :2]):
        weights = np.linalg.solve(np.vstack([corners.T, np.ones(3)]), [x, y, 1])
        if (weights > -1e-9).all():
            return body.colors(np.array([number]), weights[None])[0].round().astype(int).tolist()
    raise AssertionError("no face is there")


def stl(count: int, tail: bytes = b"") -> bytes:
    records = b"".join(struct.pack("<12fH", 0, 0, 0, *triangle.ravel(), 0) for triangle in TRIANGLES)
    return b"made".ljust(80) + struct.pack("<I", count) + records + tail


@pytest.mark.parametrize("name", CONCAVE)
def test_a_concave_polygon_covers_its_own_area(tmp_path: Path, name: str) -> None:
    body = load(tmp_path, name, CONCAVE[name])
    assert area(body) == pytest.approx(7)
    middle = body.mesh.vertices[body.mesh.faces].mean(1)
    assert not ((middle[:, 0] > 1) & (middle[:, 1] > 1)).any(), "no triangle lies outside"


def test_polygons_of_any_form_are_cut_into_their_area() -> None:
    rng = np.random.default_rng(0)
    for count in (4, 5, 7, 12, 40):
        angles = np.sort(rng.uniform(0, 2 * np.pi, count))
        flat = np.stack([np.cos(angles), np.sin(angles)], axis=1) * rng.uniform(0.2, 1, (count, 1))
        turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
        vertices = np.concatenate([flat, np.zeros((count, 1))], axis=1) @ turn
        corners, owners = polygons.triangulate(vertices, np.arange(count), np.array([count]))
        first, second, third = (vertices[corners[:, corner]] for corner in range(3))
        x, y = flat.T
        truth = abs(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2
        total = np.linalg.norm(np.cross(second - first, third - first), axis=1).sum() / 2
        if np.ptp(np.diff([*angles, angles[0] + 2 * np.pi])) < np.pi:
            assert total == pytest.approx(truth), count
        assert len(corners) == count - 2 and not owners.any()


def test_triangle_strips_of_ply_are_read(tmp_path: Path) -> None:
    head = HEADER.format(6) + "element tristrips 1\nproperty list int int vertex_indices\nend_header\n"
    body = load(tmp_path, "a.ply", head + "0 0 0\n1 0 0\n0 1 0\n1 1 0\n5 0 0\n5 1 0\n8 0 1 2 3 -1 1 4 5\n")
    assert area(body) == pytest.approx(1 + 2) and len(body.mesh.faces) == 3


def test_relative_indices_of_obj_count_back_from_their_face(tmp_path: Path) -> None:
    block = "v 0 0 {0}\nv 2 0 {0}\nv 2 4 {0}\nv 0 4 {0}\nf -4 -3 -2 -1\n"
    body = load(tmp_path, "a.obj", block.format(0) + block.format(8))
    assert np.unique(body.mesh.vertices[body.mesh.faces][..., 2]).tolist() == [0, 8]


@pytest.mark.parametrize(
    "change", [lambda text: text.replace(" ", "\t").replace("\n", "\r\n"), lambda text: f"# caf\xe9\n{text}"]
)
def test_tabs_and_latin_comments_of_obj_change_nothing(tmp_path: Path, change: Callable[[str], str]) -> None:
    assert area(load(tmp_path, "a.obj", change(CONCAVE["a.obj"]).encode("latin-1"))) == pytest.approx(7)


@pytest.mark.parametrize("options", ["", "-s 1 1 1 -bm 0.5 -clamp off "])
def test_a_texture_of_obj_with_options_is_applied(tmp_path: Path, options: str) -> None:
    (tmp_path / "tex").mkdir()
    pixels = np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [255, 255, 255]]], np.uint8)
    Image.fromarray(pixels.repeat(8, 0).repeat(8, 1)).save(tmp_path / "tex" / "a b.png")
    (tmp_path / "a.mtl").write_text(f"newmtl t\nKd 1 1 1\nmap_Kd {options}tex\\a b.png\n")
    text = f"mtllib a.mtl\n{SQUARE}usemtl t\nf 1/1 2/2 3/3 4/4\n"
    body = load(tmp_path, "a.obj", text, with_colors=True)
    assert [color(body, x, y) for x, y in ((0.2, 0.9), (0.9, 0.8), (0.2, 0.1), (0.9, 0.2))] == [
        [255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255]
    ]  # fmt: skip


def test_coordinates_without_a_material_are_no_color(tmp_path: Path) -> None:
    assert not load(tmp_path, "a.obj", SQUARE + "f 1/1 2/2 3/3 4/4\n", with_colors=True).has_colors


def test_bytes_behind_the_triangles_of_stl_are_ignored(tmp_path: Path) -> None:
    assert area(load(tmp_path, "a.stl", stl(2, bytes(100)))) == pytest.approx(1)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.stl", stl(3), "its header promises more triangles than follow"),
        ("a.stl", stl(0), "promises no triangles, and some follow"),
        ("a.stl", stl(4_000_000_000), "its header promises more triangles than follow"),
        ("a.obj", SQUARE + "f 0 1 2\n", "its faces refer to vertices that do not exist"),
        ("a.obj", SQUARE + "cstype bezier\nf 1 2 3\n", "free-form"),
        ("a.obj", SQUARE + "<html>\nf 1 2 3\n", "statements that OBJ does not define"),
        ("a.obj", f"mtllib gone.mtl\n{SQUARE}usemtl m\nf 1 2 3\n", "its material file is not below the source"),
        ("a.off", "OFF BINARY\n\0\0", "a binary OFF file"),
        ("a.off", "OFF\n4000000000 4000000000 0\n0 0 0\n", "it promises more vertices and faces than follow"),
        ("a.ply", HEADER.format(4_000_000_000) + "end_header\n0 0 0\n", "it cannot be read as a .ply file"),
        ("a.ply", HEADER.format(1) + "element range_grid 1\nproperty int n\nend_header\n0 0 0\n0\n", "range data"),
    ],
)  # fmt: skip
def test_what_is_not_applied_is_refused_by_name(tmp_path: Path, name: str, content: str | bytes, reason: str) -> None:
    with pytest.raises(UnreadableItemError, match=reason):
        load(tmp_path, name, content, with_colors=True)
