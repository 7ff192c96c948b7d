"""Made-up proteins as PDB files, packed as AlphaFold DB packs them."""

from __future__ import annotations

import gzip
import io
import tarfile
from pathlib import Path

import numpy as np

BACKBONE = ("N", "CA", "C", "O")
SIDES = {
    "A": ("ALA", "CB"), "R": ("ARG", "CB CG CD NE CZ NH1 NH2"), "N": ("ASN", "CB CG OD1 ND2"),
    "D": ("ASP", "CB CG OD1 OD2"), "C": ("CYS", "CB SG"), "Q": ("GLN", "CB CG CD OE1 NE2"),
    "E": ("GLU", "CB CG CD OE1 OE2"), "G": ("GLY", ""), "H": ("HIS", "CB CG ND1 CD2 CE1 NE2"),
    "I": ("ILE", "CB CG1 CG2 CD1"), "L": ("LEU", "CB CG CD1 CD2"), "K": ("LYS", "CB CG CD CE NZ"),
    "M": ("MET", "CB CG SD CE"), "F": ("PHE", "CB CG CD1 CD2 CE1 CE2 CZ"), "P": ("PRO", "CB CG CD"),
    "S": ("SER", "CB OG"), "T": ("THR", "CB OG1 CG2"), "W": ("TRP", "CB CG CD1 CD2 NE1 CE2 CE3 CZ2 CZ3 CH2"),
    "Y": ("TYR", "CB CG CD1 CD2 CE1 CE2 CZ OH"), "V": ("VAL", "CB CG1 CG2"),
}  # fmt: skip
"""The name of each amino acid and the heavy atoms of its side chain."""


def sequence(number: int, shortest: int = 20) -> str:
    """A sequence of its own for every number."""
    return "".join(np.random.default_rng(number).choice(sorted(SIDES), shortest + number % 12))


def pdb(letters: str, *, seed: int = 0, shake: float = 0.2, factor: float = 80.0) -> str:
    """A chain whose peptide bonds are about 1.33 Angstrom long and whose other atoms lie somewhere near."""
    rng, lines = np.random.default_rng(seed), []
    for number, letter in enumerate(letters):
        name, side = SIDES[letter]
        for row, atom in enumerate([*BACKBONE, *side.split()]):
            base = np.array(
                [3.8 * number + (0.0, 1.2, 2.5)[row] if row < 3 else 3.8 * number + 1.5, max(row - 2, 0), 0]
            )
            x, y, z = base + rng.uniform(-shake, shake, 3) / (10 if row < 3 else 1)
            lines.append(
                f"ATOM  {len(lines) + 1:5d}  {atom:<3} {name} A{number + 1:4d}    "
                f"{x:8.3f}{y:8.3f}{z:8.3f}{1.0:6.2f}{factor:6.2f}          {atom[0]:>2}\n"
            )
    return "".join([*lines, "TER\n", "END\n"])


def archive(place: Path) -> None:
    """A tar of packed structures."""
    place.mkdir(parents=True, exist_ok=True)
    with tarfile.open(place / "swissprot_pdb_v4.tar", "w") as tar:
        for number in range(20):
            text = pdb(sequence(number % 19), seed=number, factor=60 + number)
            content = gzip.compress(text.encode(), mtime=0)
            member = tarfile.TarInfo(f"AF-P{number:05d}-F1-model_v4.pdb.gz")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
