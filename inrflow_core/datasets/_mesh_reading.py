"""Read mesh files of many formats as triangles, with the colors of textures, vertices or faces.

OFF, OBJ, PLY, STL and GLB are read by trimesh. Open3D's own readers lose GLB meshes, quads with relative indices and,
in files of several parts, most of the faces, and hang on a comment inside an OFF.
"""

from __future__ import annotations

import logging
import struct
from collections.abc import Sequence, Sized
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from PIL import Image

from inrflow_core.datasets import _point_clouds
from inrflow_core.errors import MissingError, UnreadableItemError
from inrflow_core.geometry.mesh import Mesh
from inrflow_core.storage.source_files import list_files
from inrflow_core.visualization import image_io

SUFFIXES = (".off", ".obj", ".ply", ".stl", ".glb")
LARGEST = 1 << 30
"""Bytes of a mesh file; a mesh in memory takes some times as much."""
GRAY = 190.0
"""Gray of parts without colors in a file whose other parts have colors."""
UNREADABLE = (
    ArithmeticError, AssertionError, AttributeError, BufferError, EOFError, LookupError, MemoryError, OSError,
    RuntimeError, SyntaxError, TypeError, ValueError, struct.error, Image.DecompressionBombError,
)  # fmt: skip
"""Exceptions that trimesh's parsers raise on broken content."""


@dataclass(frozen=True)
class Body:
    """A mesh file: the triangles of all its parts in their order, and the parts with their colors."""

    mesh: Mesh
    parts: Sequence[Any]

    @cached_property
    def first_faces(self) -> Int[np.ndarray, " P"]:
        """The index of each part's first face."""
        return np.cumsum([0, *(len(part.faces) for part in self.parts[:-1])])

    @cached_property
    def skins(self) -> list[Skin | None]:
        """The colors of each part; None for one without.

        Raises:
            UnreadableItemError: a texture cannot be read.
        """
        try:
            return [_skin(part) for part in self.parts]
        except UNREADABLE as error:
            raise UnreadableItemError("its texture cannot be read") from error

    def colors(self, faces: Int[np.ndarray, " N"], weights: Float[np.ndarray, "N 3"]) -> Float[np.ndarray, "N 3"]:
        """RGB in [0, 255] at points on faces, by barycentric weights; GRAY where a part has no colors."""
        colors = np.full((len(faces), 3), GRAY)
        owners = np.searchsorted(self.first_faces, faces, side="right") - 1
        order = np.argsort(owners, kind="stable")
        for rows in np.split(order, np.flatnonzero(np.diff(owners[order])) + 1):
            owner = owners[rows[0]] if len(rows) else 0
            skin = self.skins[owner]
            if len(rows) and skin is not None:
                colors[rows] = skin.at(faces[rows] - self.first_faces[owner], weights[rows])
        return colors


@dataclass(frozen=True)
class Skin:
    """The colors of one part: per face, per vertex, or in a texture."""

    faces: Int[np.ndarray, "F 3"]
    of_faces: Float[np.ndarray, "F 3"] | None = None
    of_vertices: Float[np.ndarray, "V 3"] | None = None
    texture: np.ndarray | None = None
    texture_coordinates: Float[np.ndarray, "V 2"] | None = None
    """Position of each vertex in the texture: right and up, in units of its sides; the texture repeats beyond them."""

    def at(self, faces: Int[np.ndarray, " N"], weights: Float[np.ndarray, "N 3"]) -> Float[np.ndarray, "N 3"]:
        """RGB in [0, 255]; a texture is read at the nearest pixel."""
        if self.of_faces is not None:
            return self.of_faces[faces]
        corners = self.faces[faces]
        if self.of_vertices is not None:
            return np.einsum("nk,nkd->nd", weights, self.of_vertices[corners])
        assert self.texture is not None and self.texture_coordinates is not None
        across, up = np.einsum("nk,nkd->nd", weights, self.texture_coordinates[corners]).T
        rows, columns = self.texture.shape[:2]
        row = ((1 - up) * (rows - 1) % rows).round().astype(np.int64) % rows
        column = (across * (columns - 1) % columns).round().astype(np.int64) % columns
        return self.texture[row, column].astype(np.float64)


def files(source: Path, files: Sequence[tuple[str, int]], where: str = "") -> list[str]:
    """The names of the meshes among files below a source.

    Raises:
        MissingError: there is none.
    """
    meshes = [name for name, _ in files if name.lower().endswith(SUFFIXES)]
    if not meshes:
        suffixes = ", ".join(SUFFIXES[:-1]) + f" or {SUFFIXES[-1]} files"
        raise MissingError(
            f"looked below `{source}` for {suffixes}{where} and found none among {len(files):,} files",
            hint="unpack archives first, or name another folder with `--source`",
        )
    return meshes


def list_source(source: Path) -> tuple[Path, list[tuple[str, int]]]:
    """The folder of a source, which may be one file, and all files below it."""
    if source.is_dir():
        return source, list_files(source)
    return source.parent, [(source.name, source.stat().st_size)]


def load(root: Path, name: str, *, with_colors: bool) -> Body:
    """The parts of a file in their positions, with faces as triangles.

    Raises:
        UnreadableItemError: it cannot be read, has no faces, no area, or corners that are not finite.
    """
    parts = [part for part in _parts(root, root / name, with_colors) if len(getattr(part, "faces", ()))]
    if not parts:
        raise UnreadableItemError("it is a mesh without faces")
    if not all(part.faces.min() >= 0 and part.faces.max() < len(part.vertices) for part in parts):
        raise UnreadableItemError("its faces refer to vertices that do not exist")
    starts = np.cumsum([0, *(len(part.vertices) for part in parts[:-1])])
    vertices = np.concatenate([np.asarray(part.vertices, dtype=np.float64) for part in parts])
    faces = np.concatenate(
        [np.asarray(part.faces, np.int64) + start for part, start in zip(parts, starts, strict=True)]
    )
    _point_clouds.check_finite(vertices[np.unique(faces)])
    with np.errstate(over="ignore", invalid="ignore"):
        first, second, third = (vertices[faces[:, corner]] for corner in range(3))
        area = float(np.linalg.norm(np.cross(second - first, third - first), axis=1).sum() / 2)
    if not 0 < area < np.inf:
        raise UnreadableItemError("its faces have no area")
    return Body(Mesh(vertices, faces), parts)


def _parts(root: Path, path: Path, with_colors: bool) -> list[Any]:
    import trimesh

    logging.getLogger("trimesh").setLevel(logging.CRITICAL)  # it prints tracebacks of missing textures
    if path.stat().st_size > LARGEST:
        raise UnreadableItemError(f"it is larger than {LARGEST >> 30} GiB")
    kind = path.suffix.lower().removeprefix(".")
    try:
        with path.open("rb") as file:
            scene = trimesh.load(
                file, file_type=kind, resolver=_inside(root, path, with_colors), force="scene", process=False
            )
        return list(scene.dump(concatenate=False))  # type: ignore[union-attr]
    except UNREADABLE as error:
        raise UnreadableItemError(f"it cannot be read as a {path.suffix.lower()} file") from error


def _inside(root: Path, path: Path, with_colors: bool) -> Any:
    """The resolver of files that a mesh names, such as textures: plain files below the source and nothing else."""
    import trimesh

    class Inside(trimesh.resolvers.FilePathResolver):
        def get(self, name: str) -> bytes:
            file = (path.parent / name.strip().replace("\\", "/")).resolve()
            if not with_colors or not file.is_relative_to(root.resolve()) or not file.is_file():
                raise FileNotFoundError(name)
            if file.stat().st_size > LARGEST:
                raise ValueError(f"{name} is too large")
            return file.read_bytes()

    return Inside(str(path).encode(errors="replace").decode())  # trimesh hashes it as UTF-8


def _skin(part: Any) -> Skin | None:
    visual, faces = part.visual, np.asarray(part.faces, dtype=np.int64)
    if visual.kind == "vertex":
        return Skin(faces, of_vertices=_each(_rgb(visual.vertex_colors), part.vertices))
    if visual.kind == "face":
        return Skin(faces, of_faces=_each(_rgb(visual.face_colors), faces))
    return _material(visual, faces, len(part.vertices)) if visual.kind == "texture" else None


def _material(visual: Any, faces: Int[np.ndarray, "F 3"], corners: int) -> Skin | None:
    """The material's texture, else its one color."""
    from trimesh.visual import color

    image = getattr(visual.material, "image", None) or getattr(visual.material, "baseColorTexture", None)
    if image is not None and visual.uv is not None:
        # Decoding an EPS would start Ghostscript. glTF ignores the orientation in a file of a texture.
        if image.format not in (None, "MPO", *image_io.FORMATS):
            raise ValueError(f"a texture is {image.format}")
        texture_coordinates = _each(np.asarray(visual.uv, dtype=np.float64), range(corners))
        return Skin(faces, texture=np.asarray(image_io.opaque_rgb(image)), texture_coordinates=texture_coordinates)
    one = np.asarray(visual.material.main_color)
    if np.array_equal(one, color.DEFAULT_COLOR):  # trimesh uses this gray for no color
        return None
    return Skin(faces, of_faces=np.tile(_rgb(one), (len(faces), 1)))


def _each(rows: np.ndarray, owners: Sized) -> np.ndarray:
    """The rows, which must be finite and one for each owner."""
    if len(rows) != len(owners) or not np.isfinite(rows).all():
        raise ValueError(f"{len(rows)} for {len(owners)}, or not finite")
    return rows


def _rgb(colors: Any) -> Float[np.ndarray, "*shape 3"]:
    return np.asarray(colors)[..., :3].astype(np.float64)
