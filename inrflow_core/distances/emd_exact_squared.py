"""Earth mover's distance, exact, by squared distance: the optimal assignment of points, mean over points.

The square of the 2-Wasserstein distance: symmetric, but not a metric. `emd-lion` has the same unit and another matching.
"""

from __future__ import annotations

from typing import Any

from inrflow_core.distances._optimal_transport import as_float64, optimal_assignment

IS_SYMMETRIC = True
prepare = as_float64


def distance(a: Any, b: Any) -> float:
    """Of two prepared clouds: the least mean of |a_i - b_s(i)|^2 over all permutations s."""
    from scipy.spatial.distance import cdist

    return optimal_assignment(cdist(a, b, "sqeuclidean"))
