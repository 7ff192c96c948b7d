"""Errors of bond lengths, and clashes of atoms, in one structure.

Bond lengths and their deviations: Engh and Huber 1991, "Accurate bond and angle parameters for X-ray protein structure
refinement", with their own values for GLY and PRO. Radii: Bondi 1964, "van der Waals volumes and radii". As in
MolProbity (Chen et al. 2010), a bond is an outlier if its error exceeds four deviations, and an overlap of 0.4 Angstrom
is a clash. MolProbity adds hydrogens first, and this module does not: its clashscore is another quantity. Hydrogen
bonds are not detected; N and O may overlap more instead.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64, Int64

from inrflow_core.proteins import residues
from inrflow_core.proteins.structure import Structure

N, CA, C = 0, 1, 2
"""Indices of the backbone's atoms in every residue."""
LENGTHS = {
    "N-CA": {"": (1.458, 0.019), "G": (1.451, 0.016), "P": (1.466, 0.015)},
    "CA-C": {"": (1.525, 0.021), "G": (1.516, 0.018)},
    "C-N": {"": (1.329, 0.014), "P": (1.341, 0.016)},
}
"""Ideal length and deviation in Angstrom, for all residues and for letters that differ; C-N by the second residue."""
OUTLIER = 4.0
"""Largest error of a bond in deviations: 0.06 to 0.08 Angstrom."""
SPACING, SPACING_TOLERANCE = 3.80, 0.10
"""Distance between C-alphas of neighbors, in Angstrom; rare cis bonds (0.3 %, before PRO 5 %) have 2.95 and count as
wrong."""
RADII = {"C": 1.70, "N": 1.55, "O": 1.52, "S": 1.80}
OVERLAP = 0.4
"""Angstrom by which radii must overlap to be a clash."""
DISULFIDE = 2.5
"""Sulfurs of two CYS nearer than this, in Angstrom, are bonded."""
BRIDGED = 0.4
"""Additional overlap, in Angstrom, allowed between N and O, which hydrogen bonds and salt bridges bring together."""
SEPARATION = 4
"""Atoms at most this number of bonds apart do not clash: in a helix O is 2.9 Angstrom from C of the next residue."""


def errors(structure: Structure, protocol: str) -> tuple[Float64[np.ndarray, " K"], Float64[np.ndarray, " K"]]:
    """Errors of bond lengths (`backbone`) or of C-alpha spacings (`ca-spacing`), and their tolerances; in Angstrom."""
    if protocol == "backbone":
        return bond_errors(structure)
    errors = spacing_errors(structure)
    return errors, np.full(len(errors), SPACING_TOLERANCE)


def bond_errors(structure: Structure) -> tuple[Float64[np.ndarray, " K"], Float64[np.ndarray, " K"]]:
    """Length minus ideal length of every known backbone bond, and the tolerance of each; in Angstrom.

    Residues are bonded to the next where their numbers follow each other.
    """
    start = _starts(structure)
    linked = _linked(structure)
    bonds = [
        ("N-CA", start + N, start + CA, structure.codes),
        ("CA-C", start + CA, start + C, structure.codes),
        ("C-N", start[linked] + C, start[linked + 1] + N, structure.codes[linked + 1]),
    ]
    errors, limits = [], []
    for name, first, second, codes in bonds:
        is_known = structure.is_known[first] & structure.is_known[second]
        ideal = np.array([LENGTHS[name].get(letter, LENGTHS[name][""]) for letter in residues.LETTERS])
        expected = ideal[codes[is_known]]
        errors.append(_distances(structure, first[is_known], second[is_known]) - expected[:, 0])
        limits.append(OUTLIER * expected[:, 1])
    return np.concatenate(errors), np.concatenate(limits)


def spacing_errors(structure: Structure) -> Float64[np.ndarray, " K"]:
    """Distance of the C-alphas of neighbors minus 3.80 Angstrom."""
    alphas, linked = _starts(structure) + CA, _linked(structure)
    first, second = alphas[linked], alphas[linked + 1]
    is_known = structure.is_known[first] & structure.is_known[second]
    return _distances(structure, first[is_known], second[is_known]) - SPACING


def clashes(structure: Structure) -> Int64[np.ndarray, "K 2"]:
    """Pairs of heavy atoms more than four bonds apart and nearer than the sum of their radii minus 0.4 Angstrom.

    For pairs of N and O, minus 0.8 Angstrom.
    """
    from scipy.spatial import KDTree

    known = np.flatnonzero(structure.is_known)
    if len(known) < 2:
        return np.empty((0, 2), dtype=np.int64)
    elements = np.array([element for code in structure.codes.tolist() for element in residues.ELEMENTS[code]])
    radii = np.array([RADII[element] for element in elements])
    reach = 2 * max(RADII.values()) - OVERLAP
    near = known[KDTree(structure.positions[known]).query_pairs(reach, output_type="ndarray")].reshape(-1, 2)
    lengths = _distances(structure, near[:, 0], near[:, 1])
    near, lengths = near[order := np.lexsort((near[:, 1], near[:, 0]))], lengths[order]
    sulfurs = near[(elements[near] == "S").all(1) & (lengths < DISULFIDE)]
    overlaps = np.where(np.isin(elements[near], ("N", "O")).all(1), OVERLAP + BRIDGED, OVERLAP)
    is_near = lengths < radii[near].sum(1) - overlaps
    return near[is_near & ~_are_bonded(structure, near, sulfurs)]


def _are_bonded(structure: Structure, pairs: np.ndarray, sulfurs: np.ndarray) -> np.ndarray:
    """Whether the atoms of each pair are at most `SEPARATION` bonds apart."""
    from scipy.sparse import coo_array

    start, linked = _starts(structure), _linked(structure)
    within = [np.array(residues.BONDS[code]) + at for code, at in zip(structure.codes.tolist(), start, strict=True)]
    bonds = np.concatenate([*within, np.stack([start[linked] + C, start[linked + 1] + N], axis=1), sulfurs])
    count = len(structure.positions)
    ones = np.ones(len(bonds), dtype=np.int32)
    once = coo_array((ones, (bonds[:, 0], bonds[:, 1])), shape=(count, count)).tocsr()
    once = once + once.T
    reached = total = once
    for _ in range(SEPARATION - 1):
        reached = reached @ once
        total = total + reached
    return np.asarray(total[pairs[:, 0], pairs[:, 1]]).ravel() > 0


def _starts(structure: Structure) -> Int64[np.ndarray, " L"]:
    sizes = residues.SIZES[structure.codes]
    return np.cumsum(sizes) - sizes


def _linked(structure: Structure) -> Int64[np.ndarray, " K"]:
    """Indices of residues bonded to the next, whose number is one more, or the same with an insertion code."""
    return np.flatnonzero(np.isin(np.diff(structure.numbers), (0, 1)))


def _distances(structure: Structure, first: np.ndarray, second: np.ndarray) -> Float64[np.ndarray, " K"]:
    difference = structure.positions[first].astype(np.float64) - structure.positions[second]
    return np.sqrt(np.square(difference).sum(1))
