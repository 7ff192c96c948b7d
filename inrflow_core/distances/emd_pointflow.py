"""The EMD of PointFlow's code: the soft matching as in `emd-lion`, but by plain distance and without the level 0.

Rule from `approxmatch.cu` of PointFlow: its loop stops before the last level, so that some mass may remain unmatched,
and its cost is the root: values are several times those of `emd-lion`.
"""

from __future__ import annotations

from typing import Any

from jaxtyping import Float
from torch import Tensor

from inrflow_core.distances._optimal_transport import approximate_matching, as_tensor

IS_SYMMETRIC = False
EXPONENTS = (7, 6, 5, 4, 3, 2, 1, 0, -1)
prepare = as_tensor


def distance(a: Any, b: Any) -> float:
    """Of two prepared clouds, the reference's first."""
    return float(batched_distance(a[None], b[None]))


def batched_distance(a: Float[Tensor, "K P 3"], b: Float[Tensor, "K P 3"]) -> Float[Tensor, " K"]:
    """Of K pairs, on any device."""
    return approximate_matching(a, b, EXPONENTS, is_squared=False)
