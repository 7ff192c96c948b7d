"""Pair the residues of a sample with those of its reference: by their numbers, or by sequence alignment."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64, Int64

from inrflow_core.errors import UsageError
from inrflow_core.proteins import residues
from inrflow_core.proteins.structure import Structure

ALIGNMENT_MODES = ("auto", "number", "sequence")
MIN_IDENTITY = 0.9
"""`auto` pairs by number if at least this share of the shorter chain's residues then has equal letters."""
GAP = (-11, -1)
"""Scores of opening and extending a gap, in BLOSUM62's units; gaps at the ends are free."""
BACKBONE = 4
"""The first atoms of every residue: N, CA, C, O."""

Pairs = Int64[np.ndarray, "P 2"]
"""Indices of paired residues, in the sample and in the reference."""


def align_residues(sample: Structure, reference: Structure, rule: str) -> Pairs:
    """Pairs of corresponding residues, in order.

    Raises:
        UsageError: `rule` is `number`, and a number is not unique; or no residue is paired.
    """
    if rule == "number" or (rule == "auto" and _numbers_agree(sample, reference)):
        for structure in (sample, reference):
            if not _are_distinct(structure):
                raise UsageError(
                    f"`{structure.name}` has several residues of one number", hint="pair residues by `sequence`"
                )
        aligned = _by_number(sample, reference)
    else:
        aligned = _by_sequence(sample, reference)
    if not len(aligned):
        raise UsageError(
            f"no residue of `{sample.name}` corresponds to one of the reference `{reference.name}`",
            hint="pair residues by `sequence`" if rule == "number" else "compare structures of one protein",
        )
    return aligned


def uses_numbering(sample: Structure, reference: Structure, rule: str) -> bool:
    """Whether `align_residues` pairs by number."""
    return rule == "number" or (rule == "auto" and _numbers_agree(sample, reference))


def c_alphas(
    sample: Structure, reference: Structure, pairs: Pairs
) -> tuple[Float64[np.ndarray, "K 3"], Float64[np.ndarray, "K 3"]]:
    """Positions of the C-alphas of paired residues that are known in both structures."""
    sample_index, reference_index = pairs.T
    is_known = sample.ca_is_known[sample_index] & reference.ca_is_known[reference_index]
    known = pairs[is_known]
    return sample.ca[known[:, 0]].astype(np.float64), reference.ca[known[:, 1]].astype(np.float64)


def heavy_atoms(
    sample: Structure, reference: Structure, pairs: Pairs
) -> tuple[Float64[np.ndarray, "K 3"], Float64[np.ndarray, "K 3"], Int64[np.ndarray, " K"]]:
    """Positions of the atoms of paired residues that are known in both structures, and the reference's residue of each.

    Where the letters differ, only the atoms of the backbone are paired.
    """
    sample_index, reference_index = pairs.T
    is_same = sample.codes[sample_index] == reference.codes[reference_index]
    counts = np.where(is_same, residues.SIZES[reference.codes[reference_index]], BACKBONE)
    owner = np.repeat(np.arange(len(pairs)), counts)
    within = np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)
    sample_atoms, reference_atoms = (
        _starts(structure)[indices][owner] + within
        for structure, indices in ((sample, sample_index), (reference, reference_index))
    )
    is_known = sample.is_known[sample_atoms] & reference.is_known[reference_atoms]
    positions = sample.positions[sample_atoms[is_known]], reference.positions[reference_atoms[is_known]]
    return positions[0].astype(np.float64), positions[1].astype(np.float64), reference_index[owner[is_known]]


def _starts(structure: Structure) -> Int64[np.ndarray, " L"]:
    sizes = residues.SIZES[structure.codes]
    return np.cumsum(sizes) - sizes


def _numbers_agree(sample: Structure, reference: Structure) -> bool:
    if not (_are_distinct(sample) and _are_distinct(reference)):
        return False
    sample_index, reference_index = _by_number(sample, reference).T
    same = int(np.count_nonzero(sample.codes[sample_index] == reference.codes[reference_index]))
    return same >= MIN_IDENTITY * min(len(sample.codes), len(reference.codes))


def _are_distinct(structure: Structure) -> bool:
    return len(np.unique(structure.numbers)) == len(structure.numbers)


def _by_number(sample: Structure, reference: Structure) -> Pairs:
    _, sample_index, reference_index = np.intersect1d(
        sample.numbers, reference.numbers, assume_unique=True, return_indices=True
    )
    order = np.argsort(reference_index)
    return np.stack([sample_index[order], reference_index[order]], axis=1).astype(np.int64)


def _by_sequence(sample: Structure, reference: Structure) -> Pairs:
    if np.array_equal(sample.codes, reference.codes):
        return np.repeat(np.arange(len(sample.codes), dtype=np.int64)[:, None], 2, axis=1)
    from biotite.sequence import ProteinSequence
    from biotite.sequence.align import SubstitutionMatrix, align_optimal

    matrix = SubstitutionMatrix.std_protein_matrix()
    sequences = [ProteinSequence(each.sequence) for each in (sample, reference)]
    alignment = align_optimal(*sequences, matrix, gap_penalty=GAP, terminal_penalty=False, max_number=1)[0]
    return alignment.trace[(alignment.trace >= 0).all(1)].astype(np.int64)
