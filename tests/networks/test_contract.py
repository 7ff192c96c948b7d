"""Every network has what the contract of its kind says."""

from __future__ import annotations

from typing import Any

import pytest

from inrflow_core import registry
from inrflow_core.networks import _contract
from tests import contracts, tiny

VELOCITY: dict[str, dict[str, Any]] = {"set-transformer": tiny.IMAGE}
PARTS = {
    *(_contract.NetworkPart, _contract.HypernetworkPart, _contract.ReadoutPart),
    *(_contract.AutoencoderPart, _contract.FieldReadoutPart, _contract.DenoiserPart),
}


@pytest.mark.parametrize("name", registry.names("networks"))
def test_each_network_is_of_one_kind(name: str):
    part = registry.find("networks", name)
    (kind,) = (kind for kind in PARTS if isinstance(part, kind))
    contracts.check(part, kind)
    assert (kind is _contract.NetworkPart) == (name in VELOCITY)


@pytest.mark.parametrize("name", VELOCITY)
def test_a_velocity_network_has_what_the_contract_says(name: str):
    part = registry.find("networks", name)
    model = tiny.model(VELOCITY[name])
    network = model.method.network
    contracts.check(network, _contract.Network)
    alone = part.build_decoder(network.config, model.domain.shape)
    contracts.check(alone, _contract.QueryDecoder)
    assert set(alone.state_dict()) == set(network.decoder.state_dict())


def test_the_networks_of_latent_diffusion_have_what_the_contract_says():
    method = tiny.model(tiny.LATENT).method
    contracts.check(method.autoencoder, _contract.Autoencoder)
    contracts.check(method.readout, _contract.FieldReadout)
    contracts.check(method.denoiser.network, _contract.Denoiser)
