"""The Newton-Schulz iteration: singular values near 1, singular vectors as they were."""

from __future__ import annotations

import pytest
import torch

from inrflow_core.numerics import newton_schulz
from inrflow_core.planning import flops

SHAPES = [(48, 48), (96, 40), (40, 160), (1, 7)]


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
def test_singular_values_end_near_1_and_singular_vectors_stay(shape, scale):
    """Singular values from 1 to 20: 1/20 of the largest is well above the least that the iteration raises."""
    u, _, vh = torch.linalg.svd(normal(*shape), full_matrices=False)
    values = torch.linspace(1, 20, len(vh))
    result = newton_schulz.orthogonalize((scale * (u * values) @ vh)[None])[0]
    turned = u.mT @ result @ vh.mT
    assert turned.diagonal().min() > 0.6 and turned.diagonal().max() < 1.25
    assert (turned - turned.diagonal().diag()).abs().max() < 1e-4


def test_each_iteration_maps_singular_values_by_the_polynomial():
    values = torch.tensor([0.001, 0.01, 0.1, 0.3, 0.5, 0.8])
    expected = values / values.norm()
    a, b, c = newton_schulz.COEFFICIENTS
    for _ in range(newton_schulz.ITERATIONS):
        expected = a * expected + b * expected**3 + c * expected**5
    result = newton_schulz.orthogonalize(values.diag()[None])[0].diagonal()
    torch.testing.assert_close(result, expected, rtol=1e-5, atol=0)


def test_a_stack_has_the_results_of_its_matrices_and_zeros_stay_zeros():
    matrices = torch.stack([normal(64, 32), 100 * normal(64, 32).flip(0), torch.zeros(64, 32)])
    together = newton_schulz.orthogonalize(matrices)
    alone = torch.cat([newton_schulz.orthogonalize(matrix[None]) for matrix in matrices])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)
    assert not together[2].any()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_flops_are_those_that_torch_counts(shape):
    with flops.counter() as counter:
        newton_schulz.orthogonalize(normal(3, *shape))
    assert 3 * newton_schulz.flops(*shape) == counter.get_total_flops()


def test_stacks_have_one_shape_each_and_a_bounded_size(monkeypatch):
    monkeypatch.setattr(newton_schulz, "STACK", 100)
    shapes = [(4, 8), (8, 4), (4, 8), (20, 30), (4, 8), (4, 8), (20, 30)]
    assert newton_schulz.stacks(shapes) == [[0, 2, 4], [5], [1], [3], [6]]
    assert newton_schulz.largest_stack(shapes) == 600 and newton_schulz.largest_stack([]) == 0
