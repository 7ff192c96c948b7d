"""The tests run with every annotated shape checked; this proves that the checker is on."""

from __future__ import annotations

import jaxtyping
import pytest
import torch

from inrflow_core.numerics import paths


def test_a_wrong_shape_raises():
    path = paths.PATHS["linear"]
    data = torch.zeros(2, 5, 3)
    paths.interpolate(path, data, torch.zeros(2, 5, 3), torch.zeros(2))
    with pytest.raises(jaxtyping.TypeCheckError, match="interpolate"):
        paths.interpolate(path, data, torch.zeros(2, 4, 3), torch.zeros(2))
