"""Settings that the shards decide are numbers in a resolved preset, and nothing else changes in it."""

from __future__ import annotations

import copy

import pytest

from inrflow_core.config import from_data, preset
from inrflow_core.errors import UsageError

FACTS = {
    "domain.resolution": 48,
    "domain.channels": 1,
    "domain.num_points": 900,
    "condition.classes": 7,
    "data.held_out": "test",
}
OWN = ("photos-demo", "clouds-demo", "shapes-demo")


def tables_of(name: str, *overrides: str) -> dict:
    return preset.read(name, overrides)[1]


def test_every_fact_takes_its_place_and_no_other_setting_changes():
    tables = tables_of("photos-demo")
    before = copy.deepcopy(tables)
    found = from_data.resolved(tables, FACTS)
    assert tables == before
    assert (found["domain"]["resolution"], found["domain"]["channels"]) == (48, 1)
    assert (found["condition"]["classes"], found["data"]["held_out"]) == (7, "test")
    for table, key in (
        ("domain", "resolution"),
        ("domain", "channels"),
        ("condition", "classes"),
        ("data", "held_out"),
    ):
        found[table][key] = "data"
    assert found == before


@pytest.mark.parametrize(("stored", "expected"), [(900, 256), (256, 256), (100, 100)])
def test_a_number_of_points_may_have_a_limit(stored: int, expected: int):
    found = from_data.resolved(tables_of("clouds-demo"), {**FACTS, "domain.num_points": stored, "domain.channels": 3})
    assert preset.resolve("x", found).domain.config.num_points == expected


@pytest.mark.parametrize("name", OWN)
def test_without_classes_and_held_out_split_there_is_neither_a_condition_nor_a_held_out_loss(name: str):
    facts = {**FACTS, "domain.channels": 3, "condition.classes": 0, "data.held_out": None}
    plain = preset.resolve(name, from_data.resolved(tables_of(name, "training.held_out_every=5"), facts))
    assert plain.condition is None and plain.data.config.held_out is None
    assert plain.training.config.held_out_every is None


def test_what_is_set_is_not_taken_from_the_data():
    tables = tables_of("photos-demo", "domain.resolution=32", "data.held_out=none", "condition=none")
    assert from_data.unresolved(tables) == ["domain.channels"]
    assert from_data.resolved(tables, FACTS)["domain"]["resolution"] == 32


def test_a_preset_without_shards_names_the_settings_to_give():
    with pytest.raises(UsageError, match='`resolution` is "data", and no shards are at hand') as caught:
        preset.load("photos-demo")
    assert caught.value.hint is not None
    words = caught.value.hint.replace("`", "").split()
    assert preset.load("photos-demo", words[1::2]).domain.config.resolution == 64


def test_shards_that_do_not_say_it_are_refused():
    with pytest.raises(UsageError, match="the shards have no such number"):
        from_data.resolved(
            tables_of("photos-demo"), {"domain.channels": 3, "condition.classes": 0, "data.held_out": None}
        )


@pytest.mark.parametrize("value", ["data, at most 0", "data, at most -1", "data at most 3", "datum"])
def test_another_text_is_not_a_number(value: str):
    assert "domain.num_points" not in from_data.unresolved(tables_of("clouds-demo", f'domain.num_points="{value}"'))
