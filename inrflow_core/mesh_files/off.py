"""OFF: polygons with colors of vertices or faces, as Geomview's manual describes the text format.

The keyword is `[ST][C][N][4]OFF` or missing; `#` begins a comment. A file with lines of its own for every vertex and face
can have colors behind them; in others the numbers are read one after the other, without colors of faces.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64

from inrflow_core.errors import UnreadableItemError
from inrflow_core.geometry.color_scales import colors_to_255
from inrflow_core.geometry.ply_reader import numbers_of
from inrflow_core.mesh_files import pieces, polygons
from inrflow_core.mesh_files.pieces import Piece, Skin
from inrflow_core.mesh_files.textures import Fetch

KEYWORD = re.compile(r"(ST)?(C)?(N)?(4)?(n)?OFF", re.IGNORECASE)


@dataclass(frozen=True)
class _Layout:
    """What a keyword says about the numbers of each vertex."""

    is_homogeneous: bool = False
    has_normals: bool = False
    has_colors: bool = False
    has_coordinates: bool = False

    @property
    def least(self) -> int:
        """Numbers of a vertex before its color."""
        return (4 if self.is_homogeneous else 3) + 3 * self.has_normals

    @property
    def after(self) -> int:
        """Numbers of a vertex behind its color."""
        return 2 * self.has_coordinates


@dataclass(frozen=True)
class _Rows:
    """Rows of numbers."""

    flat: Float64[np.ndarray, " K"]
    lengths: Int64[np.ndarray, " N"]
    lines: list[str]
    """Their text, where each has a line."""

    @classmethod
    def of_lines(cls, lines: list[str]) -> _Rows:
        lengths = np.array([len(line.split()) for line in lines], dtype=np.int64)
        flat = numbers_of(" ".join(lines).encode())
        if len(flat) != lengths.sum():
            raise ValueError("its text has something other than numbers")
        return cls(flat, lengths, lines)

    @property
    def starts(self) -> Int64[np.ndarray, " N"]:
        return np.cumsum(self.lengths) - self.lengths

    def column(self, number: int) -> Float64[np.ndarray, " N"]:
        return self.flat[self.starts + number]


def read(content: bytes, fetch: Fetch | None) -> list[Piece]:
    """One piece; without `fetch` it is without colors. Indices into Geomview's table of colors are no colors.

    Raises:
        UnreadableItemError: it is cut off, binary, of another dimension, or has a corner that is not there.
        ValueError: it has something else where a number belongs.
    """
    text = content.decode("utf-8-sig", "replace")
    lines = [line for line in (line.partition("#")[0].strip() for line in text.splitlines()) if line]
    layout, lines = _layout(lines)
    words = lines[0].split() if lines else []
    if len(words) < 2 or not all(word.isdigit() for word in words[:2]):
        raise UnreadableItemError("it has no numbers of vertices and faces")
    num_vertices, num_faces = int(words[0]), int(words[1])
    if not num_faces:
        return []
    if len(lines) > num_vertices + num_faces and len(words) <= 3:
        rows = _Rows.of_lines(lines[1 : 1 + num_vertices])
        faces = _Rows.of_lines(lines[1 + num_vertices : 1 + num_vertices + num_faces])
    else:
        rows, faces = _from_stream(numbers_of(" ".join(lines).encode())[3:], (num_vertices, num_faces), layout)
    vertices, colors = _vertices(rows, layout)
    counts = faces.column(0).astype(np.int64)
    if (counts < 0).any() or (faces.lengths <= counts).any():
        raise UnreadableItemError("it is cut off: a face has fewer corners than it says")
    corners = faces.flat[np.repeat(faces.starts + 1 - np.cumsum(counts) + counts, counts) + np.arange(counts.sum())]
    if not np.array_equal(corners, corners.astype(np.int64)):
        raise UnreadableItemError("its faces have corners that are no whole numbers")
    corners = corners.astype(np.int64)
    pieces.check_corners(corners, len(vertices))
    triangles, owners = polygons.triangulate(vertices, corners, counts)
    if not len(triangles):
        return []
    if fetch is None:
        return [Piece(vertices, corners[triangles])]
    if colors is not None:
        return [Piece(vertices, corners[triangles], Skin(of_vertices=colors))]
    of_faces = _face_colors(faces, counts)
    skin = Skin(of_faces=of_faces[owners]) if of_faces is not None else None
    return [Piece(vertices, corners[triangles], skin)]


def _layout(lines: list[str]) -> tuple[_Layout, list[str]]:
    """What the keyword says, and the lines behind it; counts may stand behind it or be glued to it."""
    match = KEYWORD.match(lines[0]) if lines else None
    if match is None:
        return _Layout(), lines
    rest = lines[0][match.end() :].strip()
    if match[5] or "BINARY" in rest.upper():
        raise UnreadableItemError("it is a binary OFF file, or one of another dimension than 3")
    layout = _Layout(bool(match[4]), bool(match[3]), bool(match[2]), bool(match[1]))
    return layout, [rest, *lines[1:]] if rest else lines[1:]


def _from_stream(numbers: Float64[np.ndarray, " N"], counts: tuple[int, int], layout: _Layout) -> tuple[_Rows, _Rows]:
    """The vertices and faces of a file whose lines mean nothing."""
    num_vertices, num_faces = counts
    width = layout.least + 4 * layout.has_colors + layout.after
    start = num_vertices * width
    if start + num_faces > len(numbers):
        raise UnreadableItemError("it is cut off: it promises more vertices and faces than follow")
    lengths, end = np.empty(num_faces, np.int64), start
    for face in range(num_faces):
        if not end < len(numbers) or not numbers[end] >= 0 or end + 1 + int(numbers[end]) > len(numbers):
            raise UnreadableItemError("it is cut off: it promises more vertices and faces than follow")
        lengths[face] = 1 + int(numbers[end])
        end += int(lengths[face])
    return _Rows(numbers[:start], np.full(num_vertices, width), []), _Rows(numbers[start:end], lengths, [])


def _vertices(rows: _Rows, layout: _Layout) -> tuple[Float64[np.ndarray, "V 3"], Float64[np.ndarray, "V 3"] | None]:
    """Positions, divided by their fourth number where there is one, and colors, where every vertex has one."""
    num_colors = int(rows.lengths[0]) - layout.least - layout.after if len(rows.lengths) else 0
    if (rows.lengths != rows.lengths[:1]).any() or num_colors not in ((3, 4) if layout.has_colors else (0, 3, 4)):
        raise UnreadableItemError("its vertices have other numbers than its first line says")
    numbers = rows.flat.reshape(len(rows.lengths), -1)
    with np.errstate(all="ignore"):
        positions = numbers[:, :3] / numbers[:, 3:4] if layout.is_homogeneous else numbers[:, :3]
    if not num_colors:
        return positions, None
    at = layout.least
    is_whole = not any("." in word for line in rows.lines for word in line.split()[at : at + num_colors])
    return positions, _scaled(numbers[:, at : at + 3], is_whole=is_whole)


def _face_colors(faces: _Rows, counts: Int64[np.ndarray, " P"]) -> Float64[np.ndarray, "P 3"] | None:
    """Colors of faces that have three or four numbers behind their corners; None where no face has."""
    has_color = np.isin(faces.lengths - counts, (4, 5))
    if not has_color.any():
        return None
    places = (faces.starts + 1 + counts)[has_color, None] + np.arange(3)
    is_whole = not any("." in line for line in faces.lines)
    colors = np.full((len(counts), 3), pieces.GRAY)
    colors[has_color] = _scaled(faces.flat[places], is_whole=is_whole)
    return colors


def _scaled(colors: Float64[np.ndarray, "N 3"], *, is_whole: bool) -> Float64[np.ndarray, "N 3"]:
    """Numbers without a decimal point are from 0 to 255, others from 0 to 1."""
    return colors_to_255(colors.astype(np.int64) if is_whole else colors)
