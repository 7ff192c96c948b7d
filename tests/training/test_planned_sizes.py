"""Runs on sets of unequal size are planned for the sizes of their data."""

from __future__ import annotations

import numpy as np
import pytest

from inrflow_core.config import preset as presets
from inrflow_core.domains.protein import ATOMS_PER_RESIDUE
from inrflow_core.methods._ragged_batches import MAX_PADDING
from inrflow_core.training.planned_sizes import padded_pairs, presets_of_data


@pytest.mark.parametrize("micro", [1, 4, 16])
def test_padding_adds_at_most_its_limit_and_the_largest_micro_batch_is_between_mean_and_maximum(micro: int):
    sizes = np.random.default_rng(0).integers(200, 2000, 500)
    mean, largest = padded_pairs(sizes, micro)
    assert sizes.mean() * 0.95 <= mean <= sizes.mean() * MAX_PADDING
    assert mean < largest <= sizes.max() * MAX_PADDING


def test_equal_sizes_are_planned_as_they_are():
    assert padded_pairs(np.full(30, 640), 8) == (640.0, 640.0)


def test_a_batch_of_a_hundred_million_sets_is_simulated_by_a_part_of_it():
    sizes = np.random.default_rng(0).integers(200, 2000, 500)
    mean, largest = padded_pairs(sizes, 10**8)
    assert mean < largest < 1.1 * mean and mean == pytest.approx(padded_pairs(sizes, 2000)[0], rel=0.02)


def test_proteins_are_planned_for_the_chains_of_their_data_and_other_sets_for_their_preset():
    preset = presets.load("proteins-demo")
    sizes = np.array([400, 800, 1600])
    mean, largest = presets_of_data(preset, sizes, 1)
    assert 0.9 * sizes.mean() <= mean.domain.config.residues * ATOMS_PER_RESIDUE <= 1.1 * sizes.mean()
    assert largest.domain.config.residues * ATOMS_PER_RESIDUE == 1600
    assert mean.network == preset.network and mean.domain.config.rotate == preset.domain.config.rotate
    assert presets_of_data(preset, None, 1) == (preset, preset)
    images = presets.load("digits-demo")
    assert presets_of_data(images, sizes, 4)[0] == images
