"""The mean structure that folding must beat: of moved copies it is the structure itself, and it never looks at the test's."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from inrflow_core.geometry import rigid_motion
from inrflow_core.proteins import superposition
from inrflow_core.proteins.structure import Structure
from tests.protein_examples import helix, part, shaken
from tools import fold_baselines

SEQUENCE = "MKTAYIAKQRGPLDEGSWNV"


def moved(structure: Structure, seed: int) -> Structure:
    turn = rigid_motion.random_rotations(torch.tensor([seed]))[0].numpy()
    positions = (structure.positions @ turn.T + 10 * seed) * structure.is_known[:, None]
    return replace(structure, positions=positions.astype(np.float32))


@pytest.mark.parametrize("by", fold_baselines.BY)
def test_the_mean_of_moved_copies_is_the_structure_whatever_the_tests_own_is(by: str):
    truth = helix(SEQUENCE)
    chains = [moved(truth, seed) for seed in range(1, 6)]
    blank = replace(truth, positions=np.zeros_like(truth.positions), is_known=np.zeros_like(truth.is_known))
    made, share = fold_baselines.mean_structure(blank, chains, by)
    assert share == 1 and superposition.rmsd(made.ca, truth.ca) < 1e-3
    assert made.sequence == SEQUENCE and (made.is_known == truth.is_known).all()


def test_the_mean_of_noisy_copies_is_nearer_than_they_are():
    truth = helix(SEQUENCE)
    chains = [moved(shaken(truth, 1.0, seed), seed) for seed in range(1, 17)]
    made, _ = fold_baselines.mean_structure(truth, chains, "sequence")
    alone = np.mean([superposition.rmsd(chain.ca, truth.ca) for chain in chains])
    assert superposition.rmsd(made.ca, truth.ca) < 0.5 * alone


def test_chains_of_other_lengths_are_aligned_and_what_none_has_continues_straight():
    truth = helix(SEQUENCE)
    chains = [moved(part(truth, 4, 20), seed) for seed in range(1, 6)]
    made, share = fold_baselines.mean_structure(truth, chains, "sequence")
    assert share == pytest.approx(0.8)
    assert superposition.rmsd(made.ca[4:], truth.ca[4:]) < 1e-3
    steps = np.diff(made.ca[:6], axis=0)
    np.testing.assert_allclose(steps[:4], np.broadcast_to(steps[4], (4, 3)), atol=1e-4)


def test_gaps_lie_on_straight_lines():
    indices = np.array([[0.0, 0, 0], [9, 9, 9], [2, 0, 4], [9, 9, 9]])
    known = np.array([True, False, True, False])
    np.testing.assert_allclose(
        fold_baselines.interpolated(indices, known), [[0, 0, 0], [1, 0, 2], [2, 0, 4], [3, 0, 6]]
    )
