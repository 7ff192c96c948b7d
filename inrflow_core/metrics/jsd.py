"""Jensen-Shannon divergence of point positions: all points of all samples against all of the reference.

Achlioptas et al. 2018, as in PointFlow's `evaluation_metrics.py`: the nodes of a grid of 28^3 over [-0.5, 0.5]^3 in
the ball of radius 0.5; every point counts for its nearest node, also one outside. It measures where points are on
average, not the quality of single shapes.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from jaxtyping import Float, Float64, Int64

from inrflow_core.metrics import _point_protocols
from inrflow_core.metrics._cloud_inputs import Clouds, CloudSpec

TITLE = "JSD"
DOMAIN = "points"
PROTOCOLS = tuple(name for name in _point_protocols.DISTANCES if name != "ddmi")  # whose clouds the grid would cut off
HIGHER_IS_BETTER = False
MIN_ITEMS = _point_protocols.MIN_ITEMS
SIDE = 28
"""Nodes along an axis, 1/27 apart."""


def unit(protocol: str) -> str:
    """Bits, from 0 to 1; PointFlow's tables are in 10^-2 of them."""
    return "10^-2" if protocol == "pointflow" else ""


def inputs(protocol: str) -> CloudSpec:
    """The clouds themselves."""
    return CloudSpec(protocol)


def compute(inputs: Clouds, protocol: str) -> float:
    """H((p + q) / 2) - (H(p) + H(q)) / 2 with logarithms to base 2, where p and q are shares of points at the nodes.

    Raises:
        UsageError: there are fewer than two samples or references.
    """
    _point_protocols.check_counts(len(inputs.samples), len(inputs.reference))
    p, q = (_shares(clouds) for clouds in (inputs.samples, inputs.reference))
    value = _entropy((p + q) / 2) - (_entropy(p) + _entropy(q)) / 2
    return max(0.0, value) * (100 if unit(protocol) else 1)


def _shares(clouds: Float[np.ndarray, "N P 3"]) -> Float64[np.ndarray, " G"]:
    """The share of all points nearest to each node of the grid; 0 at nodes outside the ball."""
    points = clouds.reshape(-1, 3).astype(np.float64)
    steps = np.rint((points + 0.5) * (SIDE - 1)).clip(0, SIDE - 1).astype(np.int64)
    is_outside = ~_is_in_ball(steps)
    nodes, tree = _nodes()
    steps[is_outside] = nodes[tree.query(points[is_outside])[1]]
    flat = np.ravel_multi_index(tuple(steps.T), (SIDE,) * 3)
    return np.bincount(flat, minlength=SIDE**3) / len(points)


@lru_cache(maxsize=1)
def _nodes():
    """The nodes in the ball, and a KD-tree of their positions."""
    from scipy.spatial import cKDTree

    steps = np.stack(np.meshgrid(*[np.arange(SIDE)] * 3, indexing="ij"), -1).reshape(-1, 3)
    steps = steps[_is_in_ball(steps)]
    return steps, cKDTree(steps / (SIDE - 1) - 0.5)


def _is_in_ball(steps: Int64[np.ndarray, "N 3"]) -> np.ndarray:
    """Whether a node is within 0.5 of the middle: whole numbers, and none is at 0.5 exactly."""
    return np.square(2 * steps - (SIDE - 1)).sum(1) <= (SIDE - 1) ** 2


def _entropy(shares: Float64[np.ndarray, " G"]) -> float:
    known = shares[shares > 0]
    return float(-(known * np.log2(known)).sum())
