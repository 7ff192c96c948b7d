"""The document of a GLB file (binary glTF 2.0): its tables, typed, and numbers from its binary part.

Nothing is allocated before a count has been compared with the bytes that are there.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Float64, Num

from inrflow_core.errors import IntegrityError, UnreadableItemError
from inrflow_core.storage import typed_json

COMPONENTS = {5120: "i1", 5121: "u1", 5122: "<i2", 5123: "<u2", 5125: "<u4", 5126: "<f4"}
WIDTHS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4, "MAT4": 16}
JSON, BINARY = 0x4E4F534A, 0x004E4942
APPLIED = {"KHR_mesh_quantization", "KHR_texture_transform", "EXT_texture_webp", "KHR_materials_pbrSpecularGlossiness"}
"""Extensions that are applied."""
IGNORED = ("KHR_materials_", "KHR_lights_", "KHR_xmp", "MSFT_lod", "KHR_animation_pointer")
"""Beginnings of extensions that change neither a surface nor its base color in the pose of the file."""
R = TypeVar("R")


@dataclass(frozen=True)
class Accessor:
    component: int = field(metadata={"key": "componentType"})
    count: int
    kind: str = field(metadata={"key": "type"})
    view: int | None = field(default=None, metadata={"key": "bufferView"})
    offset: int = field(default=0, metadata={"key": "byteOffset"})
    normalized: bool = False
    sparse: dict[str, Any] | None = None
    extensions: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class View:
    buffer: int
    length: int = field(metadata={"key": "byteLength"})
    offset: int = field(default=0, metadata={"key": "byteOffset"})
    stride: int | None = field(default=None, metadata={"key": "byteStride"})
    extensions: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Primitive:
    attributes: dict[str, int]
    indices: int | None = None
    material: int | None = None
    mode: int = 4
    targets: list[dict[str, int]] = field(default_factory=list)
    extensions: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Mesh:
    primitives: list[Primitive]
    weights: list[float] = field(default_factory=list)
    extensions: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Node:
    children: list[int] = field(default_factory=list)
    mesh: int | None = None
    skin: int | None = None
    matrix: list[float] | None = None
    translation: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0])
    rotation: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0, 1.0])
    scale: list[float] = field(default_factory=lambda: [1.0, 1.0, 1.0])
    weights: list[float] = field(default_factory=list)
    extensions: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class SkinTable:
    joints: list[int]
    inverses: int | None = field(default=None, metadata={"key": "inverseBindMatrices"})


@dataclass(frozen=True)
class Scene:
    nodes: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class Tables:
    asset: dict[str, Any]
    scene: int = 0
    scenes: list[Scene] = field(default_factory=list)
    nodes: list[Node] = field(default_factory=list)
    meshes: list[Mesh] = field(default_factory=list)
    skins: list[SkinTable] = field(default_factory=list)
    accessors: list[Accessor] = field(default_factory=list)
    views: list[View] = field(default_factory=list, metadata={"key": "bufferViews"})
    buffers: list[dict[str, Any]] = field(default_factory=list)
    materials: list[dict[str, Any]] = field(default_factory=list)
    textures: list[dict[str, Any]] = field(default_factory=list)
    images: list[dict[str, Any]] = field(default_factory=list)
    samplers: list[dict[str, Any]] = field(default_factory=list)
    required: list[str] = field(default_factory=list, metadata={"key": "extensionsRequired"})


@dataclass(frozen=True)
class Document:
    """The tables of a file and its binary part."""

    tables: Tables
    binary: memoryview

    def bytes_of(self, view: View) -> memoryview:
        """The bytes of a view."""
        check_extensions(view.extensions)
        if view.buffer != 0 or "uri" in at(self.tables.buffers, 0):
            raise UnreadableItemError("it keeps its numbers outside the file")
        if not 0 <= view.offset <= view.offset + view.length <= len(self.binary):
            raise UnreadableItemError("it is cut off: it names bytes behind its end")
        return self.binary[view.offset : view.offset + view.length]

    def numbers(self, index: int, *kinds: str) -> Num[np.ndarray, "N W"]:
        """The rows of an accessor of one of these kinds: as stored, or, where it says so, normalized to [-1, 1].

        Raises:
            UnreadableItemError: it has another kind, or rows that are not in the file.
        """
        accessor = at(self.tables.accessors, index)
        check_extensions(accessor.extensions)
        if accessor.kind not in kinds or accessor.component not in COMPONENTS:
            raise UnreadableItemError("it has numbers of a type that glTF does not allow there")
        if not 0 < accessor.count <= len(self.binary):
            raise UnreadableItemError("it promises more numbers than it holds")
        shape = (accessor.count, WIDTHS[accessor.kind])
        if accessor.view is not None:
            rows = self._rows(accessor.view, accessor.offset, accessor.component, shape)
        elif accessor.sparse is None:
            raise UnreadableItemError("it has numbers without data")
        else:
            rows = np.zeros(shape, COMPONENTS[accessor.component])
        if accessor.sparse is not None:
            rows = self._with_sparse(rows, accessor)
        if accessor.normalized and rows.dtype.kind in "iu":
            return np.maximum(rows / float(np.iinfo(rows.dtype).max), -1.0)
        return rows

    def _rows(self, view: int, offset: int, component: int, shape: tuple[int, int]) -> np.ndarray:
        table, dtype = at(self.tables.views, view), np.dtype(COMPONENTS[component])
        content, size = self.bytes_of(table), shape[1] * dtype.itemsize
        stride = size if table.stride is None else table.stride
        if stride < size or offset < 0 or offset + (shape[0] - 1) * stride + size > len(content):
            raise UnreadableItemError("it promises more numbers than it holds")
        return np.ndarray(shape, dtype, content, offset, (stride, dtype.itemsize)).copy()

    def _with_sparse(self, rows: np.ndarray, accessor: Accessor) -> np.ndarray:
        sparse = typed_json.typed(accessor.sparse, Sparse, "its sparse accessor", extra=True)
        if not 0 < sparse.count <= accessor.count or sparse.indices.component not in (5121, 5123, 5125):
            raise UnreadableItemError("it promises more numbers than it holds")
        where = self._rows(sparse.indices.view, sparse.indices.offset, sparse.indices.component, (sparse.count, 1))[
            :, 0
        ]
        values = self._rows(sparse.values.view, sparse.values.offset, accessor.component, (sparse.count, rows.shape[1]))
        if int(where.max()) >= len(rows):
            raise UnreadableItemError("its sparse numbers replace some that are not there")
        rows[where.astype(np.int64)] = values
        return rows


@dataclass(frozen=True)
class SparseIndices:
    view: int = field(metadata={"key": "bufferView"})
    component: int = field(metadata={"key": "componentType"})
    offset: int = field(default=0, metadata={"key": "byteOffset"})


@dataclass(frozen=True)
class SparseValues:
    view: int = field(metadata={"key": "bufferView"})
    offset: int = field(default=0, metadata={"key": "byteOffset"})


@dataclass(frozen=True)
class Sparse:
    count: int
    indices: SparseIndices
    values: SparseValues


def read_document(content: bytes) -> Document:
    """The document of a GLB file.

    Raises:
        UnreadableItemError: it is cut off, damaged, of version 1, or requires an extension that is not applied.
    """
    if len(content) < 20 or content[:4] != b"glTF":
        raise UnreadableItemError("it is not a GLB file")
    version, length = struct.unpack_from("<II", content, 4)
    if version != 2:
        raise UnreadableItemError(f"it is glTF {version}, not glTF 2")
    if length > len(content):
        raise UnreadableItemError("it is cut off: it is shorter than its header says")
    chunks, start = [], 12
    while start + 8 <= length:
        size, kind = struct.unpack_from("<II", content, start)
        if start + 8 + size > length:
            raise UnreadableItemError("it is cut off: it is shorter than its header says")
        chunks.append((kind, start + 8, size))
        start += 8 + size
    if not chunks or chunks[0][0] != JSON or chunks[0][2] > typed_json.MAX_BYTES:
        raise UnreadableItemError("its glTF document is missing or too large")
    tables = _tables(content[chunks[0][1] : chunks[0][1] + chunks[0][2]])
    binary = next(
        (memoryview(content)[at : at + size] for kind, at, size in chunks[1:2] if kind == BINARY), memoryview(b"")
    )
    for name in tables.required:
        if name not in APPLIED and not name.startswith(IGNORED):
            raise UnreadableItemError(f"it requires {name}")
    return Document(tables, binary)


def _tables(content: bytes) -> Tables:
    try:
        return typed_json.typed(typed_json.parse_json(content, "its document"), Tables, "its document", extra=True)
    except IntegrityError as error:
        raise UnreadableItemError("its glTF document is damaged") from error


def at(rows: list[R], index: int) -> R:
    """The entry of a table.

    Raises:
        UnreadableItemError: there is none.
    """
    if not 0 <= index < len(rows):
        raise UnreadableItemError("its glTF document names an entry that is not there")
    return rows[index]


def one_for_each(rows: np.ndarray, count: int) -> np.ndarray:
    """The rows of an attribute.

    Raises:
        UnreadableItemError: they are not one for each vertex.
    """
    if len(rows) != count:
        raise UnreadableItemError("it has attributes that do not fit its vertices")
    return rows


def check_extensions(extensions: dict[str, Any]) -> None:
    """Raise UnreadableItemError where an extension of a part of a surface is neither applied nor without effect on it."""
    for name in extensions:
        if name not in APPLIED and not name.startswith(IGNORED):
            raise UnreadableItemError(f"it uses {name}")


def matrix_of(node: Node) -> Float64[np.ndarray, "4 4"]:
    """From a node's space into its parent's: its matrix, or translation x rotation x scale."""
    if node.matrix is not None:
        return np.array(node.matrix, dtype=np.float64).reshape(4, 4).T
    x, y, z, w = np.array(node.rotation, dtype=np.float64) / max(float(np.linalg.norm(node.rotation)), 1e-300)
    turn = np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = turn * np.array(node.scale, dtype=np.float64), node.translation
    return matrix
