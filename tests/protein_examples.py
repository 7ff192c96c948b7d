"""Made-up structures of proteins for tests."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from inrflow_core.proteins import residues
from inrflow_core.proteins.structure import Structure

PHI, PSI, OMEGA = -57.0, -47.0, 180.0


def helix(sequence: str, name: str = "helix", first: int = 1) -> Structure:
    """A right-handed helix of ideal bonds and angles; of the side chains nothing is known."""
    atoms = [np.array([0.0, 0.0, 0.0]), np.array([1.458, 0.0, 0.0])]
    atoms.append(atoms[1] + 1.525 * np.array([-np.cos(np.radians(111.2)), np.sin(np.radians(111.2)), 0]))
    rows = [atoms]
    for index in range(1, len(sequence)):
        peptide = 1.341 if sequence[index] == "P" else 1.329
        n = _placed(rows[-1], peptide, 116.2, PSI)
        ca = _placed([rows[-1][1], rows[-1][2], n], _length(sequence[index], "N-CA"), 121.7, OMEGA)
        c = _placed([rows[-1][2], n, ca], _length(sequence[index], "CA-C"), 111.2, PHI)
        rows.append([n, ca, c])
    codes = residues.to_codes(sequence)
    residue, slot = residues.atom_layout(codes)
    positions = np.zeros((len(residue), 3), dtype=np.float32)
    is_known = slot < 4
    for row, (owner, at) in enumerate(zip(residue, slot, strict=True)):
        if at < 3:
            positions[row] = rows[owner][at]
        elif at == 3:
            positions[row] = _placed(rows[owner], 1.231, 120.1, PSI + 180)
    numbers = np.arange(first, first + len(sequence), dtype=np.int64)
    return Structure(name, codes, positions, is_known, numbers)


def shaken(structure: Structure, size: float, seed: int, name: str | None = None) -> Structure:
    """The structure with noise of `size` Angstrom on every known atom."""
    noise = size * np.random.default_rng(seed).normal(size=structure.positions.shape)
    positions = np.where(structure.is_known[:, None], structure.positions + noise, 0).astype(np.float32)
    return replace(structure, positions=positions, name=name or structure.name)


def part(structure: Structure, start: int, stop: int) -> Structure:
    """Residues `start` to `stop` alone; they keep their numbers."""
    residue, _ = residues.atom_layout(structure.codes)
    rows = (residue >= start) & (residue < stop)
    span = slice(start, stop)
    return Structure(
        structure.name,
        structure.codes[span],
        structure.positions[rows],
        structure.is_known[rows],
        structure.numbers[span],
    )


def write(path: Path, structure: Structure) -> None:
    """A PDB file, written without any of the package's own writers."""
    owner, slot = residues.atom_layout(structure.codes)
    lines = []
    for row in np.flatnonzero(structure.is_known):
        code = structure.codes[owner[row]]
        x, y, z = structure.positions[row]
        name, kind = residues.ATOMS[code][slot[row]], residues.NAMES[code]
        number = structure.numbers[owner[row]]
        lines.append(
            f"ATOM  {row + 1:5d}  {name:<3} {kind} A{number:4d}    {x:8.3f}{y:8.3f}{z:8.3f}  1.00  0.00          {name[0]:>2}\n"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(lines))


def _length(letter: str, bond: str) -> float:
    own = {("G", "N-CA"): 1.451, ("P", "N-CA"): 1.466, ("G", "CA-C"): 1.516}
    return own.get((letter, bond), 1.458 if bond == "N-CA" else 1.525)


def _placed(three: list[np.ndarray], length: float, angle: float, torsion: float) -> np.ndarray:
    """The atom at a distance, an angle and a torsion from three others."""
    a, b, c = three
    along = (c - b) / np.linalg.norm(c - b)
    normal = np.cross(b - a, along)
    normal /= np.linalg.norm(normal)
    bent, turned = np.radians(angle), np.radians(torsion)
    local = np.array([-np.cos(bent), np.sin(bent) * np.cos(turned), np.sin(bent) * np.sin(turned)])
    return c + length * np.stack([along, np.cross(normal, along), normal], axis=1) @ local
