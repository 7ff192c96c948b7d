"""Metrics of proteins: pairing, means, geometry, and the figures of Biotite and US-align through files."""

from __future__ import annotations

import csv
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from inrflow_core import registry
from inrflow_core.errors import UsageError
from inrflow_core.evaluation import intervals
from inrflow_core.metrics import bond_deviation, bond_lengths, clashes, lddt, rmsd, tm_score
from inrflow_core.metrics._protein_inputs import Protein, Structures
from inrflow_core.proteins import residue_alignment, residues, sterics, superposition
from inrflow_core.proteins.structure import Structure
from tests.protein_examples import helix, part, shaken

SEQUENCE = "MKTAYIAKQRGPLDEGSWNVFHCIPAEK"


def evidence(*proteins: tuple[Structure, Sequence[Structure]], rule: str = "auto") -> Structures:
    """What metrics evaluate, of references and their samples."""
    return Structures(
        [
            Protein(
                reference.name,
                reference,
                samples,
                [residue_alignment.align_residues(s, reference, rule) for s in samples],
            )
            for reference, samples in proteins
        ]
    )


PROTEIN = helix(SEQUENCE)
BEST = {"lddt": 1, "tm-score": 1, "rmsd": 0, "bond-lengths": 100, "bond-deviation": 0, "clashes": 0}


@pytest.mark.parametrize("name", BEST)
def test_a_structure_is_the_best_sample_of_itself(name: str):
    metric = registry.find("metrics", name)
    for protocol in metric.PROTOCOLS:
        mine = evidence((PROTEIN, [PROTEIN]))
        assert metric.compute(mine, protocol) == pytest.approx(BEST[name], abs=0.02), protocol


@pytest.mark.parametrize(("metric", "best"), [(lddt, max), (tm_score, max), (rmsd, min)], ids=["lddt", "tm", "rmsd"])
def test_samples_are_brought_together_first_and_proteins_after(metric, best):
    """So that a protein with many samples counts no more than one with few."""
    few, many = [shaken(PROTEIN, 0.5, 0)], [shaken(PROTEIN, size, 1) for size in (1.0, 2.0, 3.0)]
    mean, selected = metric.PROTOCOLS[:2]
    alone = [metric.compute(evidence((PROTEIN, [sample])), mean) for sample in (*few, *many)]
    both = evidence((PROTEIN, few), (PROTEIN, many))
    assert metric.compute(both, mean) == pytest.approx((alone[0] + np.mean(alone[1:])) / 2)
    assert metric.compute(both, selected) == pytest.approx((alone[0] + best(alone[1:])) / 2)
    assert f"{(alone[0] + best(alone[1:])) / 2:.4g}" in (metric.remark(both, mean) or "")
    assert "best of 1 to 3 samples" in (metric.remark(both, mean) or "")


def test_the_interval_covers_other_proteins():
    """Its error is that of a mean: the deviation of the proteins over the root of their number."""
    proteins = evidence(*((PROTEIN, [shaken(PROTEIN, 0.2 + 0.05 * seed, seed)]) for seed in range(40)))
    result = intervals.jackknife_interval(lambda part: lddt.compute(part, "ca:auto:mean"), proteins)
    values = np.concatenate(lddt.values(proteins, "ca:auto:mean"))
    assert result is not None and result.error == pytest.approx(values.std(ddof=1) / np.sqrt(40), rel=0.4)
    nineteen = Structures(proteins.proteins[:19])
    assert intervals.jackknife_interval(lambda part: lddt.compute(part, "ca:auto:mean"), nineteen) is None


def test_residues_are_paired_by_number_where_numbers_agree_and_else_by_sequence():
    inner, renumbered = part(PROTEIN, 5, 20), replace(part(PROTEIN, 5, 20), numbers=np.arange(1, 16))
    expected = np.stack([np.arange(15), np.arange(5, 20)], axis=1)
    for rule in residue_alignment.ALIGNMENT_MODES:
        np.testing.assert_array_equal(residue_alignment.align_residues(inner, PROTEIN, rule), expected)
    np.testing.assert_array_equal(residue_alignment.align_residues(renumbered, PROTEIN, "auto"), expected)
    by_number = residue_alignment.align_residues(renumbered, PROTEIN, "number")
    np.testing.assert_array_equal(by_number, np.stack([np.arange(15)] * 2, axis=1))
    assert rmsd.compute(evidence((PROTEIN, [renumbered])), "ca:auto:mean") < 1e-3
    with pytest.raises(UsageError, match="several residues of one number"):
        residue_alignment.align_residues(replace(PROTEIN, numbers=PROTEIN.numbers // 2), PROTEIN, "number")
    with pytest.raises(UsageError, match="no residue of `helix` corresponds to one"):
        residue_alignment.align_residues(helix("AAAA", first=100), PROTEIN, "number")


def test_an_alignment_steps_over_what_one_side_lacks():
    whole = helix(SEQUENCE)
    cut = [*range(10), *range(14, 28)]
    rows = np.isin(residues.atom_layout(whole.codes)[0], cut)
    lacking = Structure(
        "cut", whole.codes[cut], whole.positions[rows], whole.is_known[rows], np.arange(1, len(cut) + 1, dtype=np.int64)
    )
    pairs = residue_alignment.align_residues(lacking, whole, "sequence")
    assert pairs[:, 1].tolist() == cut
    assert tm_score.compute(evidence((whole, [lacking])), "reference:auto:mean") == pytest.approx(24 / 28, abs=0.01)
    assert tm_score.compute(evidence((whole, [lacking])), "sample:auto:mean") == pytest.approx(1, abs=1e-4)


def test_what_is_not_known_is_not_evaluated():
    without = replace(PROTEIN, is_known=PROTEIN.is_known & (residues.atom_layout(PROTEIN.codes)[0] > 2))
    off = replace(without, positions=np.where(without.is_known[:, None], without.positions, 99).astype(np.float32))
    for metric in (lddt, rmsd):
        for atoms in ("ca", "heavy"):
            assert metric.compute(evidence((PROTEIN, [off])), f"{atoms}:auto:mean") == pytest.approx(
                BEST[metric.TITLE.lower()], abs=1e-3
            )
    nothing = replace(PROTEIN, is_known=np.zeros_like(PROTEIN.is_known))
    for metric in (lddt, tm_score, rmsd, bond_lengths, clashes):
        with pytest.raises(UsageError, match="too few atoms of `helix`"):
            metric.compute(evidence((PROTEIN, [nothing])), metric.PROTOCOLS[0])


def test_residues_of_other_letters_are_compared_by_their_backbone():
    other = helix(SEQUENCE.replace("K", "G"))
    full = replace(PROTEIN, is_known=np.ones_like(PROTEIN.is_known))
    full_other = replace(other, is_known=np.ones_like(other.is_known))
    mine, theirs, owners = residue_alignment.heavy_atoms(
        full_other, full, residue_alignment.align_residues(full_other, full, "number")
    )
    same = np.array([letter != "K" for letter in SEQUENCE])
    assert np.bincount(owners).tolist() == np.where(same, residues.SIZES[full.codes], 4).tolist()
    np.testing.assert_allclose(mine, theirs, atol=0.05)


def test_a_stretched_backbone_has_wrong_bonds_by_what_it_is_stretched():
    long = replace(PROTEIN, positions=PROTEIN.positions * np.float32(1.1))
    mine = evidence((PROTEIN, [long]))
    assert bond_lengths.compute(mine, "backbone") == 0 == bond_lengths.compute(mine, "ca-spacing")
    assert bond_deviation.compute(mine, "backbone") == pytest.approx(0.1 * np.mean([1.458, 1.525, 1.329]), rel=0.02)
    assert bond_lengths.remark(mine, "backbone") == "of the references: 100 %"


def test_a_gap_in_the_numbers_is_not_a_bond():
    broken = replace(PROTEIN, numbers=PROTEIN.numbers + 5 * (np.arange(28) >= 10))
    assert len(sterics.spacing_errors(PROTEIN)) == 27 and len(sterics.spacing_errors(broken)) == 26


def two(letters: str, atoms: Sequence[str], distance: float, *, gap: int = 50) -> Structure:
    """Two residues of which one atom each is known."""
    codes = residues.to_codes(letters)
    owner, index = residues.atom_layout(codes)
    positions, is_known = np.zeros((len(owner), 3), dtype=np.float32), np.zeros(len(owner), dtype=bool)
    for number, atom in enumerate(atoms):
        row = np.flatnonzero((owner == number) & (index == residues.ATOMS[codes[number]].index(atom)))
        positions[row, 0], is_known[row] = number * distance, True
    return Structure("two", codes, positions, is_known, np.array([1, 1 + gap]))


@pytest.mark.parametrize(
    ("letters", "atoms", "limit"),
    [("GG", "CA CA", 3.0), ("GG", "C N", 2.85), ("GG", "O N", 2.27), ("GG", "O O", 2.24), ("MG", "SD CA", 3.1)],
    ids=lambda value: str(value),
)
def test_atoms_clash_below_their_radii_less_what_may_overlap(letters: str, atoms: str, limit: float):
    near, far = (two(letters, atoms.split(), limit + change) for change in (-0.01, 0.01))
    assert clashes.per_thousand(near) == 500 and clashes.per_thousand(far) == 0


def test_bonded_atoms_do_not_clash():
    assert (
        clashes.per_thousand(two("GG", ["C", "N"], 1.33, gap=1))
        == 0
        < clashes.per_thousand(two("GG", ["C", "N"], 1.33))
    )
    assert (
        clashes.per_thousand(two("GG", ["O", "C"], 2.7, gap=1)) == 0 < clashes.per_thousand(two("GG", ["O", "C"], 2.7))
    )
    assert clashes.per_thousand(two("CC", ["SG", "SG"], 2.05)) == 0 < clashes.per_thousand(two("CC", ["SG", "SG"], 2.9))


def test_a_knot_of_atoms_clashes_where_a_helix_does_not():
    assert clashes.per_thousand(PROTEIN) == 0
    knot = replace(PROTEIN, positions=PROTEIN.positions * np.float32(0.5))
    assert clashes.per_thousand(knot) > 100


def test_files_have_the_scores_of_biotite_and_us_align(real_data: Callable[[str], Path], tmp_path: Path):
    structure_files = pytest.importorskip("inrflow_core.proteins.structure_reader")
    folder = real_data("metrics/protein_pred_vs_exp")
    with tarfile.open(folder / "ddg_triples.tar.gz") as tar:
        read = {
            member.name: structure_files.parse(tar.extractfile(member).read(), Path(member.name).name)  # pyright: ignore[reportOptionalMemberAccess]
            for member in tar
            if member.name.endswith(".pdb")
        }
    heavy, worst = 0, np.zeros(4)
    with (folder / "tm_lddt_reference.csv").open() as file:
        for row in csv.DictReader(file):
            if row["usalign_TMscore_mode"] == "0":
                continue
            rule = {"1": "number", "5": "sequence"}[row["usalign_TMscore_mode"]]
            mine = evidence((read[row["ref"]], [read[row["model"]]]), rule=rule)
            reported = [row["lddt_ca_biotite"], row["tm_norm_ref"], row["rmsd"], row["lddt_heavy_biotite"]]
            result = [
                lddt.compute(mine, f"ca:{rule}:mean"),
                tm_score.compute(mine, f"reference:{rule}:mean"),
                rmsd.compute(mine, f"ca:{rule}:mean"),
                lddt.compute(mine, f"heavy:{rule}:mean"),
            ]
            heavy += bool(reported[3])
            worst = np.maximum(worst, [abs(f - float(t)) if t else 0 for f, t in zip(result, reported, strict=True)])
    # What the file's four decimals (of RMSD: two) leave open.
    assert heavy == 54 and (worst < [1e-4, 1e-4, 0.006, 1e-4]).all(), (heavy, worst)


def test_experimental_structures_have_right_bonds_and_few_clashes(real_data: Callable[[str], Path]):
    structure_files = pytest.importorskip("inrflow_core.proteins.structure_reader")
    with tarfile.open(real_data("metrics/protein_pred_vs_exp/ddg_triples.tar.gz")) as tar:
        name = "data/DDG/DATASET/2LZM-3.0-51.55/2LZM-3.0-51.55.exp.pdb"
        lysozyme = structure_files.parse(tar.extractfile(name).read(), "2lzm.pdb")  # pyright: ignore[reportOptionalMemberAccess]
    assert bond_lengths.share(lysozyme, "backbone") > 99 and clashes.per_thousand(lysozyme) < 10
    assert (
        superposition.lddt(*residue_alignment.c_alphas(lysozyme, lysozyme, np.stack([np.arange(164)] * 2, axis=1))) == 1
    )
