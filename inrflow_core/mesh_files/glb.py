"""GLB (binary glTF 2.0): the surfaces of its scene, in the pose of the file, with their base colors.

Applied: nodes, triangles, strips and fans, quantized and sparse numbers, morph weights, skins. Points, lines, cameras,
lights and animations are no surface and ignored; every other extension of a surface is refused by its name.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64, Int64

from inrflow_core.errors import IntegrityError, UnreadableItemError
from inrflow_core.mesh_files import gltf, gltf_materials, pieces
from inrflow_core.mesh_files.pieces import Piece, Skin
from inrflow_core.mesh_files.textures import Fetch

MOST = 20_000_000
"""Vertices and triangles of a scene, in which a mesh may stand many times."""
POINTS_AND_LINES, STRIP, FAN = (0, 1, 2, 3), 5, 6
WHITE = Skin()
Matrices = dict[int, Float64[np.ndarray, "4 4"]]
"""From each node of the scene to the world."""


def read(content: bytes, fetch: Fetch | None) -> list[Piece]:
    """One piece for each primitive of each node, depth first; without `fetch` all are without colors.

    Raises:
        UnreadableItemError: it is damaged, or has something that is not applied.
    """
    document = gltf.read_document(content)
    worlds = _worlds(document.tables)
    found: list[Piece] = []
    skins = gltf_materials.Materials(document, fetch) if fetch is not None else None
    room = MOST
    try:
        for number in worlds:
            node = document.tables.nodes[number]
            gltf.check_extensions(node.extensions)
            if node.mesh is None:
                continue
            mesh = gltf.at(document.tables.meshes, node.mesh)
            gltf.check_extensions(mesh.extensions)
            for primitive in mesh.primitives:
                if primitive.mode in POINTS_AND_LINES:
                    continue
                room -= _size(document, primitive)
                if room < 0:
                    raise UnreadableItemError(f"it has more than {MOST:,} vertices and triangles")
                vertices = _placed(document, primitive, number, worlds)
                faces = _faces(document, primitive, len(vertices))
                if skins is not None:
                    _check_colors_are_still(_morphs(document, primitive, node))
                found.append(Piece(vertices, faces, skins.of(primitive, len(vertices)) if skins else None))
    except IntegrityError as error:
        raise UnreadableItemError("its glTF document is damaged") from error
    if any(piece.skin is not None for piece in found):
        return [piece if piece.skin is not None else Piece(piece.vertices, piece.faces, WHITE) for piece in found]
    return found


def _worlds(tables: gltf.Tables) -> Matrices:
    """The matrix of each node of the scene: the default one, else the first, else of all nodes that have no parent."""
    if tables.scenes:
        roots = gltf.at(tables.scenes, tables.scene).nodes
    else:
        children = {child for node in tables.nodes for child in node.children}
        roots = [number for number in range(len(tables.nodes)) if number not in children]
    worlds: Matrices = {}
    waiting = [(number, np.eye(4)) for number in reversed(roots)]
    while waiting:
        number, parent = waiting.pop()
        if number in worlds:
            raise UnreadableItemError("its nodes form no tree")
        node = gltf.at(tables.nodes, number)
        with np.errstate(all="ignore"):
            worlds[number] = parent @ gltf.matrix_of(node)
        waiting += [(child, worlds[number]) for child in reversed(node.children)]
    return worlds


def _size(document: gltf.Document, primitive: gltf.Primitive) -> int:
    """The number of vertices and corners that a primitive says it has."""
    counts = [primitive.attributes.get("POSITION"), primitive.indices]
    return sum(gltf.at(document.tables.accessors, index).count for index in counts if index is not None)


def _placed(
    document: gltf.Document, primitive: gltf.Primitive, number: int, worlds: Matrices
) -> Float64[np.ndarray, "V 3"]:
    """The vertices of a primitive of a node in the world: morphed, then posed by the skin or else by the node."""
    gltf.check_extensions(primitive.extensions)
    if "POSITION" not in primitive.attributes:
        raise UnreadableItemError("it has a surface without positions")
    node = document.tables.nodes[number]
    vertices = document.numbers(primitive.attributes["POSITION"], "VEC3").astype(np.float64)
    for weight, target in _morphs(document, primitive, node):
        if "POSITION" in target:
            moves = document.numbers(target["POSITION"], "VEC3")
            vertices += weight * gltf.one_for_each(moves, len(vertices))
    with np.errstate(all="ignore"):
        if node.skin is None:
            return vertices @ worlds[number][:3, :3].T + worlds[number][:3, 3]
        return _skinned(document, primitive, vertices, _joints(document, node.skin, worlds))


def _morphs(document: gltf.Document, primitive: gltf.Primitive, node: gltf.Node) -> list[tuple[float, dict[str, int]]]:
    """The morph targets that act, with their weights."""
    assert node.mesh is not None
    weights = node.weights or document.tables.meshes[node.mesh].weights or [0.0] * len(primitive.targets)
    if any(weights) and len(weights) != len(primitive.targets):
        raise UnreadableItemError("it has morph weights that do not fit its morph targets")
    return [(weight, target) for weight, target in zip(weights, primitive.targets, strict=False) if weight]


def _check_colors_are_still(morphs: list[tuple[float, dict[str, int]]]) -> None:
    """Raise UnreadableItemError where a morph target that acts has colors or texture coordinates."""
    if any(name.startswith(("COLOR_", "TEXCOORD_")) for _, target in morphs for name in target):
        raise UnreadableItemError("it has morph targets of colors or texture coordinates")


def _joints(document: gltf.Document, skin: int, worlds: Matrices) -> Float64[np.ndarray, "J 4 4"]:
    """From the space of a skinned mesh to the world, for each joint of its skin."""
    table = gltf.at(document.tables.skins, skin)
    if not table.joints or not all(joint in worlds for joint in table.joints):
        raise UnreadableItemError("its skin has joints that are not in the scene")
    joints = np.stack([worlds[joint] for joint in table.joints])
    if table.inverses is None:
        return joints
    inverses = document.numbers(table.inverses, "MAT4").astype(np.float64)
    return joints @ gltf.one_for_each(inverses, len(joints)).reshape(-1, 4, 4).transpose(0, 2, 1)


def _skinned(
    document: gltf.Document,
    primitive: gltf.Primitive,
    vertices: Float64[np.ndarray, "V 3"],
    joints: Float64[np.ndarray, "J 4 4"],
) -> Float64[np.ndarray, "V 3"]:
    """Vertices that follow up to four joints for each set of weights."""
    moved, total = np.zeros_like(vertices), np.zeros((len(vertices), 1))
    for number in range(4):
        names = (f"JOINTS_{number}", f"WEIGHTS_{number}")
        if not all(name in primitive.attributes for name in names):
            break
        which, weights = (
            gltf.one_for_each(document.numbers(primitive.attributes[name], "VEC4"), len(vertices)) for name in names
        )
        if which.dtype.kind != "u" or int(which.max()) >= len(joints):
            raise UnreadableItemError("its skin has joints that are not there")
        for corner in range(4):
            weight, matrices = weights[:, corner, None].astype(np.float64), joints[which[:, corner]]
            moved += weight * (np.einsum("vij,vj->vi", matrices[:, :3, :3], vertices) + matrices[:, :3, 3])
            total += weight
    if not (total > 0).all():
        raise UnreadableItemError("its skin has vertices without weights")
    return moved / total


def _faces(document: gltf.Document, primitive: gltf.Primitive, num_vertices: int) -> Int64[np.ndarray, "F 3"]:
    if primitive.indices is None:
        corners = np.arange(num_vertices, dtype=np.int64)
    else:
        stored = document.numbers(primitive.indices, "SCALAR")[:, 0]
        if stored.dtype.kind != "u":
            raise UnreadableItemError("it has numbers of a type that glTF does not allow there")
        corners = stored.astype(np.int64)
    pieces.check_corners(corners, num_vertices)
    if primitive.mode == STRIP:
        return pieces.strip(corners)
    if primitive.mode == FAN:
        first = np.full(max(len(corners) - 2, 0), corners[0])
        return np.stack([first, corners[1:-1], corners[2:]], axis=1)
    if primitive.mode != 4:
        raise UnreadableItemError("it has a surface of a mode that glTF does not define")
    if len(corners) % 3:
        raise UnreadableItemError("it has a triangle that is not whole")
    return corners.reshape(-1, 3)
