"""Every sampler has what the contract says."""

from __future__ import annotations

import pytest
import torch

from inrflow_core import registry
from inrflow_core.samplers import _contract
from tests import contracts


@pytest.mark.parametrize("name", registry.names("samplers"))
def test_a_sampler_has_what_the_contract_says(name: str):
    sampler = registry.find("samplers", name)
    contracts.check(sampler, _contract.AdaptiveSampler if sampler.IS_ADAPTIVE else _contract.Sampler)
    assert 0 < sampler.NFE_PER_REPLAY <= sampler.NFE_PER_STEP
    grid = sampler.time_grid(sampler.Config())
    assert grid.dtype == torch.float64 and (grid[0], grid[-1]) == (1, 0) and (grid.diff() < 0).all()
