"""Balls of points by their definition: one offset from the center after the other, over all points."""

from __future__ import annotations

import math

import numpy as np

from inrflow_core.visualization.point_rendering import LIGHT


def one_offset_after_the_other(
    placed: np.ndarray, side: int, radius: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What `point_rendering.splat_balls` returns."""
    reach = math.ceil(radius)
    depth, light = np.full(side * side, -np.inf), np.zeros(side * side)
    owner = np.zeros(side * side, dtype=np.int64)
    pixels = np.floor(placed[:, :2]).astype(np.int64)
    for row in range(-reach, reach + 1):
        for column in range(-reach, reach + 1):
            offset = np.array([row, column]) / radius
            height = 1 - float(offset @ offset)
            if height < 0:
                continue
            normal = np.array([-offset[0], offset[1], math.sqrt(height)])
            at = pixels + (row, column)
            inside = np.flatnonzero(((at >= 0) & (at < side)).all(1))
            cells = at[inside, 0] * side + at[inside, 1]
            nearness = placed[inside, 2] + radius * math.sqrt(height)
            np.maximum.at(depth, cells, nearness)
            won = depth[cells] == nearness
            owner[cells[won]] = inside[won]
            light[cells[won]] = 0.68 + 0.42 * max(0.0, float(normal @ LIGHT))
    return depth.reshape(side, side), owner.reshape(side, side), light.reshape(side, side)
