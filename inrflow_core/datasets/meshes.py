"""Any folder of meshes as clouds: points uniform on the surface, with colours and classes where asked.

OFF, OBJ, PLY, STL and GLB are read by trimesh and sampled by Open3D. Open3D's own readers lose GLB meshes, quads with
relative indices and, in files of several parts, most of the faces, and never return from a comment inside an OFF.
"""

from __future__ import annotations

import logging
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from inrflow_core import surfaces
from inrflow_core.datasets import _clouds
from inrflow_core.errors import MissingError
from inrflow_core.examples import BadItem, Example, Item, Plan, fingerprint, walk

DOMAIN = "points"
DESCRIPTION = (
    "any folder of .off, .obj, .ply, .stl and .glb meshes -> clouds of 15,000 points on their surface, with colours "
    "and classes (sub-folders) where asked, train and val by name"
)
SUFFIXES = (".off", ".obj", ".ply", ".stl", ".glb")
LARGEST = 1 << 30
"""Bytes of a mesh file; a mesh in memory takes some times as much."""
UNREADABLE = (
    ArithmeticError, AssertionError, AttributeError, BufferError, EOFError, LookupError, MemoryError, OSError,
    RuntimeError, SyntaxError, TypeError, ValueError, struct.error, Image.DecompressionBombError,
)  # fmt: skip
"""What trimesh's parsers raise on content that is broken."""


@dataclass(frozen=True)
class Config:
    """What is taken of each mesh, and how they are divided."""

    points: int = 15_000
    """Points on the surface of each mesh; training draws its subsets from them."""
    colours: bool = False
    """Keep colours, of textures or vertices, as three more numbers of each point; meshes without are skipped."""
    classes: bool = False
    """The folder right below the source is the class."""
    val: float = 0.1
    """Share of the names that is held out; a name keeps its side whatever else lies there."""

    def __post_init__(self) -> None:
        if self.points < 1:
            raise ValueError(f"`points` is {self.points}: at least 1")
        if not 0 <= self.val < 1:
            raise ValueError(f"`val` is {self.val}: from 0 to below 1")


def scan(source: Path, config: Config) -> Plan:
    """Every mesh file below the source, sorted by name.

    Raises:
        MissingError: there is none.
    """
    files = walk(source) if source.is_dir() else [(source.name, source.stat().st_size)]
    folder = source if source.is_dir() else source.parent
    meshes = [name for name, _ in files if name.lower().endswith(SUFFIXES)]
    if config.classes:
        meshes = [name for name in meshes if "/" in name]
    if not meshes:
        wanted = ", ".join(SUFFIXES[:-1]) + f" or {SUFFIXES[-1]} files"
        raise MissingError(
            f"looked below `{source}` for {wanted}{' in folders' if config.classes else ''} and found none among "
            f"{len(files):,} files",
            hint="unpack archives first, or name another folder with `--source`",
        )
    classes = sorted({name.split("/")[0] for name in meshes}) if config.classes else []
    items = [Item(name, classes.index(name.split("/")[0]) if config.classes else -1, str(folder)) for name in meshes]
    held_out = [item for item in items if _clouds.is_held_out(item.name, config.val)]
    kept = [item for item in items if not _clouds.is_held_out(item.name, config.val)]
    return Plan(
        {split: of for split, of in (("train", kept), ("val", held_out)) if of},
        shape=(config.points, 6 if config.colours else 3),
        dtype="float32",
        fingerprint=fingerprint(files),
        classes=tuple(classes),
        normalisation=_clouds.BOX,
    )


def read(item: Item, config: Config) -> Example:
    """Points on one mesh, in its box; which points follows from its name.

    Raises:
        BadItem: the file cannot be read, has no faces, no area, no colours where they are asked, or numbers that are
            not finite.
    """
    loaded = _loaded(Path(item.where), item.name, with_colours=config.colours)
    mesh = surfaces.Mesh(np.asarray(loaded.vertices, dtype=np.float64), np.asarray(loaded.faces, dtype=np.int64))
    used = mesh.vertices[np.unique(mesh.faces)]
    _clouds.check_finite(used)
    with np.errstate(over="ignore", invalid="ignore"):
        area = float(loaded.area)
    if not 0 < area < np.inf:
        raise BadItem("its faces have no area")
    points = surfaces.sample(mesh, config.points, seed=_clouds.seed(f"mesh {item.name}"))
    return _clouds.boxed(item, points, _colours(loaded, mesh, points) if config.colours else None)


def _loaded(root: Path, name: str, *, with_colours: bool) -> Any:
    """The file's parts as one mesh, faces as triangles."""
    import trimesh

    logging.getLogger("trimesh").setLevel(logging.CRITICAL)  # it prints tracebacks of textures that are not there
    path = root / name
    if path.stat().st_size > LARGEST:
        raise BadItem(f"it is larger than {LARGEST >> 30} GiB")
    kind = path.suffix.lower().removeprefix(".")
    try:
        with path.open("rb") as file:
            loaded = trimesh.load(
                file, file_type=kind, resolver=_inside(root, path, with_colours), force="mesh", process=False
            )
    except UNREADABLE as error:
        raise BadItem(f"it is no {path.suffix.lower()} file that can be read") from error
    if not len(getattr(loaded, "faces", ())):
        raise BadItem("it is a mesh without faces")
    return loaded


def _inside(root: Path, path: Path, with_colours: bool) -> Any:
    """What fetches the files that a mesh names, such as textures: plain files below the source and nothing else."""
    import trimesh

    class Inside(trimesh.resolvers.FilePathResolver):
        def get(self, name: str) -> bytes:
            wanted = (path.parent / name.strip().replace("\\", "/")).resolve()
            if not with_colours or not wanted.is_relative_to(root.resolve()) or not wanted.is_file():
                raise FileNotFoundError(name)
            if wanted.stat().st_size > LARGEST:
                raise ValueError(f"{name} is too large")
            return wanted.read_bytes()

    return Inside(str(path))


def _colours(loaded: Any, mesh: surfaces.Mesh, points: np.ndarray) -> np.ndarray:
    """RGB in [-1, 1] at points on the mesh: of its texture, its vertices or its faces."""
    faces, weights = surfaces.closest(mesh, points)
    visual = loaded.visual
    if visual.kind == "texture":
        pixels = _textured(visual, mesh.faces[faces], weights)
    elif visual.kind == "vertex":
        corners = np.asarray(visual.vertex_colors)[mesh.faces[faces]]
        pixels = np.einsum("nk,nkd->nd", weights, corners.astype(np.float64))
    elif visual.kind == "face":
        pixels = np.asarray(visual.face_colors)[faces]
    else:
        raise BadItem("it has no colours")
    return np.asarray(pixels)[:, :3].astype(np.float64) / 127.5 - 1


def _textured(visual: Any, corners: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The texture's pixels at places given by triangles and weights of their corners, or the material's one colour."""
    from trimesh.visual import color

    material = visual.material
    image = getattr(material, "image", None) or getattr(material, "baseColorTexture", None)
    if image is not None and visual.uv is not None:
        return color.uv_to_color(np.einsum("nk,nkd->nd", weights, np.asarray(visual.uv)[corners]), image)
    one = np.asarray(material.main_color)
    if np.array_equal(one, color.DEFAULT_COLOR):  # trimesh's grey, which stands for none
        raise BadItem("it has no colours, or their texture is not below the source")
    return np.tile(one, (len(corners), 1))
