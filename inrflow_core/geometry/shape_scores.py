"""How well a shape is reconstructed: by positions that are inside, and by points on its surface (Occupancy Networks, section 4).

Definitions are those of the supplement of Occupancy Networks (arXiv:1812.03828) and, for the F-score, of Tatarchenko et al.
2019 (arXiv:1905.03678). The longest side of a shape is 1.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from inrflow_core.errors import UsageError

THRESHOLD = 0.01
"""Points of the F-score are right within 1 % of the longest side."""
CHAMFER_UNIT = 0.1
"""Chamfer-L1 is in tenths of the longest side, as Occupancy Networks and ConvONet print it."""


class SurfaceScores(NamedTuple):
    """Scores of points with normals on a surface against those of a reference."""

    chamfer_l1: float
    """Mean distance to the nearest point of the other surface, both directions averaged, in `CHAMFER_UNIT`."""
    f_score: float
    """Harmonic mean of the shares of points within `THRESHOLD` of the other surface, from 0 to 1."""
    normal_consistency: float
    """Mean absolute cosine between the normals of nearest points, both directions averaged, from 0 to 1."""


def iou(first: Bool[np.ndarray, " Q"], second: Bool[np.ndarray, " Q"]) -> float:
    """Positions inside both over positions inside at least one; 1 where nothing is inside either."""
    union = int((first | second).sum())
    return int((first & second).sum()) / union if union else 1.0


def surface_scores(
    points: Float[np.ndarray, "P 3"],
    normals: Float[np.ndarray, "P 3"],
    reference_points: Float[np.ndarray, "R 3"],
    reference_normals: Float[np.ndarray, "R 3"],
) -> SurfaceScores:
    """The scores of points on a surface, with unit normals; F-scores depend on the numbers of points.

    Raises:
        UsageError: a side has no points.
    """
    from scipy.spatial import cKDTree

    if not len(points) or not len(reference_points):
        raise UsageError("a surface without points cannot be compared", hint="give surfaces with some area")
    away, nearest = cKDTree(reference_points).query(points)
    back, nearest_back = cKDTree(points).query(reference_points)
    precision, recall = (away <= THRESHOLD).mean(), (back <= THRESHOLD).mean()
    cosines = np.abs(np.vecdot(normals, reference_normals[nearest])).mean()
    cosines_back = np.abs(np.vecdot(reference_normals, normals[nearest_back])).mean()
    return SurfaceScores(
        float(away.mean() + back.mean()) / 2 / CHAMFER_UNIT,
        float(2 * precision * recall / max(precision + recall, 1e-12)),
        float(cosines + cosines_back) / 2,
    )
