"""Sample a mesh, estimate the normals of a cloud, reconstruct a mesh from a cloud: by Open3D, seeded, in one thread."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Float64, Int, UInt8

from inrflow_core.errors import UsageError
from inrflow_core.geometry.open3d_import import load_open3d

Method = Literal["poisson", "pivoting"]
NEIGHBORS = 24
"""Neighbors from which a normal is estimated."""
VIEWS = 64
"""Directions of the parallel projections that find the outside of a cloud."""
SMOOTHINGS = 4
"""Smoothing steps of the orientation over neighbors: points hidden in all views follow visible ones."""


@dataclass(frozen=True)
class Mesh:
    """Triangles, and colors (RGB bytes) and unit normals of the vertices where there are some."""

    vertices: Float64[np.ndarray, "V 3"]
    faces: Int[np.ndarray, "F 3"]
    colors: UInt8[np.ndarray, "V 3"] | None = None
    normals: Float64[np.ndarray, "V 3"] | None = None


def sample_surface(mesh: Mesh, count: int, *, seed: int) -> Float64[np.ndarray, "N 3"]:
    """`count` points uniform on a mesh's surface, in random order: any subset is uniform as well.

    The same mesh and seed give the same points; the surface must have some area.
    """
    return np.asarray(_sampled(mesh, count, seed).points).copy()


def sample_surface_with_normals(
    mesh: Mesh, count: int, *, seed: int
) -> tuple[Float64[np.ndarray, "N 3"], Float64[np.ndarray, "N 3"]]:
    """The points of `sample_surface`, and the unit normals of their faces, by the order of the corners."""
    cloud = _sampled(mesh, count, seed, with_normals=True)
    return np.asarray(cloud.points).copy(), np.asarray(cloud.normals).copy()


def _sampled(mesh: Mesh, count: int, seed: int, *, with_normals: bool = False) -> Any:
    open3d = load_open3d()
    vector = open3d.utility
    body = open3d.geometry.TriangleMesh(vector.Vector3dVector(mesh.vertices), vector.Vector3iVector(mesh.faces))
    vector.random.seed(seed % (1 << 31))
    return body.sample_points_uniformly(count, use_triangle_normal=with_normals)


def closest_faces(
    mesh: Mesh, points: Float64[np.ndarray, "N 3"]
) -> tuple[Int[np.ndarray, " N"], Float64[np.ndarray, "N 3"]]:
    """The triangle nearest to each point, and the barycentric weights of the closest point on it."""
    open3d = load_open3d()
    scene = open3d.t.geometry.RaycastingScene()
    scene.add_triangles(mesh.vertices.astype(np.float32), mesh.faces.astype(np.uint32))
    closest = scene.compute_closest_points(points.astype(np.float32))
    second, third = closest["primitive_uvs"].numpy().astype(np.float64).T
    return closest["primitive_ids"].numpy().astype(np.int64), np.stack([1 - second - third, second, third], axis=1)


def normals(points: Float64[np.ndarray, "N 3"]) -> Float64[np.ndarray, "N 3"]:
    """Unit normals of the surface that a cloud lies on, turned outwards.

    Raises:
        UsageError: fewer than 4 points, or most of them coincide.
    """
    from scipy.spatial import cKDTree

    if len(points) < 4:
        raise UsageError(f"a cloud of {len(points)} points has no normals", hint="give at least 4 points")
    open3d = load_open3d()
    cloud = _cloud(points)
    cloud.estimate_normals(open3d.geometry.KDTreeSearchParamKNN(NEIGHBORS))
    directions = np.asarray(cloud.normals).copy()
    distances, others = cKDTree(points).query(points, k=min(9, len(points)))
    spacing = float(np.median(distances[:, 1]))
    if spacing == 0:
        raise UsageError("most points of the cloud coincide", hint="a surface needs distinct points")
    score = _seen_from_outside(points, directions, spacing)
    for _ in range(SMOOTHINGS):
        agreement = np.einsum("nkc,nc->nk", directions[others], directions)
        score = np.sum(agreement * score[others], axis=1) / others.shape[1]
    return np.where(score[:, None] >= 0, directions, -directions)


def reconstruct_surface(points: Float[np.ndarray, "N C"], *, method: Method = "poisson") -> Mesh:
    """A mesh through a cloud: Poisson (Kazhdan and Hoppe 2013; smooth, closed where the cloud is), or ball pivoting
    (Bernardini et al. 1999; through the points themselves). Alpha shapes lose the flat sides of real furniture.

    Vertices take the color of the nearest point where the cloud has colors. Open3D stops all threads of this process meanwhile, and its
    Poisson code prints lines on stderr; `surface_process` has neither.

    Raises:
        UsageError: too few points, or no surface goes through them.
    """
    from scipy.spatial import cKDTree

    if len(points) < 16:
        raise UsageError(f"{len(points)} points are too few for a surface", hint="sample some thousands of points")
    open3d = load_open3d()
    positions = points[:, :3].astype(np.float64)
    tree = cKDTree(positions)
    spacing = float(np.median(tree.query(positions, k=2)[0][:, 1]))
    cloud = _cloud(positions)
    kind = open3d.geometry.TriangleMesh
    cloud.normals = open3d.utility.Vector3dVector(normals(positions))
    if method == "pivoting":
        radii = open3d.utility.DoubleVector([spacing * factor for factor in (1.5, 2.5, 4.0, 6.0)])
        mesh = kind.create_from_point_cloud_ball_pivoting(cloud, radii)
    else:
        depth = int(np.clip(math.ceil(math.log2(len(points)) / 2), 5, 8))
        mesh = kind.create_from_point_cloud_poisson(cloud, depth=depth, n_threads=1)[0]
        far = tree.query(np.asarray(mesh.vertices))[0] > 6 * spacing
        mesh.remove_vertices_by_mask(far)  # Poisson closes what the cloud leaves open: cut that off
    mesh.remove_unreferenced_vertices()
    vertices, faces = np.asarray(mesh.vertices).copy(), np.asarray(mesh.triangles).copy()
    if not len(faces):
        raise UsageError(
            f"no surface goes through the points by the method `{method}`",
            hint="sample more points, or try another method",
        )
    colors = colors_to_bytes(points)[tree.query(vertices)[1]] if points.shape[1] >= 6 else None
    return Mesh(vertices, faces, colors)


def colors_to_bytes(points: Float[np.ndarray, "N C"]) -> UInt8[np.ndarray, "N 3"]:
    """Colors in [-1, 1] (channels 3 to 5) as bytes."""
    return np.clip((points[:, 3:6] + 1) * 127.5, 0, 255).round().astype(np.uint8)


def _seen_from_outside(
    points: Float64[np.ndarray, "N 3"], normal_vectors: Float64[np.ndarray, "N 3"], spacing: float
) -> Float64[np.ndarray, " N"]:
    """Score of each normal, above 0 if it points towards the views in which its point is visible.

    A point is visible if no other is in front of it in its cell of a parallel projection. Following neighbors along a
    spanning tree (Hoppe et al. 1992) instead turns whole legs of chairs inside out, takes 10 s for 128,000 points, and
    Open3D's form of it fails on exact spheres and planes.
    """
    score = np.zeros(len(points))
    cell = 3 * spacing
    for direction in _directions(VIEWS):
        across = np.linalg.svd(direction[None])[2][1:]
        cells = np.floor((points @ across.T) / cell).astype(np.int64)
        cells -= cells.min(0)
        flat = cells[:, 0] * (cells[:, 1].max() + 1) + cells[:, 1]
        depth = points @ direction
        front = np.full(flat.max() + 1, -np.inf)
        np.maximum.at(front, flat, depth)
        score += np.where(depth > front[flat] - cell, normal_vectors @ direction, 0)
    return score


def _directions(count: int) -> Float64[np.ndarray, "count 3"]:
    """Unit vectors spread evenly over all directions (a Fibonacci lattice)."""
    index = np.arange(count) + 0.5
    height, turn = 1 - 2 * index / count, index * math.pi * (3 - math.sqrt(5))
    flat = np.sqrt(1 - height**2)
    return np.stack([flat * np.cos(turn), height, flat * np.sin(turn)], axis=1)


def _cloud(points: np.ndarray) -> Any:
    open3d = load_open3d()
    return open3d.geometry.PointCloud(open3d.utility.Vector3dVector(points))
