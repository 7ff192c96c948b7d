"""The 20 amino acids inside a chain: heavy atoms, bonds, and the features of INRFlow's table 8.

The graph: the heavy atoms of one residue, a peptide bond on either side of it (they count for the degree and the
valence of N and C), no OXT, no hydrogens. The implicit valence is the number of hydrogens that the graph leaves out;
RDKit agrees except for NE2 of HIS and NE1 of TRP, whose hydrogen it makes explicit in the aromatic ring. The ends of a
chain get the same features as its middle. Charges are those of the component dictionary: +1 on NH2 of ARG, ND1 of HIS
and NZ of LYS, ASP and GLU neutral.

The paper has 35 elements but does not list them: these are the 35 of GEOM-DRUGS, the data of the work whose features
it adopts (Wang et al. 2023, "Swallowing the Bitter Pill", arXiv:2311.17932).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Int64, UInt8

from inrflow_core.errors import UsageError

BACKBONE = "N-CA CA-C C=O"
SIDE_CHAINS = """
A ALA CA-CB
R ARG CA-CB CB-CG CG-CD CD-NE NE-CZ CZ-NH1 CZ=NH2+
N ASN CA-CB CB-CG CG=OD1 CG-ND2
D ASP CA-CB CB-CG CG=OD1 CG-OD2
C CYS CA-CB CB-SG
Q GLN CA-CB CB-CG CG-CD CD=OE1 CD-NE2
E GLU CA-CB CB-CG CG-CD CD=OE1 CD-OE2
G GLY
H HIS CA-CB CB-CG CG-ND1+ CG=CD2 ND1=CE1 CD2-NE2 CE1-NE2
I ILE CA-CB CB-CG1 CB-CG2 CG1-CD1
L LEU CA-CB CB-CG CG-CD1 CG-CD2
K LYS CA-CB CB-CG CG-CD CD-CE CE-NZ+
M MET CA-CB CB-CG CG-SD SD-CE
F PHE CA-CB CB-CG CG=CD1 CG-CD2 CD1-CE1 CD2=CE2 CE1=CZ CE2-CZ
P PRO CA-CB CB-CG CG-CD CD-N
S SER CA-CB CB-OG
T THR CA-CB CB-OG1 CB-CG2
W TRP CA-CB CB-CG CG=CD1 CG-CD2 CD1-NE1 CD2=CE2 CD2-CE3 NE1-CE2 CE2-CZ2 CE3=CZ3 CZ2=CH2 CZ3-CH2
Y TYR CA-CB CB-CG CG=CD1 CG-CD2 CD1-CE1 CD2=CE2 CE1=CZ CE2-CZ CZ-OH
V VAL CA-CB CB-CG1 CB-CG2
"""
"""Single and double bonds of each side chain; a plus charges the atom before it."""

NUM_EIGENVECTORS = 8
MOST_ATOMS = 14
GEOM_ELEMENTS = (
    "H", "Li", "B", "C", "N", "O", "F", "Na", "Mg", "Al", "Si", "P", "S", "Cl", "K", "Ca", "V", "Cr", "Mn", "Cu", "Zn",
    "Ga", "Ge", "As", "Se", "Br", "Ag", "In", "Sb", "I", "Gd", "Pt", "Au", "Hg", "Bi",
)  # fmt: skip
HYBRIDIZATIONS = ("sp", "sp2", "sp3", "sp3d", "sp3d2", "other")
HYDROGEN_VALENCE = {"C": 4, "N": 3, "O": 2, "S": 2}
"""Bonds of a neutral atom; a positive nitrogen has one more."""


class Residue(NamedTuple):
    """One amino acid inside a chain."""

    letter: str
    name: str
    atoms: tuple[str, ...]
    bonds: tuple[tuple[int, int], ...]
    """Indices of the two atoms."""
    orders: tuple[int, ...]
    charges: tuple[int, ...]

    @property
    def elements(self) -> tuple[str, ...]:
        """The element of each atom: in these 20 amino acids the first letter of its name."""
        return tuple(atom[0] for atom in self.atoms)


class Atom(NamedTuple):
    """The features of an atom in table 8, without the embedding of its residue."""

    element: str
    degree: int
    charge: int
    valence: int
    hybridization: str
    is_aromatic: bool
    rings: int

    def numbers(self) -> list[float]:
        """One-hot for each range of table 8, in its order; a single number for aromatic."""
        ranges = [
            (self.element, GEOM_ELEMENTS),
            (self.degree, range(7)),
            (self.charge, (-1, 0, 1)),
            (self.valence, range(7)),
            (self.hybridization, HYBRIDIZATIONS),
            (self.is_aromatic, (True,)),
            (self.rings, range(4)),
        ]
        assert all(value in allowed or value is False for value, allowed in ranges)
        return [float(value == choice) for value, allowed in ranges for choice in allowed]


def to_codes(sequence: str) -> UInt8[np.ndarray, " L"]:
    """The index in `LETTERS` of each letter of a sequence; small letters count as large ones.

    Raises:
        UsageError: a letter that is none of the 20, or no letter at all.
    """
    unknown = [(index, letter) for index, letter in enumerate(sequence.upper(), 1) if letter not in _CODES]
    if unknown:
        named = ", ".join(f"`{letter}` at {index}" for index, letter in unknown[:5])
        more = f" and {len(unknown) - 5:,} more" if len(unknown) > 5 else ""
        raise UsageError(
            f"the sequence has letters that are no amino acid: {named}{more}",
            hint=f"allowed are the 20 letters {LETTERS}; replace or cut out the others",
        )
    if not sequence:
        raise UsageError("the sequence is empty", hint=f"give letters of {LETTERS}")
    return np.array([_CODES[letter] for letter in sequence.upper()], dtype=np.uint8)


def to_letters(codes: UInt8[np.ndarray, " L"]) -> str:
    """The letters of codes."""
    return "".join(LETTERS[code] for code in codes.tolist())


def atom_layout(codes: UInt8[np.ndarray, " L"]) -> tuple[Int64[np.ndarray, " N"], Int64[np.ndarray, " N"]]:
    """Every heavy atom of a chain in order: the index of its residue, and its index in that residue's `ATOMS`."""
    sizes = SIZES[codes]
    residue = np.repeat(np.arange(len(codes), dtype=np.int64), sizes)
    starts = np.cumsum(sizes) - sizes
    return residue, np.arange(len(residue), dtype=np.int64) - starts[residue]


def atom_features(residue: Residue) -> list[Atom]:
    """Table 8 for each atom of a residue inside a chain."""
    neighbors, orders = _neighbors(residue)
    rings = _rings(neighbors)
    is_double = [2 in orders[index] for index in range(len(residue.atoms))]
    is_flat = [
        is_double[index]
        # A lone pair beside a double bond is in its plane; N has the C=O of the residue before beside it.
        or (element in "NO" and (index == 0 or any(is_double[other] for other in neighbors[index])))
        for index, element in enumerate(residue.elements)
    ]
    features = []
    for index, element in enumerate(residue.elements):
        mine = [ring for ring in rings if index in ring]
        is_linked = residue.atoms[index] in ("N", "C")
        bonds = sum(orders[index]) + is_linked
        charge = residue.charges[index]
        features.append(
            Atom(
                element=element,
                degree=len(neighbors[index]) + is_linked,
                charge=charge,
                valence=HYDROGEN_VALENCE[element] + charge - bonds,
                hybridization="sp2" if is_flat[index] else "sp3",
                is_aromatic=any(all(is_flat[other] for other in ring) for ring in mine),
                rings=len(mine),
            )
        )
    return features


def eigenvectors(residue: Residue) -> Float32[np.ndarray, "N 8"]:
    """The first eigenvectors of the Laplacian (degrees less adjacency) of the bonds inside a residue, as columns.

    By growing eigenvalue, of unit length; padded with 0 where the residue has fewer. The constant one is left out: it
    is the same for every atom and depends only on their number. The first number of a vector that
    is not 0 is positive. GLN, GLU and PHE have one eigenvalue twice: there the first vector is the one nearest to the
    first atom and the second is orthogonal to it, so that the result does not depend on the linear algebra library.
    """
    count = len(residue.atoms)
    adjacency = np.zeros((count, count))
    for first, second in residue.bonds:
        adjacency[first, second] = adjacency[second, first] = 1
    values, vectors = np.linalg.eigh(np.diag(adjacency.sum(0)) - adjacency)
    columns: list[np.ndarray] = []
    for value in sorted(set(values[1:].round(6))):
        space = vectors[:, np.abs(values - value) < 1e-5]
        own: list[np.ndarray] = []
        for atom in space @ space.T:
            left = atom - sum((vector * (vector @ atom) for vector in own), np.zeros(count))
            if len(own) < space.shape[1] and np.linalg.norm(left) > 1e-4:
                own.append(left / np.linalg.norm(left))
        columns += own
    eigenvectors = np.stack(columns[:NUM_EIGENVECTORS], axis=1)
    return np.pad(eigenvectors, ((0, 0), (0, NUM_EIGENVECTORS - eigenvectors.shape[1]))).astype(np.float32)


def _parsed() -> Iterator[Residue]:
    for line in SIDE_CHAINS.strip().splitlines():
        letter, name, *bonds = line.split()
        matches = [re.fullmatch(r"(\w+)([-=])(\w+)(\+?)", bond) for bond in [*BACKBONE.split(), *bonds]]
        parts = [match.groups() for match in matches if match]
        atoms = list(dict.fromkeys(atom for first, _, second, _ in parts for atom in (first, second)))
        charged = {second for _, _, second, plus in parts if plus}
        yield Residue(
            letter,
            name,
            tuple(atoms),
            tuple((atoms.index(first), atoms.index(second)) for first, _, second, _ in parts),
            tuple(1 if order == "-" else 2 for _, order, _, _ in parts),
            tuple(int(atom in charged) for atom in atoms),
        )


def _neighbors(residue: Residue) -> tuple[list[list[int]], list[list[int]]]:
    """For each atom, the atoms that it is bonded to, and the orders of those bonds."""
    neighbors: list[list[int]] = [[] for _ in residue.atoms]
    orders: list[list[int]] = [[] for _ in residue.atoms]
    for (first, second), order in zip(residue.bonds, residue.orders, strict=True):
        for one, other in ((first, second), (second, first)):
            neighbors[one].append(other)
            orders[one].append(order)
    return neighbors, orders


def _rings(neighbors: list[list[int]]) -> set[frozenset[int]]:
    """The smallest ring through each bond that is in a ring; in molecules this small these are all relevant rings."""
    rings = set()
    for start, others in enumerate(neighbors):
        for end in others:
            paths = [[start]]
            seen = {start}
            for path in paths:  # grows while it is walked: breadth first
                if path[-1] == end:
                    rings.add(frozenset(path))
                    break
                for other in neighbors[path[-1]]:
                    if other not in seen and {path[-1], other} != {start, end}:
                        seen.add(other)
                        paths.append([*path, other])
    return rings


RESIDUES = tuple(_parsed())
LETTERS = "".join(residue.letter for residue in RESIDUES)
NAMES = tuple(residue.name for residue in RESIDUES)
ATOMS = tuple(residue.atoms for residue in RESIDUES)
"""Heavy atoms of each residue: N, CA, C, O and then the side chain outwards, as the component dictionary has them."""
ELEMENTS = tuple(residue.elements for residue in RESIDUES)
BONDS = tuple(residue.bonds for residue in RESIDUES)
"""Indices of bonded atoms within each residue."""
SIZES = np.array([len(atoms) for atoms in ATOMS], dtype=np.int64)
_CODES = {letter: code for code, letter in enumerate(LETTERS)}


def _table(rows: list[np.ndarray]) -> Float32[np.ndarray, "20 14 F"]:
    return np.stack([np.pad(row, ((0, MOST_ATOMS - len(row)), (0, 0))) for row in rows]).astype(np.float32)


FEATURES = _table([np.array([atom.numbers() for atom in atom_features(residue)]) for residue in RESIDUES])
"""Table 8 of each atom of each residue, 63 numbers; 0 where a residue has fewer than 14 atoms."""
EIGENVECTORS = _table([eigenvectors(residue) for residue in RESIDUES])
"""Eigenvectors of each residue's bonds, 8 numbers of each atom; 0 where a residue has fewer atoms or vectors."""
