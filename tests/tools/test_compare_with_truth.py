"""What a model draws beside the truth: only what is known of the truth is compared."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from inrflow_core.proteins import residues
from tests.protein_examples import helix
from tools import compare_with_truth


def test_a_sample_is_superposed_on_the_known_residues_and_compared_by_them():
    sample = helix("MKTAYIAKQRGPLDEGSWNV")
    owner, _ = residues.atom_layout(sample.codes)
    is_known = sample.is_known & (owner > 4)
    truth = replace(sample, positions=sample.positions * is_known[:, None], is_known=is_known)
    turned = replace(sample, positions=(sample.positions @ np.eye(3)[[1, 2, 0]] + 30).astype(np.float32))
    moved, score = compare_with_truth.laid(turned, truth)
    assert score == pytest.approx(1)
    np.testing.assert_allclose(moved, sample.ca, atol=1e-3)
