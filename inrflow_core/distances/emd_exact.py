"""Earth mover's distance, exact: the optimal assignment of points, by plain distance, mean over points.

A metric of clouds: symmetric, and the triangle inequality holds. Not the papers' number: see `emd-lion` and
`emd-pointflow`.
"""

from __future__ import annotations

from typing import Any

from inrflow_core.distances._optimal_transport import as_float64, optimal_assignment

IS_SYMMETRIC = True
prepare = as_float64


def distance(a: Any, b: Any) -> float:
    """Of two prepared clouds: the least mean of |a_i - b_s(i)| over all permutations s."""
    from scipy.spatial.distance import cdist

    return optimal_assignment(cdist(a, b))
