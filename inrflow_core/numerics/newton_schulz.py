"""Newton-Schulz iteration: the orthogonal factor of matrices by products alone, as Muon uses it.

Source: Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks"; here in fp32, and matrices of one shape
are iterated together. The coefficients raise small singular values quickly and let all of them end near 1, not at 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of x, x^3 and x^5: an iteration maps a singular value x to their sum. Jordan et al. 2024."""
ITERATIONS = 5
STACK = 1 << 22
"""Numbers of a stack of matrices that are iterated together: 16 MiB. A larger matrix is a stack by itself."""
COPIES = 5
"""Stacks in memory during the iteration, its input included; square matrices need the most."""
EPSILON = 1e-7


def orthogonalize(matrices: Float[Tensor, "K R C"]) -> Float[Tensor, "K R C"]:
    """U V^T of each matrix U S V^T, approximately: singular values from 0.7 to 1.2.

    Those that were below 0.002 of the matrix's Frobenius norm end smaller, and a matrix of zeros stays one.
    """
    is_tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if is_tall else matrices
    x = x / (torch.linalg.matrix_norm(x, keepdim=True) + EPSILON)
    linear, cubic, quintic = COEFFICIENTS
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        polynomial = torch.baddbmm(gram, gram, gram, beta=cubic, alpha=quintic)
        x = torch.baddbmm(x, polynomial, x, beta=linear)
    return x.mT if is_tall else x


def flops(rows: int, columns: int) -> float:
    """FLOPs of the products for one matrix."""
    small, large = sorted((rows, columns))
    return ITERATIONS * (4.0 * small**2 * large + 2.0 * small**3)


def stacks(shapes: Sequence[tuple[int, int]]) -> list[list[int]]:
    """The indices of matrices that are iterated together: of one shape, at most `STACK` numbers or one matrix."""
    by_shape: dict[tuple[int, int], list[int]] = {}
    for index, shape in enumerate(shapes):
        by_shape.setdefault(shape, []).append(index)
    result = []
    for (rows, columns), indices in by_shape.items():
        count = max(1, STACK // (rows * columns))
        result += [indices[start : start + count] for start in range(0, len(indices), count)]
    return result


def largest_stack(shapes: Sequence[tuple[int, int]]) -> int:
    """Numbers of the largest of their stacks; 0 without matrices."""
    sizes = (len(indices) * math.prod(shapes[indices[0]]) for indices in stacks(shapes))
    return max(sizes, default=0)
