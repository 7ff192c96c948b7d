"""Everything that the program computes stays what it was, to the bit on the machine that recorded it."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.golden import comparison, measures
from tests.golden.cases import CASES, SLOW


@pytest.fixture(scope="module")
def expected() -> dict[str, Any]:
    return comparison.expected()


@pytest.fixture(scope="module")
def to_the_bit(expected: dict[str, Any]) -> bool:
    """Whether this is a machine like the one that recorded."""
    return comparison.machine() == expected["machine"]


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in CASES])
def test_it_is_what_it_was(name: str, expected: dict[str, Any], to_the_bit: bool, tmp_path: Path):
    result = comparison.differences(CASES[name](tmp_path), expected["cases"][name], to_the_bit=to_the_bit)
    assert not result, "\n".join(result)


def test_every_recorded_case_is_still_run(expected: dict[str, Any]):
    assert list(expected["cases"]) == list(CASES)


@pytest.mark.parametrize("to_the_bit", [True, False])
def test_one_changed_number_is_found(to_the_bit: bool):
    values = np.linspace(-1, 1, 50, dtype=np.float32)
    requested = {"loss": [1.0, 2.0, 3.0], "samples": measures.array(values), "codes": {"help": 0}}
    assert not comparison.differences(requested, requested, to_the_bit=to_the_bit)
    changed = copy.deepcopy(requested)
    changed["loss"][1] *= 1.001
    assert len(comparison.differences(changed, requested, to_the_bit=to_the_bit)) == 1
    changed = requested | {"samples": measures.array(values * np.float32(1.001))}
    assert comparison.differences(changed, requested, to_the_bit=to_the_bit)
    changed = requested | {"codes": {"help": 1}}
    assert len(comparison.differences(changed, requested, to_the_bit=to_the_bit)) == 1
    del changed["codes"]
    assert len(comparison.differences(changed, requested, to_the_bit=to_the_bit)) == 1


def test_rounding_counts_on_the_same_machine_alone():
    values = np.linspace(-1, 1, 50, dtype=np.float32)
    one, other = measures.array(values), measures.array(np.nextafter(values, np.float32(2)))
    assert comparison.differences(one, other, to_the_bit=True)
    assert not comparison.differences(one, other, to_the_bit=False)
