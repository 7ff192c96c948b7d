"""Presets of methods with several networks, or without a sampler."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
import tomli

from inrflow_core.config import toml
from inrflow_core.config.preset import override, resolve
from inrflow_core.errors import UsageError
from inrflow_core.methods import flow
from inrflow_core.networks import set_transformer
from tests import tiny

NAMES = ("encoder", "denoiser")
SMALL = {"name": "set-transformer", **tiny.IMAGE["network"]}


@pytest.fixture
def _two_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flow, "NETWORKS", NAMES)


def tables(**networks: Any) -> dict[str, Any]:
    return tiny.tables(tiny.IMAGE) | {"network": networks}


@pytest.mark.usefixtures("_two_networks")
def test_each_network_has_a_table_and_all_survive_being_written_and_read():
    preset = resolve("two", tables(encoder=SMALL, denoiser={**SMALL, "depth": 3}))
    assert [part.config.depth for part in preset.networks.values()] == [2, 3]
    text = toml.to_toml(preset.table())
    assert "[network.encoder]\nname = " in text and "[network]\nname" not in text
    assert resolve("two", tomli.loads(text)) == preset
    assert [part.name for part in preset.networks.values()] == ["set-transformer"] * 2


@pytest.mark.usefixtures("_two_networks")
def test_an_override_reaches_one_network():
    before = tables(encoder=SMALL, denoiser=SMALL)
    preset = resolve("two", override(before, ["network.denoiser.depth=5"]))
    assert {name: part.config.depth for name, part in preset.networks.items()} == {"encoder": 2, "denoiser": 5}
    assert before == tables(encoder=SMALL, denoiser=SMALL), "the tables that are overridden stay as they are"
    shallow = preset.with_network_settings(depth=1)
    assert {part.config.depth for part in shallow.networks.values()} == {1}


SLIPS = {
    "one for two": (SMALL, "the method `flow` has 2 networks", "[network.encoder], [network.denoiser]"),
    "one is missing": ({"encoder": SMALL}, "[network.denoiser] is missing", "[network.encoder], [network.denoiser]"),
    "one too many": (dict.fromkeys((*NAMES, "critic"), SMALL), "no network `critic`", "allowed: `denoiser`, `encoder`"),
    "misspelt": ({"encoder": SMALL, "denoisr": SMALL}, "no network `denoisr`", "did you mean `denoiser`?"),
    "both forms": ({"width": 3, "encoder": SMALL, "denoiser": SMALL}, "has `width` beside [network.encoder]", "alone"),
    "no name": ({"encoder": SMALL, "denoiser": {}}, "[network.denoiser] has no `name`", "set-transformer"),
    "unknown key": (
        {"encoder": {**SMALL, "widht": 3}, "denoiser": SMALL},
        "[network.encoder] has no setting",
        "`width`",
    ),
}


@pytest.mark.parametrize(("network", "message", "hint"), SLIPS.values(), ids=SLIPS)
@pytest.mark.usefixtures("_two_networks")
def test_a_slip_names_the_table_and_the_networks_of_the_method(network: dict[str, Any], message: str, hint: str):
    with pytest.raises(UsageError) as caught:
        resolve("two", tables(**network))
    assert message in caught.value.message and hint in (caught.value.hint or "")


def test_a_method_of_one_network_takes_either_form():
    plain = tiny.preset(tiny.IMAGE)
    assert resolve("tiny", tables(network=SMALL)) == plain
    assert plain.network is plain.networks["network"]
    with pytest.raises(UsageError, match="the method `flow` has no network `encoder`"):
        resolve("tiny", tables(encoder=SMALL))


def test_a_part_finds_its_module_in_another_process_too():
    preset = pickle.loads(pickle.dumps(tiny.preset(tiny.IMAGE)))
    assert preset == tiny.preset(tiny.IMAGE)
    assert preset.network.module is set_transformer and preset.method.module is flow


def test_a_sampler_is_needed_where_the_method_samples_with_one(monkeypatch: pytest.MonkeyPatch):
    without = {table: values for table, values in tiny.tables(tiny.IMAGE).items() if table != "sampler"}
    with pytest.raises(UsageError, match=r"\[sampler\] has no `name`"):
        resolve("tiny", without)
    monkeypatch.setattr(flow, "USES_SAMPLER", False)
    preset = resolve("tiny", without)
    assert preset.sampler is None and "sampler" not in preset.table()
    assert resolve("tiny", preset.table()) == preset
    with pytest.raises(UsageError, match="the method `flow` samples without a sampler"):
        resolve("tiny", tiny.tables(tiny.IMAGE))
