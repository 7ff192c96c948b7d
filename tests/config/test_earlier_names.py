"""Settings under their earlier names resolve to the same settings, wherever a user's file or command may hold them."""

from __future__ import annotations

from pathlib import Path

import pytest

from inrflow_core import models
from inrflow_core.config import preset, toml
from inrflow_core.config.typed import EARLIER_NAMES, settings
from inrflow_core.datasets import mesh_folder, shapenet
from inrflow_core.errors import UsageError
from inrflow_core.evaluation import metric_specs
from inrflow_core.preparation.job import _settings, resolve_job
from tests import tiny

VALUES = {
    "network": {
        "cross_attend_every": 2,
        "separate_cross_attention": True,
        "decoder_levels": 2,
        "max_frequency": 8.0,
    },
    "method": {"noise_draws_per_example": 3, "time_std": 1.5},
    "shapenet": {"normalization": "global"},
    "mesh-folder": {"colors": True},
}
"""A value of each setting that has an earlier name, other than its default."""
PRESET_NAMES = {table: names for table, names in EARLIER_NAMES.items() if table in preset.NAMED}
"""Those in tables of a preset; the others are settings of data sets."""
NETWORK = {"width": 32, "depth": 2, "heads": 2, "latents": 8, "encoder": "perceiver"}


def present() -> dict:
    """The tables of a preset with those values."""
    return tiny.tables({**tiny.POINTS, "network": NETWORK}, network=VALUES["network"], method=VALUES["method"])


def earlier() -> dict:
    """The same tables under the earlier names."""
    tables = present()
    for table, names in PRESET_NAMES.items():
        tables[table] = {**tables[table], **{old: tables[table][new] for old, new in names.items()}}
        for new in names.values():
            del tables[table][new]
    return tables


def test_every_earlier_name_is_in_this_test():
    assert {table: set(names.values()) for table, names in EARLIER_NAMES.items()} == {
        table: set(values) for table, values in VALUES.items()
    }


def test_a_preset_of_earlier_names_is_the_same_preset(tmp_path: Path):
    expected = preset.resolve("some", present())
    assert preset.resolve("some", earlier()) == expected
    file = tmp_path / "some.toml"
    file.write_text(toml.to_toml(earlier()), encoding="utf-8")
    assert preset.load(str(file)) == expected
    assert not any(old in expected.table()[table] for table, names in PRESET_NAMES.items() for old in names)


@pytest.mark.parametrize(
    ("table", "old", "new"), [(t, o, n) for t, names in EARLIER_NAMES.items() for o, n in names.items()]
)
def test_an_override_by_either_name_replaces_either(table: str, old: str, new: str):
    value = VALUES[table][new]
    text = str(value).lower() if isinstance(value, bool) else str(value)
    for stored_name in (old, new):
        for override_name in (old, new):
            tables = {table: {stored_name: 1}}
            assert preset.override(tables, [f"{table}.{override_name}={text}"]) == {table: {new: value}}
            assert preset.override(tables, [f"{table}.{override_name}=none"]) == {table: {}}


def test_a_weights_file_of_earlier_names_has_the_same_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    expected = preset.resolve("some", present())
    monkeypatch.setattr(type(expected), "table", lambda _: earlier())
    models.save(tmp_path / "weights.safetensors", {}, expected, {})
    monkeypatch.undo()
    assert models.read_metadata(tmp_path / "weights.safetensors")[0] == expected


def test_both_names_at_once_are_refused():
    tables = present()
    tables["network"]["reread"] = 1
    with pytest.raises(UsageError, match="`reread` and `cross_attend_every`, which are one setting"):
        preset.resolve("some", tables)


def test_a_network_of_a_name_has_the_earlier_names_of_networks():
    kind = type(preset.resolve("some", present()).network.config)
    assert settings(kind, {**NETWORK, "levels": 2}, "network.decoder").decoder_levels == 2


@pytest.mark.parametrize(
    ("name", "kind", "key"),
    [("shapenet", shapenet.Config, "normalisation"), ("mesh-folder", mesh_folder.Config, "colours")],
)
def test_a_data_set_takes_a_setting_under_either_name_and_keeps_the_key_of_its_files(name: str, kind: type, key: str):
    ((new, value),) = VALUES[name].items()
    config = settings(kind, {key: value}, name)
    assert config == settings(kind, {new: value}, name) == kind(**{new: value})
    written = _settings(resolve_job(name, config=config, source=Path()))
    assert written[key] == value and new not in written


def test_protocols_take_their_earlier_words():
    gray, color = metric_specs.parse_metrics(["ulip-i:grey", "ulip-i:colour"], "points")
    assert (gray.full, color.full) == ("ulip-i:gray", "ulip-i:color")
