"""Every data set has what the contract names."""

from __future__ import annotations

import dataclasses
import inspect

import pytest

from inrflow_core import registry
from inrflow_core.datasets import _contract


@pytest.mark.parametrize("name", registry.names("datasets"))
def test_a_data_set_has_every_member_of_the_contract(name: str):
    module = registry.find("datasets", name)
    members = set(_contract.Dataset.__annotations__) | {n for n in vars(_contract.Dataset) if not n.startswith("_")}
    assert [member for member in sorted(members) if not hasattr(module, member)] == []
    assert module.DOMAIN in registry.names("domains") and module.DESCRIPTION
    assert isinstance(module.NEEDS_SOURCE, bool) and isinstance(module.IS_READ_BY_SCAN, bool)
    assert dataclasses.is_dataclass(module.Config) and module.Config.__dataclass_params__.frozen


@pytest.mark.parametrize("name", registry.names("datasets"))
def test_its_functions_take_what_the_contract_says(name: str):
    module = registry.find("datasets", name)
    for function in ("scan", "read"):
        expected = inspect.signature(getattr(_contract.Dataset, function)).parameters
        assert len(inspect.signature(getattr(module, function)).parameters) == len(expected), function
