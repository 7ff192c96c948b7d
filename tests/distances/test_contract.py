"""Every distance keeps the contract of `distances/_contract.py`, and optional members have defaults."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from inrflow_core import registry
from inrflow_core.distances import _contract
from inrflow_core.distances._contract import DistanceFile
from inrflow_core.errors import UsageError
from tests.distances import shapes


@pytest.mark.parametrize("name", registry.names("distances"))
def test_every_file_has_the_members_of_the_contract(name: str):
    distance = _contract.find(name)
    assert isinstance(distance.file, DistanceFile) and isinstance(distance.is_symmetric, bool)
    a, b = shapes.clouds(2, 30)
    distance_value = distance.between(a, b)
    assert isinstance(distance_value, float) and np.isfinite(distance_value) and distance_value > 0


def test_what_a_file_leaves_out_has_a_default():
    bare = SimpleNamespace(IS_SYMMETRIC=True, distance=lambda a, b: float(np.abs(a - b).max()))
    distance = _contract.resolve(bare)
    a, b = shapes.clouds(2, 30)
    assert distance.batched_distance is None and distance.prepare(a) is a
    assert distance.between(a, b) == np.abs(a - b).max()


def test_a_wrong_name_is_refused_with_the_nearest():
    with pytest.raises(UsageError, match="no distance is called `emd-exakt`") as caught:
        _contract.find("emd-exakt")
    assert "emd-exact" in (caught.value.hint or "")
