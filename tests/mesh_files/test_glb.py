"""GLB: shapes and base colors as glTF 2.0 defines them, or the feature by name that is not applied."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inrflow_core.errors import UnreadableItemError
from inrflow_core.formats import glb as written
from inrflow_core.mesh_files import glb
from inrflow_core.mesh_files.pieces import Piece

SQUARE = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [1, 1, 0]], np.float32)
INDICES = np.array([[0], [1], [2], [1], [3], [2]], np.uint16)
TYPES = {"f4": 5126, "u1": 5121, "u2": 5123, "i2": 5122}


class Document:
    """A GLB file that is put together from arrays."""

    def __init__(self) -> None:
        self.binary = b""
        self.tables: dict[str, Any] = {"asset": {"version": "2.0"}, "scenes": [{"nodes": [0]}], "nodes": [{"mesh": 0}]}
        self.tables |= {"accessors": [], "bufferViews": []}

    def view(self, array: np.ndarray) -> int:
        self.binary += bytes(-len(self.binary) % 4)
        self.tables["bufferViews"].append({"buffer": 0, "byteOffset": len(self.binary), "byteLength": array.nbytes})
        self.binary += array.tobytes()
        return len(self.tables["bufferViews"]) - 1

    def accessor(self, array: np.ndarray, **extra: Any) -> int:
        kind = {1: "SCALAR", 2: "VEC2", 3: "VEC3", 4: "VEC4"}[array.shape[1]]
        accessor = {"componentType": TYPES[array.dtype.str[1:]], "count": len(array), "type": kind}
        self.tables["accessors"].append(accessor | {"bufferView": self.view(array)} | extra)
        return len(self.tables["accessors"]) - 1

    def square(self, positions: np.ndarray = SQUARE, *, normalized: bool = False, **extra: Any) -> None:
        primitive = {"attributes": {"POSITION": self.accessor(positions, normalized=normalized)}}
        self.tables["meshes"] = [{"primitives": [primitive | {"indices": self.accessor(INDICES)} | extra]}]

    @property
    def primitive(self) -> dict[str, Any]:
        return self.tables["meshes"][0]["primitives"][0]

    def read(self, *, with_colors: bool = False) -> list[Piece]:
        tables = self.tables | {"buffers": [{"byteLength": len(self.binary)}]}
        text = json.dumps(tables).encode()
        text += b" " * (-len(text) % 4)
        body = struct.pack("<II", len(text), 0x4E4F534A) + text
        body += struct.pack("<II", len(self.binary), 0x004E4942) + self.binary
        return glb.read(struct.pack("<4sII", b"glTF", 2, 12 + len(body)) + body, missing if with_colors else None)

    def color(self) -> list[int]:
        (piece,) = self.read(with_colors=True)
        return piece.colors(np.array([0]), np.full((1, 3), 1 / 3))[0].round().astype(int).tolist()


def missing(name: str) -> bytes:
    raise FileNotFoundError(name)


def test_normalized_positions_are_one_wide() -> None:
    document = Document()
    document.square((SQUARE * 32767).astype(np.int16), normalized=True)
    np.testing.assert_allclose(document.read()[0].vertices, SQUARE)


@pytest.mark.parametrize(("mode", "order"), [(5, [0, 1, 2, 3]), (6, [0, 1, 3, 2])])
def test_strips_and_fans_cover_the_square(mode: int, order: list[int]) -> None:
    document = Document()
    document.square(mode=mode)
    document.primitive["indices"] = document.accessor(np.array(order, np.uint16)[:, None])
    (piece,) = document.read()
    corners = piece.vertices[piece.faces]
    areas = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])[:, 2] / 2
    np.testing.assert_allclose(areas, [0.5, 0.5])


def test_sparse_numbers_replace_those_of_the_view() -> None:
    document = Document()
    document.square()
    moved = {"bufferView": document.view(np.array([[5, 0, 0]], np.float32))}
    which = {"bufferView": document.view(np.array([1], np.uint16)), "componentType": 5123}
    document.tables["accessors"][0]["sparse"] = {"count": 1, "indices": which, "values": moved}
    assert document.read()[0].vertices[1].tolist() == [5, 0, 0]


def test_a_skin_moves_its_vertices_and_not_their_node() -> None:
    document = Document()
    document.square()
    weights = np.eye(4, dtype=np.float32)[np.zeros(4, int)]
    document.primitive["attributes"] |= {
        "JOINTS_0": document.accessor(np.zeros((4, 4), np.uint8)), "WEIGHTS_0": document.accessor(weights)
    }  # fmt: skip
    document.tables["nodes"] = [{"mesh": 0, "skin": 0, "translation": [100, 0, 0]}, {"translation": [7, 0, 0]}]
    document.tables |= {"skins": [{"joints": [1]}], "scenes": [{"nodes": [0, 1]}]}
    np.testing.assert_allclose(document.read()[0].vertices, SQUARE + [7, 0, 0])


def test_weights_of_morph_targets_move_vertices() -> None:
    document = Document()
    document.square()
    document.primitive["targets"] = [{"POSITION": document.accessor(np.full((4, 3), 2, np.float32))}]
    document.tables["meshes"][0]["weights"] = [0.5]
    np.testing.assert_allclose(document.read()[0].vertices, SQUARE + 1)


@pytest.mark.parametrize("material", [None, {}, {"pbrMetallicRoughness": {"baseColorFactor": [1, 1, 1, 1]}}])
@pytest.mark.parametrize("top", [1, 255, 65535])
def test_colors_of_vertices_are_light_of_every_type(material: dict[str, Any] | None, top: int) -> None:
    document = Document()
    document.square()
    kind = {1: np.float32, 255: np.uint8, 65535: np.uint16}[top]
    rows = np.round(np.array([[top, top / 2, 0, top]] * 4), 0 if top > 1 else 3).astype(kind)
    document.primitive["attributes"]["COLOR_0"] = document.accessor(rows, normalized=top > 1)
    if material is not None:
        document.tables["materials"], document.primitive["material"] = [material], 0
    assert document.color() == [255, 188, 0]


def test_the_factor_is_light_and_multiplies_colors() -> None:
    document = Document()
    document.square(material=0)
    document.tables["materials"] = [{"pbrMetallicRoughness": {"baseColorFactor": [1, 0.5, 0, 1]}}]
    assert document.color() == [255, 188, 0]
    document.primitive["attributes"]["COLOR_0"] = document.accessor(np.full((4, 3), 0.5, np.float32))
    assert document.color() == [188, 137, 0]


def refused(case: str) -> Document:
    document = Document()
    document.square()
    if case == "it requires KHR_draco_mesh_compression":
        document.tables["extensionsRequired"] = ["KHR_draco_mesh_compression"]
    elif case == "it uses EXT_mesh_gpu_instancing":
        document.tables["nodes"][0]["extensions"] = {"EXT_mesh_gpu_instancing": {}}
    elif case == "it has numbers without data":
        del document.tables["accessors"][0]["bufferView"]
    elif case == "it promises more numbers than it holds":
        document.tables["accessors"][0]["count"] = 5000
    elif case == "it has more than 20,000,000 vertices and triangles":
        document.tables["accessors"][0]["count"] = 1 << 40
    elif case == "its nodes form no tree":
        document.tables["nodes"][0]["children"] = [0]
    return document


@pytest.mark.parametrize(
    "reason",
    [
        "it requires KHR_draco_mesh_compression", "it uses EXT_mesh_gpu_instancing", "it has numbers without data",
        "it promises more numbers than it holds", "it has more than 20,000,000 vertices and triangles", "its nodes form no tree",
    ],
)  # fmt: skip
def test_what_is_not_applied_is_refused_by_name(reason: str) -> None:
    with pytest.raises(UnreadableItemError, match=reason):
        refused(reason).read()


def painted(case: str) -> Document:
    """A red square with a color that is not applied."""
    document = Document()
    red = np.tile(np.array([[1, 0, 0]], np.float32), (4, 1))
    if case == "morph":
        document.square(targets=[{"COLOR_0": document.accessor(-red)}])
        document.primitive["attributes"]["COLOR_0"] = document.accessor(red)
        document.tables["meshes"][0]["weights"] = [1.0]
        return document
    document.square(material=0)
    base: dict[str, Any] = {"baseColorFactor": [1, 0, 0, 1]}
    document.tables["materials"] = [{"pbrMetallicRoughness": base}]
    if case == "material":
        document.tables["materials"][0]["extensions"] = {"VENDOR_paint": {}}
    else:
        base["baseColorTexture"] = {"index": 0, "extensions": {"VENDOR_paint": {}}}
    return document


@pytest.mark.parametrize(
    ("case", "reason"),
    [("material", "it uses VENDOR_paint"), ("texture", "it uses VENDOR_paint"), ("morph", "morph targets of colors")],
)
def test_colors_that_are_not_applied_are_refused_where_colors_are_read(case: str, reason: str) -> None:
    assert len(painted(case).read()[0].faces) == 2
    with pytest.raises(UnreadableItemError, match=reason):
        painted(case).read(with_colors=True)


def test_the_nodes_of_one_mesh_count_as_often_as_they_are_there(monkeypatch: pytest.MonkeyPatch) -> None:
    document = Document()
    document.square()
    document.tables["nodes"] = [{"mesh": 0, "translation": [number, 0, 0]} for number in range(300)]
    document.tables |= {"scenes": [{"nodes": list(range(300))}]}
    assert len(document.read()) == 300
    monkeypatch.setattr(glb, "MOST", 1000)
    with pytest.raises(UnreadableItemError, match="it has more than 1,000 vertices and triangles"):
        document.read()


def test_a_written_file_has_the_colors_of_its_cloud(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    points = rng.normal(size=(1500, 3))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    cloud = np.concatenate([points, np.full((1500, 3), 100 / 127.5 - 1)], axis=1).astype(np.float32)
    written.write(tmp_path / "a.glb", cloud, origin={})
    (piece,) = glb.read((tmp_path / "a.glb").read_bytes(), missing)
    assert piece.colors(np.array([0]), np.full((1, 3), 1 / 3))[0].round().tolist() == [100, 100, 100]
