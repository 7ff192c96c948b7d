"""Read a mesh file of any kind with care: triangles, with colors of textures, vertices or faces.

Each format has a reader beside this file. Libraries fan concave polygons, or pass over what they do not apply.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from jaxtyping import Float, Float32, Int
from PIL import Image

from inrflow_core.errors import InrflowError, UnreadableItemError
from inrflow_core.geometry import mesh, mesh_rendering
from inrflow_core.geometry.mesh import Mesh
from inrflow_core.mesh_files import glb, obj, off, pieces, ply, stl
from inrflow_core.mesh_files.pieces import Piece
from inrflow_core.mesh_files.textures import Fetch
from inrflow_core.storage.plain_file import read_plain_file

READERS = {".off": off.read, ".obj": obj.read, ".ply": ply.read, ".stl": stl.read, ".glb": glb.read}
SUFFIXES = tuple(READERS)
LARGEST = 1 << 30
"""Bytes of a mesh file; a mesh in memory takes some times as much."""
NO_FACES = "it is a mesh without faces"
UNREADABLE = (
    ArithmeticError, AssertionError, AttributeError, BufferError, EOFError, LookupError, MemoryError, OSError,
    RuntimeError, SyntaxError, TypeError, ValueError, struct.error, Image.DecompressionBombError,
)  # fmt: skip
"""What parsers raise on content that is broken."""


@dataclass(frozen=True)
class Body:
    """A mesh file: the triangles of all its pieces, in their order, and the pieces, which know their colors."""

    mesh: Mesh
    pieces: Sequence[Piece]

    @property
    def has_colors(self) -> bool:
        """Whether a piece has colors."""
        return any(piece.skin is not None for piece in self.pieces)

    @cached_property
    def first_faces(self) -> Int[np.ndarray, " P"]:
        """The number of each piece's first face."""
        return np.cumsum([0, *(len(piece.faces) for piece in self.pieces[:-1])])

    def colors(self, faces: Int[np.ndarray, " N"], weights: Float[np.ndarray, "N 3"]) -> Float[np.ndarray, "N 3"]:
        """RGB in [0, 255] at places given by faces and weights of their corners; GRAY where a piece has no colors."""
        colors = np.full((len(faces), 3), pieces.GRAY)
        owners = np.searchsorted(self.first_faces, faces, side="right") - 1
        order = np.argsort(owners, kind="stable")
        for rows in np.split(order, np.flatnonzero(np.diff(owners[order])) + 1):
            owner = int(owners[rows[0]]) if len(rows) else 0
            if len(rows) and self.pieces[owner].skin is not None:
                colors[rows] = self.pieces[owner].colors(faces[rows] - self.first_faces[owner], weights[rows])
        return colors


def has_faces(path: Path) -> bool:
    """Whether a file holds a surface, and not vertices alone; raises UnreadableItemError if it cannot be read."""
    return any(len(piece.faces) for piece in _pieces(path.parent, path, with_colors=False))


def load(root: Path, name: str, *, with_colors: bool) -> Body:
    """A file's surfaces, placed as the file says, with faces as triangles. Pieces without area are left out.

    Raises:
        UnreadableItemError: it cannot be read, has something that is not applied, has no faces, no area, or corners that
            are not finite.
    """
    found = [piece for piece in _pieces(root, root / name, with_colors) if len(piece.faces)]
    if not found:
        raise UnreadableItemError(NO_FACES)
    for piece in found:
        pieces.check_corners(piece.faces, len(piece.vertices))
        is_used = np.zeros(len(piece.vertices), dtype=bool)
        is_used[piece.faces] = True
        pieces.check_finite(piece.vertices[is_used])
    areas = [_area(piece) for piece in found]
    if not 0 < sum(areas) < np.inf:
        raise UnreadableItemError("its faces have no area")
    found = [piece for piece, area in zip(found, areas, strict=True) if area > 0]
    starts = np.cumsum([0, *(len(piece.vertices) for piece in found[:-1])])
    vertices = np.concatenate([piece.vertices for piece in found])
    faces = np.concatenate([piece.faces + start for piece, start in zip(found, starts, strict=True)])
    return Body(Mesh(vertices, faces), found)


def colored_points(body: Body, scaled: Mesh, count: int, *, seed: int) -> Float32[np.ndarray, "N 6"]:
    """`count` points uniform on a mesh, positions and RGB in [-1, 1]; the same gray as in renderings where there are no colors.

    Args:
        scaled: the mesh of `body`, perhaps moved and scaled, in the units of the points.
    """
    points = mesh.sample_surface(scaled, count, seed=seed)
    colors = np.full(points.shape, mesh_rendering.PLAIN)
    if body.has_colors:
        colors = body.colors(*mesh.closest_faces(scaled, points))
    return np.concatenate([points, colors / 127.5 - 1], axis=1).astype(np.float32)


def _area(piece: Piece) -> float:
    with np.errstate(over="ignore", invalid="ignore"):
        first, second, third = (piece.vertices[piece.faces[:, corner]] for corner in range(3))
        return float(np.linalg.norm(np.cross(second - first, third - first), axis=1).sum() / 2)


def _pieces(root: Path, path: Path, with_colors: bool) -> list[Piece]:
    suffix = path.suffix.lower()
    if path.stat().st_size > LARGEST:
        raise UnreadableItemError(f"it is larger than {LARGEST >> 30} GiB")
    try:
        return READERS[suffix](read_plain_file(path, LARGEST), _inside(root, path) if with_colors else None)
    except MemoryError as error:
        raise UnreadableItemError("it takes more memory than there is") from error
    except (*UNREADABLE, InrflowError) as error:
        raise UnreadableItemError(f"it cannot be read as a {suffix} file") from error


def _inside(root: Path, path: Path) -> Fetch:
    """What fetches the files that a mesh names, such as textures: plain files below the source and nothing else."""

    def fetch(name: str) -> bytes:
        file = Path(os.path.realpath(path.parent / name.strip().replace("\\", "/")))
        if not file.is_relative_to(os.path.realpath(root)) or not file.is_file():
            raise FileNotFoundError(name)
        return read_plain_file(file, LARGEST)

    return fetch
