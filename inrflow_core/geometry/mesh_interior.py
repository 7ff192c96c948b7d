"""Which points are inside a mesh: by the parity of ray crossings, or by generalized winding numbers."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float64

from inrflow_core.errors import UnreadableItemError
from inrflow_core.geometry.mesh import Mesh
from inrflow_core.geometry.open3d_import import load_open3d

DIRECTIONS = np.array([[0.36, 0.48, 0.8], [-0.79, 0.21, 0.57], [0.13, -0.91, 0.39]])
"""Of three rays whose majority decides: a ray along an axis would meet the edges of boxes, and one may meet an edge."""
SIDE_STEP = 1e-3
"""How far from the surface it is tested which side of it is inside; the longest side of a shape is 1."""
POINT_BLOCK, FACE_BLOCK = 64, 512
"""Points and faces whose solid angles are computed together: few enough for the cache of a core."""


def merged(mesh: Mesh) -> Mesh:
    """The mesh with vertices of equal position as one, without faces that have two equal corners. Colors are dropped.

    Formats such as STL repeat the vertices of each face.
    """
    vertices, number = np.unique(mesh.vertices, axis=0, return_inverse=True)
    faces = number.reshape(-1)[mesh.faces].astype(np.int64)
    first, second, third = faces.T
    return Mesh(vertices, faces[(first != second) & (second != third) & (third != first)])


def count_open_edges(mesh: Mesh) -> tuple[int, int]:
    """The edges of a merged mesh that an odd number of faces share, and all its edges; a watertight mesh has none."""
    pairs = np.sort(np.concatenate([mesh.faces[:, [0, 1]], mesh.faces[:, [1, 2]], mesh.faces[:, [2, 0]]]), axis=1)
    counts = np.unique(pairs, axis=0, return_counts=True)[1]
    return int((counts % 2).sum()), len(counts)


def num_components(mesh: Mesh) -> int:
    """Connected pieces of a mesh, by shared vertices; 0 of an empty one."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    if not len(mesh.faces):
        return 0
    numbers, corners = np.unique(mesh.faces, return_inverse=True)
    first, second, third = corners.reshape(-1, 3).T
    ends = np.concatenate([first, second]), np.concatenate([second, third])
    graph = coo_array((np.ones(len(ends[0])), ends), shape=(len(numbers), len(numbers)))
    return int(connected_components(graph, directed=False, return_labels=False))


def in_unit_cube(mesh: Mesh) -> tuple[Mesh, Float64[np.ndarray, " 3"], float]:
    """The merged mesh with its box centered at the origin and its longest side 1, and the offset and scale that undo it."""
    used = mesh.vertices[np.unique(mesh.faces)]
    with np.errstate(over="ignore"):
        offset, scale = (used.min(0) + used.max(0)) / 2, float((used.max(0) - used.min(0)).max())
    if not (np.isfinite(offset).all() and 0 < scale < np.inf):
        raise UnreadableItemError("its size or position is beyond double precision")
    whole = merged(Mesh((mesh.vertices - offset) / scale, mesh.faces))
    if not len(whole.faces):
        raise UnreadableItemError("its faces have no area")
    return whole, offset, scale


def outward(
    mesh: Mesh, points: Float64[np.ndarray, "P 3"], normals: Float64[np.ndarray, "P 3"]
) -> Float[np.ndarray, "P 3"]:
    """Normals of a watertight mesh that point outwards, whatever the order of the corners of its faces."""
    ahead: Bool[np.ndarray, " P"] = is_inside_by_parity(mesh, points + SIDE_STEP * normals)
    behind = is_inside_by_parity(mesh, points - SIDE_STEP * normals)
    return np.where((ahead & ~behind)[:, None], -normals, normals)


def is_inside_by_parity(mesh: Mesh, points: Float[np.ndarray, "Q 3"]) -> Bool[np.ndarray, " Q"]:
    """Whether a ray from each point crosses the mesh an odd number of times, by the majority of three rays.

    Right for watertight meshes, whatever the order of the corners of their faces. Where two closed pieces overlap, parity
    counts the overlap as outside; `winding_numbers` does not.
    """
    open3d = load_open3d()
    scene = open3d.t.geometry.RaycastingScene()
    scene.add_triangles(mesh.vertices.astype(np.float32), mesh.faces.astype(np.uint32))
    votes = np.zeros(len(points), dtype=np.int64)
    for direction in DIRECTIONS:
        rays = np.concatenate([points, np.broadcast_to(direction, points.shape)], axis=1).astype(np.float32)
        votes += scene.count_intersections(open3d.core.Tensor(np.ascontiguousarray(rays))).numpy() % 2
    return votes >= 2


def winding_numbers(mesh: Mesh, points: Float[np.ndarray, "Q 3"]) -> Float64[np.ndarray, " Q"]:
    """How many times the mesh winds around each point: 1 inside a closed mesh whose faces look outwards, 0 outside.

    In between near holes (Jacobson et al. 2013), and 2 where two pieces overlap. The sum of the exact solid angles of all
    faces (van Oosterom and Strackee 1983): the time is that of points times faces, some millions a second; the memory
    is bounded.
    """
    total = np.zeros(len(points))
    blocks = [
        _FaceBlock.of(mesh.vertices[mesh.faces[first : first + FACE_BLOCK]].astype(np.float64))
        for first in range(0, len(mesh.faces), FACE_BLOCK)
    ]
    for start in range(0, len(points), POINT_BLOCK):
        part = slice(start, start + POINT_BLOCK)
        for block in blocks:
            total[part] += block.solid_angles(points[part].astype(np.float64)).sum(1)
    return total / (4 * np.pi)


class _FaceBlock(NamedTuple):
    """What the solid angles of some faces need, so that each is a few products of matrices."""

    corners: Float64[np.ndarray, "3 F 3"]
    normals: Float64[np.ndarray, "F 3"]
    """Twice the area vectors."""
    volumes: Float64[np.ndarray, " F"]
    """Determinants of the corners."""

    @classmethod
    def of(cls, triangles: Float64[np.ndarray, "F 3 3"]) -> _FaceBlock:
        a, b, c = triangles.transpose(1, 0, 2)
        return cls(np.stack([a, b, c]), np.cross(b - a, c - a), np.einsum("fd,fd->f", a, np.cross(b, c)))

    def solid_angles(self, points: Float64[np.ndarray, "Q 3"]) -> Float64[np.ndarray, "Q F"]:
        """The signed solid angle of each face as each point sees it."""
        squares = np.square(points).sum(1)[:, None]
        reach = [points @ corner.T for corner in self.corners]

        def dot(first: int, second: int) -> Float64[np.ndarray, "Q F"]:
            constant = np.einsum("fd,fd->f", self.corners[first], self.corners[second])
            return constant - reach[first] - reach[second] + squares

        a, b, c = (np.sqrt(np.maximum(dot(corner, corner), 0)) for corner in range(3))
        determinant = self.volumes - points @ self.normals.T
        return 2 * np.arctan2(determinant, a * b * c + dot(1, 2) * a + dot(2, 0) * b + dot(0, 1) * c)
