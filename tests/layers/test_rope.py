"""Rotary position embedding depends on differences of positions."""

from __future__ import annotations

import pytest
import torch

from inrflow_core.layers.rope import apply_rope, rotary


@pytest.mark.parametrize(("axes", "size"), [(2, 64), (2, 72), (2, 12), (3, 64), (3, 48), (3, 6)])
def test_rope_gives_scores_that_depend_on_the_difference_of_positions_alone(axes: int, size: int) -> None:
    torch.manual_seed(0)
    start, q, k = torch.rand(5, axes) * 8, torch.randn(size), torch.randn(size)

    def scores(positions: torch.Tensor) -> torch.Tensor:
        rope = rotary(positions, size)
        return apply_rope(q.expand(5, -1), rope) @ apply_rope(k.expand(5, -1), rope).t()

    scores_before = scores(start)
    torch.testing.assert_close(scores(start + torch.rand(axes) * 5), scores_before, atol=1e-4, rtol=1e-4)
    for axis in range(axes):
        stretched = start.clone()
        stretched[:, axis] *= 2
        assert (scores(stretched) - scores_before).abs().max() > 0.1
