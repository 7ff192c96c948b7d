"""One-hot residues, which stand in for a language model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from inrflow_core.errors import UsageError
from inrflow_core.feature_networks import _contract
from inrflow_core.proteins.residues import LETTERS


def test_each_residue_has_its_own_column() -> None:
    embedder = _contract.load("one-hot")
    assert (embedder.name, embedder.width, embedder.digest) == ("one-hot", 20, "one-hot-1")
    all_of_them, one = embedder([LETTERS, "RrA"])
    np.testing.assert_array_equal(all_of_them, np.eye(20, dtype=np.float32))
    assert one.argmax(1).tolist() == [1, 1, 0]
    with pytest.raises(UsageError, match="`Z` at 1"):
        embedder(["Z"])


def test_a_stand_in_takes_no_weights() -> None:
    with pytest.raises(UsageError, match="`one-hot` has no weights"):
        _contract.load("one-hot", Path("here"))
