"""Superposition, RMSD, lDDT and TM-score: laws, Biotite's figures and those of US-align."""

from __future__ import annotations

import csv
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from inrflow_core.proteins import superposition


def walk(count: int, seed: int) -> np.ndarray:
    """C-alphas of a made-up chain: steps of 3.8 Angstrom that keep some of their direction."""
    steps = np.random.default_rng(seed).normal(size=(count, 3)).cumsum(0) % 3 - 1.5
    return 3.8 * (steps / np.linalg.norm(steps, axis=1, keepdims=True)).cumsum(0)


def moved(positions: np.ndarray, seed: int) -> np.ndarray:
    """The positions after a random rotation and shift."""
    random = np.random.default_rng(seed)
    axes, _ = np.linalg.qr(random.normal(size=(3, 3)))
    axes[:, 0] *= np.linalg.det(axes)
    return positions @ axes.T + 20 * random.normal(size=3)


def test_superposition_undoes_a_motion():
    chain = walk(50, 0)
    there = moved(chain, 1)
    np.testing.assert_allclose(superposition.superpose(chain, there)(chain), there, atol=1e-9)
    assert superposition.rmsd(chain, there) < 1e-9
    assert superposition.tm_score(chain, there)[0] == pytest.approx(1)
    assert superposition.lddt(chain, there) == 1


def test_a_mirror_image_stays_one():
    chain = walk(50, 0)
    mirrored = chain * [1, 1, -1]
    motion = superposition.superpose(mirrored, chain)
    assert np.linalg.det(motion.rotation) == pytest.approx(1)
    assert superposition.rmsd(mirrored, chain) > 3
    assert superposition.tm_score(mirrored, chain)[0] < 0.5


def test_no_motion_near_the_best_comes_nearer():
    chain, other = walk(40, 0), walk(40, 0) + np.random.default_rng(2).normal(size=(40, 3))
    best = superposition.rmsd(chain, other)
    motion = superposition.superpose(chain, other)
    for seed in range(20):
        axes, _ = np.linalg.qr(np.eye(3) + 0.02 * np.random.default_rng(seed).normal(size=(3, 3)))
        turned = chain @ (axes * np.sign(np.diag(axes)) @ motion.rotation).T
        turned += other.mean(0) - turned.mean(0)
        assert np.sqrt(np.square(turned - other).sum(1).mean()) >= best


def test_scores_do_not_change_with_a_motion_of_either_side():
    chain, other = walk(60, 3), walk(60, 3) + 2 * np.random.default_rng(4).normal(size=(60, 3))
    there = moved(other, 5)
    assert superposition.tm_score(chain, there)[0] == pytest.approx(superposition.tm_score(chain, other)[0], abs=1e-9)
    assert superposition.lddt(chain, there) == pytest.approx(superposition.lddt(chain, other))


def test_the_search_finds_the_half_that_fits():
    """A hinge: no motion fits both halves, the best fits one."""
    chain = walk(200, 6)
    bent = np.concatenate([chain[:120], moved(chain[120:], 7) + 300])
    score, motion = superposition.tm_score(bent, chain)
    assert score == pytest.approx(120 / 200, abs=0.01)
    np.testing.assert_allclose(motion(bent[:120]), chain[:120], atol=0.5)
    assert superposition.tm_score(bent, chain, 400)[0] < score / 2 + 0.01


def test_no_refinement_of_the_found_superposition_scores_more():
    chain, other = walk(100, 3), walk(100, 4)
    score, motion = superposition.tm_score(chain, other)
    scale = superposition.tm_d0(100)
    for _ in range(3):
        near = np.linalg.norm(motion(chain) - other, axis=1) < max(scale, 4.5) + 1
        motion = superposition.superpose(chain[near], other[near])
        refined = np.mean(1 / (1 + np.square(motion(chain) - other).sum(1) / scale**2))
        assert refined <= score + 1e-12


@pytest.mark.parametrize("count", [1, 2, 3, 4, 7])
def test_very_short_chains_have_scores(count: int):
    chain = walk(count, 8)
    assert superposition.tm_score(chain, moved(chain, 9))[0] == pytest.approx(1, abs=1e-6)


def test_a_reach_grows_by_halves_to_three_pairs_however_far_they_are():
    squares = np.square(np.random.default_rng(4).uniform(0, 40, (200, 9)))
    squares[0] = np.arange(9.0) ** 2 + 1e16
    near = superposition._near(squares, 5.5)
    for row, result in zip(squares[1:], near[1:], strict=True):
        reach = 5.5
        while (row < reach**2).sum() < 3:
            reach += 0.5
        np.testing.assert_array_equal(result, row < reach**2)
    assert near[0].sum() >= 3
    assert superposition.tm_score(1e8 * np.eye(5, 3), np.eye(5, 3))[0] < 0.5


def test_d0_is_that_which_us_align_prints():
    assert [round(superposition.tm_d0(length), 2) for length in (10, 21, 22, 100, 250)] == [
        0.5,
        0.5,
        0.57,
        3.65,
        5.85,
    ]


@pytest.mark.parametrize("noise", [0.3, 1.0, 3.0])
def test_the_lddt_is_biotites(noise: float):
    biotite = pytest.importorskip("biotite.structure")
    reference = walk(300, 10)
    sample = reference + noise * np.random.default_rng(11).normal(size=reference.shape)
    residues = np.arange(300) // 5  # heavy atoms: five of each residue
    arrays = [biotite.AtomArray(300) for _ in range(2)]
    for array, positions in zip(arrays, (reference, sample), strict=True):
        array.coord, array.res_id = positions.astype(np.float32), residues + 1
    theirs = biotite.lddt(*arrays)
    assert superposition.lddt(sample, reference, residues) == pytest.approx(float(theirs), abs=1e-6)
    assert superposition.lddt(sample, reference) != pytest.approx(float(theirs), abs=1e-6)


def test_what_has_no_neighbors_has_no_lddt():
    assert np.isnan(superposition.lddt(np.zeros((1, 3)), np.zeros((1, 3))))


def test_us_align_and_biotite_agree_on_predictions_of_36_proteins(real_data: Callable[[str], Path]):
    folder = real_data("metrics/protein_pred_vs_exp")
    worst: dict[str, float] = dict.fromkeys(("lddt", "reference", "model", "rmsd"), 0.0)
    counts = {"lddt": 0, "tm": 0}
    with tarfile.open(folder / "ddg_triples.tar.gz") as tar:
        chains = {
            member.name: c_alphas(tar.extractfile(member).read().decode())  # pyright: ignore[reportOptionalMemberAccess]
            for member in tar
            if member.name.endswith(".pdb")
        }
    with (folder / "tm_lddt_reference.csv").open() as file:
        for row in csv.DictReader(file):
            model, reference = chains[row["model"]], chains[row["ref"]]
            missed = abs(superposition.lddt(model, reference) - float(row["lddt_ca_biotite"]))
            worst["lddt"], counts["lddt"] = max(worst["lddt"], missed), counts["lddt"] + 1
            if row["usalign_TMscore_mode"] == "0":  # a structural alignment: other pairs
                continue
            counts["tm"] += 1
            for side, length in (("model", len(model)), ("reference", len(reference))):
                reported = row["tm_norm_model" if side == "model" else "tm_norm_ref"]
                worst[side] = max(
                    worst[side], abs(superposition.tm_score(model, reference, length)[0] - float(reported))
                )
            worst["rmsd"] = max(worst["rmsd"], abs(superposition.rmsd(model, reference) - float(row["rmsd"])))
    assert counts == {"lddt": 216, "tm": 108}
    # What the file's four (RMSD: two) decimals leave open, and nothing more.
    assert worst["lddt"] < 1e-4 and worst["reference"] < 1e-4 and worst["model"] < 1e-4 and worst["rmsd"] < 0.006


def test_without_superposition_us_aligns_scores_of_nmr_models_are_met(real_data: Callable[[str], Path]):
    with tarfile.open(real_data("proteins/biotite_cif_bcif_pdb/biotite_structures.tar.gz")) as tar:
        read = lambda name: tar.extractfile(f"tests/structure/data/{name}").read().decode()  # noqa: E731 # pyright: ignore
        reported = json.loads(read("tm/tm_scores.json"))["1l2y"]
        models = [c_alphas(part) for part in read("pdb/1l2y.pdb").split("ENDMDL")[:38]]
    scale = superposition.tm_d0(20)
    for model, theirs in zip(models, reported, strict=True):
        placed = np.mean(1 / (1 + np.square(model - models[0]).sum(1) / scale**2))
        assert placed == pytest.approx(theirs, abs=1e-4)
        # Of a chain this short, whose d0 is far below the search's reach, the search is as coarse as US-align's own.
        assert superposition.tm_score(model, models[0])[0] >= 0.9 * placed


def c_alphas(text: str) -> np.ndarray:
    """C-alphas of the first chain of the first model of a PDB file."""
    lines = [
        line
        for line in text.partition("ENDMDL")[0].splitlines()
        if line.startswith("ATOM") and line[12:17] in (" CA  ", " CA A")
    ]
    return np.array([[float(line[at : at + 8]) for at in (30, 38, 46)] for line in lines if line[21] == lines[0][21]])
