"""Every network has what the contract says."""

from __future__ import annotations

from typing import Any

import pytest

from inrflow_core import registry
from inrflow_core.networks import _contract
from tests import contracts, tiny

KINDS: dict[str, dict[str, Any]] = {"set-transformer": tiny.IMAGE}


def test_each_network_is_in_the_test_below():
    assert set(KINDS) == set(registry.names("networks"))


@pytest.mark.parametrize("name", KINDS)
def test_a_network_has_what_the_contract_says(name: str):
    part = registry.find("networks", name)
    contracts.check(part, _contract.NetworkPart)
    model = tiny.model(KINDS[name])
    network = model.method.network
    contracts.check(network, _contract.Network)
    alone = part.build_decoder(network.config, model.domain.shape)
    contracts.check(alone, _contract.QueryDecoder)
    assert set(alone.state_dict()) == set(network.decoder.state_dict())
