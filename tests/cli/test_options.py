"""Texts of shared options as values, and completion."""

from __future__ import annotations

import pytest

from inrflow_cli import options
from inrflow_core.errors import UsageError


def test_seeds_are_a_range_with_both_ends_or_a_count_from_the_first():
    assert options.parse_seeds("0-49999", seed=0, num=1) == range(50000)
    assert options.parse_seeds("12", seed=0, num=1) == range(12, 13)
    assert options.parse_seeds(None, seed=7, num=3) == range(7, 10)


@pytest.mark.parametrize("text", ["9-3", "a-b", "", "1-2-3", "-4"])
def test_what_is_not_a_range_of_seeds_is_refused(text: str):
    with pytest.raises(UsageError, match="is not a range of seeds"):
        options.parse_seeds(text, seed=0, num=1)


@pytest.mark.parametrize(("seed", "num"), [(7, 1), (0, 3)])
def test_seeds_are_said_in_one_way(seed: int, num: int):
    with pytest.raises(UsageError, match="`--seeds` excludes `--seed` and `--num`"):
        options.parse_seeds("0-9", seed=seed, num=num)


def test_seeds_have_63_bits():
    assert options.parse_seeds(str(2**63 - 1), seed=0, num=1) == range(2**63 - 1, 2**63)
    for text, seed, num in [(str(2**63), 0, 1), (None, 2**63 - 1, 2)]:
        with pytest.raises(UsageError, match="too large"):
            options.parse_seeds(text, seed=seed, num=num)


def test_a_window_is_four_numbers_from_0_to_1_in_order():
    assert options.parse_window("0.25, 0, 0.5,1") == (0.25, 0.0, 0.5, 1.0)


@pytest.mark.parametrize("text", ["0,0,1", "0.5,0,0.5,1", "0,0,2,1", "a,b,c,d", "nan,0,1,1"])
def test_an_empty_or_outside_window_is_refused(text: str):
    with pytest.raises(UsageError, match="is not a part of an image"):
        options.parse_window(text)


def test_the_shell_completes_presets_samplers_and_runs(tmp_path, monkeypatch):
    monkeypatch.setenv("INRFLOW_RUNS", str(tmp_path))
    (tmp_path / "digits").mkdir()
    (tmp_path / "digits" / "preset.toml").touch()
    (tmp_path / "notes").mkdir()
    assert options.complete_runs("") == [str(tmp_path / "digits")]
    assert options.complete_samplers("he") == ["heun"]
    assert "digits-demo" in options.complete_presets("dig")
