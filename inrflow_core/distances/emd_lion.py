"""The EMD that LION and the papers after it report: a soft, not optimal matching by squared distance.

Levels -4^j for j = 7, ..., -1, then 0, of squared distances; the cost divided by the number of points. Rule from the
CUDA kernel `approxmatch` (Fan; PyTorchEMD) as LION calls it: the first cloud is the reference's, the second the
sample's, and within one set the row's and the column's. Computed in float32, as there.
"""

from __future__ import annotations

from typing import Any

from jaxtyping import Float
from torch import Tensor

from inrflow_core.distances._optimal_transport import approximate_matching, as_tensor

IS_SYMMETRIC = False
EXPONENTS = (7, 6, 5, 4, 3, 2, 1, 0, -1, None)
prepare = as_tensor


def distance(a: Any, b: Any) -> float:
    """Of two prepared clouds, the reference's first."""
    return float(batched_distance(a[None], b[None]))


def batched_distance(a: Float[Tensor, "K P 3"], b: Float[Tensor, "K P 3"]) -> Float[Tensor, " K"]:
    """Of K pairs, on any device."""
    return approximate_matching(a, b, EXPONENTS, is_squared=True)
