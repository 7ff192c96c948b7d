"""Wavefront OBJ: polygons with materials, read line by line as version 3.0 of the format says.

Applied: `v` (with w, or with colors behind it), `vt`, `f` with indices from the start or back from the face,
`mtllib`, `usemtl`, continued lines. Groups, smoothing, normals, points and lines change no surface and are ignored.
"""

from __future__ import annotations

import array
import codecs
import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float64, Int64

from inrflow_core.errors import UnreadableItemError
from inrflow_core.geometry.color_scales import colors_to_255
from inrflow_core.mesh_files import mtl, pieces, polygons
from inrflow_core.mesh_files.pieces import Piece, Skin
from inrflow_core.mesh_files.textures import Fetch, Texture

IGNORED = {
    *("vn", "vp", "p", "l", "g", "s", "mg", "o", "bevel", "c_interp", "d_interp", "lod", "shadow_obj", "trace_obj"),
    *("ctech", "stech", "deg", "bmat", "step", "parm", "trim", "hole", "scrv", "sp", "end", "con", "vc"),
}
"""Statements that change no surface of polygons, or that belong to one of `FREE_FORM`."""
FREE_FORM = {"cstype", "curv", "curv2", "surf", "bsp", "bzp", "cdc", "cdp", "res"}
NUMBERS = {"v", "vt", "f", "fo"}
"""Statements of numbers, behind which a comment may stand."""
NO_MATERIAL = ("", "None", "(null)")
"""What exporters write behind `usemtl` for faces without a material."""
BLOCK = 1 << 18
"""Words that are parsed at once."""
REFUSED = {"call": "it calls other files", "csh": "it runs other programs", "usemap": "it has texture maps by `usemap`"}


class _Rows:
    """Rows of words, parsed in blocks: as text they would take many times the memory of the file."""

    def __init__(self, parse: Callable[[list[str]], np.ndarray]) -> None:
        self.counts = array.array("q")
        self._parse, self._words, self._parsed = parse, list[str](), [parse([])]

    def add(self, words: Sequence[str]) -> None:
        self.counts.append(len(words))
        self._words += words
        if len(self._words) > BLOCK:
            self._parsed, self._words = [*self._parsed, self._parse(self._words)], []

    def flat(self) -> np.ndarray:
        """All rows, one after the other."""
        return np.concatenate([*self._parsed, self._parse(self._words)])


@dataclass
class _Statements:
    """The statements of a file, in their order."""

    positions: _Rows = field(default_factory=lambda: _Rows(_floats))
    coordinates: _Rows = field(default_factory=lambda: _Rows(_floats))
    faces: _Rows = field(default_factory=lambda: _Rows(_index_pairs))
    counts_before: array.array = field(default_factory=lambda: array.array("q"))
    """Vertices and texture coordinates that stand above each face, where indices count back from: two for each."""
    materials: array.array = field(default_factory=lambda: array.array("q"))
    """The number of the material of each face."""
    names: dict[str, int] = field(default_factory=lambda: {"": 0})
    """Numbers of the materials; the first is that of faces above any `usemtl`."""
    libraries: list[str] = field(default_factory=list)


def read(content: bytes, fetch: Fetch | None) -> list[Piece]:
    """One piece for each material, the one that is named last first; without `fetch` all are without colors.

    Raises:
        UnreadableItemError: it has a statement that is not applied, a corner that is not there, or a material file or
            texture that is not below the source.
        ValueError: it has something else where a number belongs.
    """
    statements = _statements(_lines(content))
    if not len(statements.faces.counts):
        return []
    vertices, colors = _vertices(statements.positions)
    corners, texture_corners, counts = _corners(statements, len(vertices))
    triangles, owners = polygons.triangulate(vertices, corners, counts)
    faces = corners[triangles]
    if fetch is None:
        return [Piece(vertices, faces)]
    materials = _materials(statements, fetch)
    used = np.array(statements.materials, dtype=np.int64)[owners]
    coordinates = _coordinates(statements.coordinates)
    found = []
    for name, number in reversed(statements.names.items()):
        rows = used == number
        if rows.any():
            at = texture_corners[triangles[rows]]
            found.append(_piece(vertices, faces[rows], colors, materials.get(name), (coordinates, at)))
    return found


def _lines(content: bytes) -> Iterator[str]:
    """The lines, in UTF-8 or else Latin-1; a backslash at the end joins the next."""
    if b"\n" not in content:
        content = content.replace(b"\r", b"\n")
    if content.isascii() and b"\\" not in content:
        yield from io.TextIOWrapper(io.BytesIO(content), encoding="ascii", newline="\n")
        return
    begun = ""
    for raw in io.BytesIO(content.removeprefix(codecs.BOM_UTF8)):
        try:
            line = begun + raw.decode("utf-8").rstrip("\r\n")
        except UnicodeDecodeError:
            line = begun + raw.decode("latin-1").rstrip("\r\n")
        begun = line[:-1] + " " if line.endswith("\\") else ""
        if not begun:
            yield line
    yield begun


def _statements(lines: Iterable[str]) -> _Statements:
    found, material = _Statements(), 0
    for line in lines:
        words = line.split()
        word = words[0] if words else "#"
        if word in NUMBERS and "#" in line:
            words = line.partition("#")[0].split()
        if word == "v":
            found.positions.add(words[1:])
        elif word == "vt":
            found.coordinates.add(words[1:])
        elif word in ("f", "fo"):
            found.faces.add(words[1:])
            found.counts_before.extend((len(found.positions.counts), len(found.coordinates.counts)))
            found.materials.append(material)
        elif word == "usemtl":
            material = found.names.setdefault(_argument(line), len(found.names))
        elif word == "mtllib":
            found.libraries.append(_argument(line))
        elif word in FREE_FORM:
            raise UnreadableItemError("it has free-form curves or surfaces")
        elif word in REFUSED:
            raise UnreadableItemError(REFUSED[word])
        elif word not in IGNORED and not word.startswith("#"):
            raise UnreadableItemError("it has statements that OBJ does not define")
    return found


def _argument(line: str) -> str:
    """What follows the keyword."""
    return line.strip().partition(line.split(None, 1)[0])[2].strip()


def _floats(words: list[str]) -> Float64[np.ndarray, " N"]:
    return np.array(words, dtype=np.float64)


def _index_pairs(words: list[str]) -> Int64[np.ndarray, "N 2"]:
    """The vertex and the texture coordinate of corners such as `7`, `7/2`, `7//3` or `7/2/3`; 0 for none."""
    pairs = np.zeros((len(words), 2), dtype=np.int64)
    if not any("/" in word for word in words):
        pairs[:, 0] = np.array(words, dtype=np.int64)
        if not pairs[:, 0].all():
            raise UnreadableItemError(pieces.NO_CORNERS)
        return pairs
    split = [word.split("/") for word in words]
    pairs[:, 0] = np.array([parts[0] for parts in split], dtype=np.int64)
    has_second = np.array([len(parts) > 1 and parts[1] != "" for parts in split], dtype=bool)
    second = np.array([parts[1] for parts in split if len(parts) > 1 and parts[1]], dtype=np.int64)
    if not pairs[:, 0].all() or not second.all():
        raise UnreadableItemError(pieces.NO_CORNERS)
    pairs[has_second, 1] = second
    return pairs


def _vertices(rows: _Rows) -> tuple[Float64[np.ndarray, "V 3"], Float64[np.ndarray, "V 3"] | None]:
    """Positions, divided by w where there is one, and colors where some vertex has them; the others are gray."""
    lengths, flat = np.array(rows.counts, dtype=np.int64), rows.flat()
    starts = np.cumsum(lengths) - lengths
    positions, colors = np.empty((len(lengths), 3)), np.full((len(lengths), 3), pieces.GRAY)
    for length in np.unique(lengths).tolist():
        if length not in (3, 4, 6, 7):
            raise UnreadableItemError("it has vertices of other than 3, 4, 6 or 7 numbers")
        is_this = lengths == length
        numbers = flat[starts[is_this, None] + np.arange(length)]
        with np.errstate(all="ignore"):
            positions[is_this] = numbers[:, :3] / numbers[:, 3:] if length == 4 else numbers[:, :3]
        if length >= 6:
            colors[is_this] = numbers[:, 3:6]
    has_color = lengths >= 6
    if not has_color.any():
        return positions, None
    colors[has_color] = colors_to_255(colors[has_color])
    return positions, colors


def _corners(
    statements: _Statements, num_vertices: int
) -> tuple[Int64[np.ndarray, " K"], Int64[np.ndarray, " K"], Int64[np.ndarray, " P"]]:
    """The vertex and the texture coordinate of each corner (-1: none) of all faces, and the corners of each face."""
    counts, indices = np.array(statements.faces.counts, dtype=np.int64), statements.faces.flat()
    before = np.array(statements.counts_before, dtype=np.int64).reshape(-1, 2).repeat(counts, axis=0)
    has_coordinate = indices[:, 1] != 0
    indices = np.where(indices < 0, indices + before, indices - 1)
    pieces.check_corners(indices[:, 0], num_vertices)
    pieces.check_corners(indices[has_coordinate, 1], len(statements.coordinates.counts))
    return indices[:, 0], np.where(has_coordinate, indices[:, 1], -1), counts


def _coordinates(rows: _Rows) -> Float64[np.ndarray, "T 2"]:
    """To the right and up; a missing second number is 0."""
    lengths, flat = np.array(rows.counts, dtype=np.int64), rows.flat()
    starts = np.cumsum(lengths) - lengths
    if len(lengths) and not 1 <= lengths.min() <= lengths.max() <= 3:
        raise UnreadableItemError("it has texture coordinates of other than 1 to 3 numbers")
    second = (
        np.where(lengths > 1, flat[np.minimum(starts + 1, max(len(flat) - 1, 0))], 0) if len(flat) else lengths * 0.0
    )
    return np.stack([flat[starts], second], axis=1)


def _materials(statements: _Statements, fetch: Fetch) -> dict[str, mtl.Material]:
    """Every material of the libraries; of two with one name the later.

    A name of a library may hold spaces, or there are several on one line.
    """
    materials: dict[str, mtl.Material] = {}
    for name in statements.libraries:
        try:
            contents = [fetch(name)]
        except FileNotFoundError:
            try:
                contents = [fetch(one) for one in name.split()] if " " in name else []
            except FileNotFoundError:
                contents = []
        if not contents and len(statements.names) > 1:
            raise UnreadableItemError(pieces.NO_MATERIALS)
        for content in contents:
            materials |= mtl.read(content)
    used = set(statements.materials)
    absent = sorted(
        name for name, number in statements.names.items() if number in used and name not in (*materials, *NO_MATERIAL)
    )
    if absent and statements.libraries:
        raise UnreadableItemError(f"its material files have no material `{absent[0]}`")
    return {
        name: mtl.loaded(material, fetch) for name, material in materials.items() if statements.names.get(name) in used
    }


def _piece(
    vertices: Float64[np.ndarray, "V 3"],
    faces: Int64[np.ndarray, "F 3"],
    colors: Float64[np.ndarray, "V 3"] | None,
    material: mtl.Material | None,
    coordinates: tuple[Float64[np.ndarray, "T 2"], Int64[np.ndarray, "F 3"]],
) -> Piece:
    """A texture counts before colors of vertices, and these before the one color of a material."""
    of_each, at = coordinates
    if material is not None and material.image is not None and (at >= 0).all():
        split, own = pieces.split_corners(vertices, faces)
        places = of_each[at.reshape(-1)] * material.scale + material.offset
        texture = Texture(
            material.image, np.stack([places[:, 0], 1 - places[:, 1]], axis=1), (material.wrap, material.wrap)
        )
        return Piece(split, own, Skin(texture=texture, factor=material.texture_factor))
    if colors is not None:
        return Piece(vertices, faces, Skin(of_vertices=colors))
    if material is not None and material.color is not None:
        return Piece(vertices, faces, Skin(factor=material.color))
    return Piece(vertices, faces)
