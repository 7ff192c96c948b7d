"""Every conditioner has what the contract says."""

from __future__ import annotations

import dataclasses

import pytest

from inrflow_core import registry
from inrflow_core.conditioners import _contract
from tests import contracts, tiny

KINDS: dict[str, tiny.Kind] = {
    "label": tiny.IMAGE,
    "image": tiny.IMAGE_TO_POINTS,
    "sequence": tiny.PROTEIN,
    "text": tiny.TEXT,
}


def test_each_conditioner_is_in_the_test_below():
    assert set(KINDS) == set(registry.names("conditioners"))


@pytest.mark.parametrize("name", KINDS)
def test_a_conditioner_has_what_the_contract_says(name: str):
    part = registry.find("conditioners", name)
    contracts.check(part, _contract.ConditionerPart)
    model = tiny.model(KINDS[name])
    conditioner = model.method.conditioner
    can_drop = "dropout" in {field.name for field in dataclasses.fields(part.Config)}
    contracts.check(conditioner, _contract.DroppableConditioner if can_drop else _contract.Conditioner)
    sets = model.domain.dummy_batch(2)
    embedding = conditioner({**sets.condition, **conditioner.dummy_batch(sets)})
    spec = part.spec(conditioner.config if hasattr(conditioner, "config") else part.Config(classes=3))
    assert (0 if embedding.tokens is None else embedding.tokens.shape[1]) == spec.tokens
    assert (None if embedding.features is None else embedding.features.shape[-1]) == spec.features


def test_each_option_gives_the_condition_of_one_conditioner():
    options = [(option, name) for name in KINDS for option in registry.find("conditioners", name).OPTIONS]
    assert len({option for option, _ in options}) == len(options)
    assert {option: _contract.conditioner_of_option(option) for option, _ in options} == dict(options)
    assert _contract.conditioner_of_option("--seed") is None
