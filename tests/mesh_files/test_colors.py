"""Colors of textures beyond their sides, of OBJ's texture options, and of OFF and STL files."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from inrflow_core.errors import UnreadableItemError
from inrflow_core.mesh_files import reading
from inrflow_core.mesh_files.textures import Texture, Wrap

PIXELS = np.arange(4, dtype=np.uint8)[None, :, None].repeat(3, axis=2)
"""Four pixels in a row: 0, 1, 2, 3."""
RED, BLUE = [255, 0, 0], [0, 0, 255]
CORNERS = "0 0 0\n1 0 0\n0 1 0\n"


def first_color(folder: Path, name: str) -> list[int]:
    body = reading.load(folder, name, with_colors=True)
    assert body.has_colors
    return body.colors(np.array([0]), np.full((1, 3), 1 / 3))[0].round().astype(int).tolist()


@pytest.mark.parametrize(
    ("wrap", "expected"),
    [("repeat", [3, 0, 3, 1]), ("clamp", [0, 0, 3, 3]), ("mirror", [0, 0, 3, 2])],
)
def test_a_texture_beyond_its_sides_is_repeated_clamped_or_mirrored(wrap: Wrap, expected: list[int]) -> None:
    places = np.array([-0.1, 0.1, 0.9, 1.3])
    texture = Texture(PIXELS, np.stack([places, np.full(4, 0.5)], axis=1), (wrap, "repeat"))
    corners = np.arange(4)[:, None].repeat(3, axis=1)
    assert texture.at(corners, np.full((4, 3), 1 / 3))[:, 0].astype(int).tolist() == expected


def textured(folder: Path, options: str) -> str:
    """A triangle around (0.75, 0.5) of a texture whose left half is red and whose right half is blue."""
    Image.fromarray(np.array([[RED, BLUE]], np.uint8).repeat(8, 1)).save(folder / "t.png")
    (folder / "a.mtl").write_text(f"newmtl m\nmap_Kd {options}t.png\n")
    rows = "".join(f"v {row}\n" for row in CORNERS.splitlines())
    (folder / "a.obj").write_text(f"mtllib a.mtl\n{rows}vt 0.7 0.5\nvt 0.75 0.5\nvt 0.8 0.5\nusemtl m\nf 1/1 2/2 3/3\n")
    return "a.obj"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("", BLUE), ("-s 0.5 1 1 ", RED), ("-o 0.5 0 0 ", RED), ("-o 0.5 0 0 -clamp on ", BLUE), ("-s 3 ", RED),
        ("-bm 0.3 -blendu off -imfchan l ", BLUE), ("-mm 0 1 -t 0 0 0 -cc off ", BLUE),
    ],
)  # fmt: skip
def test_options_of_a_texture_scale_move_and_clamp_it(tmp_path: Path, options: str, expected: list[int]) -> None:
    assert first_color(tmp_path, textured(tmp_path, options)) == expected


def test_a_material_that_the_material_files_do_not_define_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "a.mtl").write_text("newmtl red\nKd 1 0 0\n")
    rows = "mtllib a.mtl\nv 0 0 0\nv 1 0 0\nv 1 1 0\nv 0 1 0\nusemtl red\nf 1 2 3\n"
    (tmp_path / "a.obj").write_text(f"{rows}usemtl blue\nf 1 3 4\n")
    with pytest.raises(UnreadableItemError, match="no material `blue`"):
        first_color(tmp_path, "a.obj")
    for none in ("None", "(null)"):  # what exporters write for faces without a material
        (tmp_path / "b.obj").write_text(f"{rows}usemtl {none}\nf 1 3 4\n")
        body = reading.load(tmp_path, "b.obj", with_colors=True)
        shown = body.colors(np.arange(2), np.full((2, 3), 1 / 3)).round().astype(int).tolist()
        assert sorted(shown) == [[190] * 3, RED]


@pytest.mark.parametrize("options", ["-mm 0.2 1 ", "-t 0.1 0 0 ", "-cc on ", "-rotate 90 "])
def test_options_that_are_not_applied_are_refused_by_name(tmp_path: Path, options: str) -> None:
    with pytest.raises(UnreadableItemError, match=f"option `{options.split()[0]}`"):
        first_color(tmp_path, textured(tmp_path, options))


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (f"OFF\n3 1 0\n{CORNERS}3 0 1 2 255 128 0\n", [255, 128, 0]),
        (f"OFF\n3 1 0\n{CORNERS}3 0 1 2 1.0 0.5 0.0 1.0\n", [255, 128, 0]),
        ("COFF\n3 1 0\n" + CORNERS.replace("\n", " 51 102 0 255\n") + "3 0 1 2\n", [51, 102, 0]),
        ("COFF\n3 1 0\n" + CORNERS.replace("\n", " 0.2 0.4 0.0 1.0\n") + "3 0 1 2\n", [51, 102, 0]),
    ],
)
def test_colors_of_off_are_bytes_or_with_a_point_fractions(tmp_path: Path, content: str, expected: list[int]) -> None:
    (tmp_path / "a.off").write_text(content)
    assert first_color(tmp_path, "a.off") == expected


@pytest.mark.parametrize(
    ("header", "attribute", "expected"),
    [
        (b"COLOR=\x10\x20\x30\xff", 0x8000, [16, 32, 48]),
        (b"COLOR=\x10\x20\x30\xff", 31, RED),
        (b"made by hand", 0x8000 | 31, BLUE),
        (b"made by hand", 0x8000 | 31 << 10, RED),
    ],
)
def test_colors_of_stl_are_those_of_materialise_or_viscam(
    tmp_path: Path, header: bytes, attribute: int, expected: list[int]
) -> None:
    record = struct.pack("<12fH", *[0.0] * 3, *map(float, CORNERS.split()), attribute)
    (tmp_path / "a.stl").write_bytes(header.ljust(80) + struct.pack("<I", 1) + record)
    assert first_color(tmp_path, "a.stl") == expected
