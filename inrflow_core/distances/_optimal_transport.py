"""Matching of the points of two clouds: the exact assignment, and the soft matching of the papers' kernels."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor

MAX_EXPONENT = 60.0
"""Exponents are clipped at minus this: e^-60 is negligible beside `TINY`, and denormal numbers are ten times slower."""
TINY = 1e-9
"""Keeps quotients of masses finite, as in the kernels."""
MAX_PIVOTS = 100_000_000
"""Iteration limit of the network simplex; 2048 points need about 50,000."""


def as_float64(cloud: Float[np.ndarray, "P 3"]) -> Float64[np.ndarray, "P 3"]:
    """A cloud prepared for the exact assignment."""
    return cloud.astype(np.float64)


def as_tensor(cloud: Float[np.ndarray, "P 3"]) -> Float[Tensor, "P 3"]:
    """A cloud prepared for the soft matching, in float32."""
    return torch.from_numpy(np.ascontiguousarray(cloud, dtype=np.float32))


def optimal_assignment(cost: Float64[np.ndarray, "P P"]) -> float:
    """The least mean cost of a one-to-one assignment of rows to columns; exact.

    POT's network simplex; if it reports that it stopped before the optimum, SciPy's assignment, which is two to three
    times slower.
    """
    import ot

    value, log = ot.emd2([], [], cost, numItermax=MAX_PIVOTS, log=True, center_dual=False, check_marginals=False)
    if log["warning"] is None and math.isfinite(value):
        return float(value)
    from scipy.optimize import linear_sum_assignment

    rows, columns = linear_sum_assignment(cost)
    return float(cost[rows, columns].mean())


def approximate_matching(
    a: Float[Tensor, "K P 3"], b: Float[Tensor, "K P 3"], exponents: Sequence[float | None], *, is_squared: bool
) -> Float[Tensor, " K"]:
    """Mean over points of the distance (or its square) under a soft matching, for each of K pairs of clouds.

    Each point has mass 1. At each level, from narrow to wide, the remaining mass of every point of `a` is offered to the
    points of `b` by weights exp(-4^j d^2) times their missing mass; a point of `b` takes at most what it misses, and
    that mass is removed from `a`. `exponents` are the j; None gives weights of one. The sides are not symmetric: the
    value changes if they are exchanged.
    """
    square = torch.zeros_like(a[:, :, :1] * b[:, None, :, 0])
    for axis in range(3):
        square += (a[:, :, None, axis] - b[:, None, :, axis]).square_()
    cost = square if is_squared else square.sqrt()
    left, missing = torch.ones_like(a[..., :1]), torch.ones_like(b[..., :1])
    total = torch.zeros_like(square[:, 0, 0])
    for exponent in exponents:
        level = 0.0 if exponent is None else 4.0**exponent
        weight = (square * -level).clamp_(min=-MAX_EXPONENT).exp_()
        share = left / (weight @ missing + TINY)
        offered = missing * (weight.mT @ share)
        taken = missing * (missing / (offered + TINY)).clamp(max=1)
        missing = (missing - offered).clamp(min=0)
        left = (left - share * (weight @ taken)).clamp(min=0)
        total += (share * (weight.mul_(cost) @ taken)).sum((1, 2))
    return total / a.shape[1]
