"""Triangulate polygons: convex ones as fans, concave ones by clipping ears (Meisters 1975)."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64, Int, Int64

from inrflow_core.errors import UnreadableItemError

MOST_CORNERS = 4096
"""Of a concave polygon: the time grows with the square of their number."""


def triangulate(
    vertices: Float64[np.ndarray, "V 3"], corners: Int[np.ndarray, " K"], counts: Int[np.ndarray, " P"]
) -> tuple[Int64[np.ndarray, "F 3"], Int64[np.ndarray, " F"]]:
    """Triangles of polygons as positions in `corners`, and the polygon of each; in the order of the polygons.

    Polygons of fewer than three corners have no triangle. Where a polygon crosses itself no format defines its surface:
    what has no ear is cut as a fan.

    Args:
        corners: the vertices of all polygons, one polygon after the other.
        counts: how many of them each has.

    Raises:
        UnreadableItemError: a concave polygon has more than MOST_CORNERS corners.
    """
    if (counts == 3).all():
        return np.arange(3 * len(counts)).reshape(-1, 3), np.arange(len(counts))
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]]).astype(np.int64) if len(counts) else np.zeros(0, np.int64)
    triangles, owners = [np.zeros((0, 3), np.int64)], [np.zeros(0, np.int64)]
    for count in np.unique(counts[counts >= 3]).tolist():
        polygons = np.flatnonzero(counts == count)
        positions = starts[polygons, None] + np.arange(count)
        cut = _cut(vertices[corners[positions]]) if count > 3 else np.arange(3)[None, None].repeat(len(polygons), 0)
        triangles.append(np.take_along_axis(positions[:, None], cut, axis=2).reshape(-1, 3))
        owners.append(polygons.repeat(count - 2))
    order = np.argsort(np.concatenate(owners), kind="stable")
    return np.concatenate(triangles)[order], np.concatenate(owners)[order]


def _cut(polygons: Float64[np.ndarray, "P n 3"]) -> Int64[np.ndarray, "P n-2 3"]:
    """Numbers of the corners of each polygon's triangles."""
    count = polygons.shape[1]
    cut = _fan(np.arange(count))[None].repeat(len(polygons), 0)
    with np.errstate(all="ignore"):  # of corners that are not finite, which are refused later
        flat, turns = _flattened(polygons)
        sizes = np.abs(turns).max(axis=1, keepdims=True)
        concave = np.flatnonzero((turns < -1e-9 * sizes).any(axis=1))
    if count == 4:  # the diagonal through the corner that points inwards
        first = turns[concave].argmin(axis=1)
        cut[concave] = (cut[concave] + first[:, None, None]) % 4
    elif len(concave) and count > MOST_CORNERS:
        raise UnreadableItemError(f"it has a concave polygon of more than {MOST_CORNERS:,} corners")
    else:
        for polygon in concave.tolist():
            cut[polygon] = _clipped(flat[polygon])
    return cut


def _fan(corners: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, "n-2 3"]:
    """From the first corner; the last triangle of a quad is written 2, 3, 0."""
    second, third = corners[1:-1], corners[2:]
    fan = np.stack([np.full_like(second, corners[0]), second, third], axis=1)
    return np.concatenate([fan[:1], np.roll(fan[1:], -1, axis=1)]) if len(corners) == 4 else fan


def _flattened(polygons: Float64[np.ndarray, "P n 3"]) -> tuple[Float64[np.ndarray, "P n 2"], np.ndarray]:
    """Each polygon in the plane of its Newell normal, counterclockwise, and twice the signed area at each corner."""
    centered = polygons - polygons.mean(axis=1, keepdims=True)
    normals = np.cross(centered, np.roll(centered, -1, axis=1)).sum(axis=1)
    lengths = np.linalg.norm(normals, axis=1, keepdims=True)
    normals = np.where(lengths > 0, normals / np.where(lengths > 0, lengths, 1), [0.0, 0.0, 1.0])
    helper = np.eye(3)[np.abs(normals).argmin(axis=1)]
    across = np.cross(helper, normals)
    across /= np.linalg.norm(across, axis=1, keepdims=True)
    up = np.cross(normals, across)
    flat = np.stack([np.einsum("pnd,pd->pn", centered, axis) for axis in (across, up)], axis=2)
    before, after = flat - np.roll(flat, 1, axis=1), np.roll(flat, -1, axis=1) - flat
    return flat, before[..., 0] * after[..., 1] - before[..., 1] * after[..., 0]


def _clipped(points: Float64[np.ndarray, "n 2"]) -> Int64[np.ndarray, "n-2 3"]:
    """The triangles of a counterclockwise polygon: ears are cut off until three corners are left."""
    left, triangles = np.arange(len(points)), []
    tolerance = 1e-12 * float(np.ptp(points, axis=0).max()) ** 2
    while len(left) > 3:
        ring = points[left]
        before, after = np.roll(ring, 1, axis=0), np.roll(ring, -1, axis=0)
        turns = _turn(before, ring, after)
        order = [*np.flatnonzero(turns > tolerance).tolist(), *np.flatnonzero(np.abs(turns) <= tolerance).tolist()]
        others = ring[turns <= tolerance]  # only corners that do not turn left can lie in an ear
        ear = next((corner for corner in order if _is_ear(before[corner], ring[corner], after[corner], others)), None)
        if ear is None:
            break
        triangles.append([left[ear - 1], left[ear], left[(ear + 1) % len(left)]])
        left = np.delete(left, ear)
    return np.concatenate([np.array(triangles, np.int64).reshape(-1, 3), _fan(left)])


def _turn(
    first: Float64[np.ndarray, "*#n 2"], second: Float64[np.ndarray, "*#n 2"], third: Float64[np.ndarray, "*#n 2"]
) -> np.ndarray:
    """Twice the signed area of triangles: positive where they turn left."""
    one, other = second - first, third - second
    return one[..., 0] * other[..., 1] - one[..., 1] * other[..., 0]


def _is_ear(
    first: Float64[np.ndarray, " 2"],
    second: Float64[np.ndarray, " 2"],
    third: Float64[np.ndarray, " 2"],
    others: Float64[np.ndarray, "m 2"],
) -> bool:
    """Whether no other corner lies in a triangle or on its sides, but where its own corners are."""
    inside = np.ones(len(others), dtype=bool)
    for one, other in ((first, second), (second, third), (third, first)):
        inside &= (_turn(one[None], other[None], others) >= 0) & (others != one).any(axis=1)
    return not inside.any()
