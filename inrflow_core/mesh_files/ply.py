"""Meshes in PLY: faces of any number of corners and triangle strips, with colors of vertices or faces, or a texture.

`geometry/ply_reader.py` reads the file. Elements and properties that say nothing about a surface are ignored; a grid of
range data is refused, since its faces are not in the file.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64, Int, Int64

from inrflow_core.errors import UnreadableItemError
from inrflow_core.geometry import ply_reader
from inrflow_core.geometry.ply_reader import Columns, Lists
from inrflow_core.mesh_files import pieces, polygons, textures
from inrflow_core.mesh_files.pieces import Piece, Skin
from inrflow_core.mesh_files.textures import Fetch, Texture

CORNERS = ("vertex_indices", "vertex_index")
COORDINATES = (("s", "t"), ("u", "v"), ("texture_u", "texture_v"))
"""Names that programs give the texture coordinates of vertices."""
TEXTURE = "TextureFile"
"""The comment that names a texture, as MeshLab and COLMAP write it."""


def read(content: bytes, fetch: Fetch | None) -> list[Piece]:
    """One piece; without `fetch` it is without colors.

    Raises:
        UnreadableItemError: it has something that is not applied, or a corner that is not there.
        ValueError, KeyError, IndexError, OverflowError: it is not a whole PLY file.
    """
    file = ply_reader.parse(content)
    vertex, face = file.elements.get("vertex", {}), file.elements.get("face", {})
    if "range_grid" in file.elements:
        raise UnreadableItemError("it is a grid of range data, without faces")
    if not {"x", "y", "z"} <= vertex.keys():
        raise UnreadableItemError("its vertices have no x, y and z")
    vertices = np.stack([_numbers(vertex, axis) for axis in "xyz"], axis=1).astype(np.float64)
    corners = _lists(face, CORNERS)
    faces, positions, owners = _faces(vertices, corners) if corners is not None else _nothing()
    if strips := file.elements.get("tristrips"):
        found = _lists(strips, CORNERS)
        faces = np.concatenate([faces, _strips(found, len(vertices))]) if found is not None else faces
    if fetch is None or not len(faces):
        return [Piece(vertices, faces)] if len(faces) else []
    names = [comment.split(None, 1)[1].strip() for comment in file.comments if comment.startswith(f"{TEXTURE} ")]
    if len(names) > 1:
        raise UnreadableItemError("it has several textures")
    if names and (
        piece := _textured((vertex, face), vertices, (faces, positions), textures.read_texture(names[0], fetch))
    ):
        return [piece]
    of_vertices, of_faces = ply_reader.colors_of(vertex), ply_reader.colors_of(face)
    if of_vertices is not None:
        return [Piece(vertices, faces, Skin(of_vertices=of_vertices))]
    if of_faces is not None and len(owners) == len(faces):
        return [Piece(vertices, faces, Skin(of_faces=of_faces[owners]))]
    return [Piece(vertices, faces)]


def _nothing() -> tuple[Int64[np.ndarray, "0 3"], Int64[np.ndarray, "0 3"], Int64[np.ndarray, " 0"]]:
    return np.zeros((0, 3), np.int64), np.zeros((0, 3), np.int64), np.zeros(0, np.int64)


def _faces(
    vertices: Float64[np.ndarray, "V 3"], corners: Lists
) -> tuple[Int64[np.ndarray, "F 3"], Int64[np.ndarray, "F 3"], Int64[np.ndarray, " F"]]:
    """Triangles, the positions of their corners in the lists, and the face of each."""
    indices = _indices(corners.values)
    pieces.check_corners(indices, len(vertices))
    positions, owners = polygons.triangulate(vertices, indices, corners.counts)
    return indices[positions], positions, owners


def _strips(lists: Lists, num_vertices: int) -> Int64[np.ndarray, "F 3"]:
    """The triangles of strips, which -1 ends."""
    indices = _indices(lists.values)
    pieces.check_corners(indices[indices != -1], num_vertices)
    ends = np.flatnonzero(np.concatenate([indices == -1, [True]]))
    starts = np.cumsum(lists.counts)[:-1]
    parts = np.split(indices, np.unique(np.concatenate([ends[:-1], starts])))
    return np.concatenate([_nothing()[0], *(pieces.strip(part[part != -1]) for part in parts)])


def _textured(
    columns: tuple[Columns, Columns],
    vertices: Float64[np.ndarray, "V 3"],
    triangles: tuple[Int64[np.ndarray, "F 3"], Int64[np.ndarray, "G 3"]],
    image: np.ndarray,
) -> Piece | None:
    """The piece with a texture whose coordinates faces have for each corner, or vertices; None without any."""
    (vertex, face), (faces, positions) = columns, triangles
    of_corners = _lists(face, ("texcoord",))
    if of_corners is not None:
        corners = _lists(face, CORNERS)
        if corners is None or len(positions) != len(faces) or (of_corners.counts != 2 * corners.counts).any():
            raise UnreadableItemError("it has texture coordinates that do not fit its faces")
        if "texnumber" in face and _numbers(face, "texnumber").any():
            raise UnreadableItemError("it has several textures")
        split, own = pieces.split_corners(vertices, faces)
        coordinates = of_corners.values.reshape(-1, 2)[positions.reshape(-1)]
        return Piece(split, own, Skin(texture=_texture(image, coordinates)))
    for names in COORDINATES:
        if set(names) <= vertex.keys():
            coordinates = np.stack([_numbers(vertex, name) for name in names], axis=1)
            return Piece(vertices, faces, Skin(texture=_texture(image, coordinates)))
    return None


def _texture(image: np.ndarray, coordinates: np.ndarray) -> Texture:
    """Coordinates go to the right and up."""
    places = coordinates.astype(np.float64)
    if not np.isfinite(places).all():
        raise UnreadableItemError("it has texture coordinates that are not finite")
    return Texture(image, np.stack([places[:, 0], 1 - places[:, 1]], axis=1))


def _indices(values: np.ndarray) -> Int[np.ndarray, " K"]:
    if values.dtype.kind not in "iu":
        raise UnreadableItemError("its faces have corners that are no whole numbers")
    return values.astype(np.int64)


def _numbers(columns: Columns, name: str) -> np.ndarray:
    column = columns[name]
    if isinstance(column, Lists):
        raise UnreadableItemError("it has lists where numbers belong")
    return column


def _lists(columns: Columns, names: tuple[str, ...]) -> Lists | None:
    found = next((columns[name] for name in names if name in columns), None)
    if found is not None and not isinstance(found, Lists):
        raise UnreadableItemError("it has numbers where lists belong")
    return found
