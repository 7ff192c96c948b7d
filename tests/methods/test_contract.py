"""Every method has what the contract says, and its stages train networks that it has."""

from __future__ import annotations

import pytest

from inrflow_core import models, registry
from inrflow_core.config.preset import Preset
from inrflow_core.methods import _contract
from inrflow_core.methods._trained_weights import weights_by_optimizer
from tests import contracts, own_methods, tiny
from tests.training import staged_runs

OWN = own_methods.NAMES
"""Methods that only tests have."""


@pytest.fixture(autouse=True)
def _found_by_name(monkeypatch):
    own_methods.install(monkeypatch.setattr)


def preset(name: str) -> Preset:
    """A small preset of a method."""
    if name in OWN:
        return staged_runs.preset(name)
    kind = {"consistency": tiny.INR, "latent": tiny.LATENT}.get(name, tiny.IMAGE)
    return tiny.preset(kind, method={"name": name})


@pytest.mark.parametrize("name", [*registry.names("methods"), *OWN])
def test_a_method_has_what_the_contract_says(name: str):
    part = registry.find("methods", name)
    contracts.check(part, _contract.MethodPart)
    method = models.build(preset(name)).method
    contracts.check(method, _contract.Method)
    assert method.STAGES == part.STAGES
    names = [stage.name for stage in part.STAGES]
    assert len(names) == len(set(names)) > 0
    assert set(part.NETWORKS) <= set(method.networks())
    trained = [weights_by_optimizer(method, stage) for stage in part.STAGES]
    assert all(set(result) == set(stage.optimizers) for result, stage in zip(trained, part.STAGES, strict=True))
    assert part.STAGES[0].reads == _contract.SHARDS
