"""Bytes, durations and errors as people read them."""

from __future__ import annotations

import pytest

from inrflow_core.runtime.progress import first_line, format_bytes, format_duration, format_gigabytes


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.51, "0.5 s"), (59, "59 s"), (200, "3 min 20 s"), (7500, "2 h 5 min"), (273600, "3 d 4 h")]
)
def test_a_duration_has_its_two_largest_units(seconds: float, text: str):
    assert format_duration(seconds) == text


def test_gigabytes_have_two_decimals_and_an_error_without_text_has_its_class():
    assert format_gigabytes(12_049_000_000) == "12.05 GB"
    assert first_line(ValueError("one\ntwo")) == "one" and first_line(KeyError()) == "KeyError"


@pytest.mark.parametrize(("count", "text"), [(812, "812 B"), (4.1e6, "4.1 MB"), (999.9e6, "1 GB"), (5e15, "5e+03 TB")])
def test_bytes_come_in_powers_of_a_thousand(count: float, text: str):
    assert format_bytes(count) == text
