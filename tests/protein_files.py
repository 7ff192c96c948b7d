"""Small proteins made up for tests, and their files as others write them."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np

from inrflow_core.proteins import residues
from inrflow_core.proteins.structure import Structure

ALL = residues.LETTERS


def structure(sequence: str = ALL, *, seed: int = 0, name: str = "made") -> Structure:
    """A chain whose C and next N are 1.33 Angstrom apart, and whose other atoms lie somewhere near, to 0.001."""
    codes = residues.to_codes(sequence)
    residue, slot = residues.atom_layout(codes)
    noise = np.random.default_rng(seed).uniform(-0.2, 0.2, (len(residue), 3))
    base = np.zeros((len(residue), 3))
    base[:, 0] = 3.8 * residue + np.select([slot == 0, slot == 1, slot == 2], [0.0, 1.2, 2.5], 1.5)
    base[:, 1] = np.where(slot > 2, slot, 0)
    noise[slot < 3] /= 10
    positions = (base + noise).round(3).astype(np.float32)
    numbers = np.arange(1, len(codes) + 1)
    return Structure(name, codes, positions, np.ones(len(residue), bool), numbers)


def pdb_line(
    serial: int, atom: str, residue: str, number: int, position: Sequence[float], *, letter: str = " ",
    occupancy: float = 1.0, factor: float = 20.0, record: str = "ATOM", chain: str = "A",
) -> str:  # fmt: skip
    """One atom in the columns of the format."""
    x, y, z = position
    return (
        f"{record:<6}{serial:5d} {atom if len(atom) == 4 else ' ' + atom:<4}{letter}{residue:>3} {chain}{number:4d}    "
        f"{x:8.3f}{y:8.3f}{z:8.3f}{occupancy:6.2f}{factor:6.2f}          {atom[0]:>2}"
    )


def pdb_lines(chain_structure: Structure, *, factor: float = 20.0, chain: str = "A", first: int = 1) -> list[str]:
    """A line for each atom."""
    residue, slot = residues.atom_layout(chain_structure.codes)
    return [
        pdb_line(
            row + 1, residues.ATOMS[chain_structure.codes[residue[row]]][slot[row]], residues.NAMES[chain_structure.codes[residue[row]]],
            int(residue[row]) + first, chain_structure.positions[row].tolist(), factor=factor, chain=chain,
        )
        for row in range(len(residue))
    ]  # fmt: skip


def pdb(lines: Sequence[str]) -> bytes:
    """A whole file of such lines."""
    return "".join(f"{line}\n" for line in [*lines, "TER", "END"]).encode()


def bcif(text: str, *, model: int | None = 1) -> bytes:
    """One model of an mmCIF file, or with None all, as BinaryCIF, by Biotite."""
    from biotite.structure.io import pdbx

    atoms = pdbx.get_structure(pdbx.CIFFile.read(io.StringIO(text)), model=model, include_bonds=False)
    file, content = pdbx.BinaryCIFFile(), io.BytesIO()
    pdbx.set_structure(file, atoms, data_block="sample")
    file.write(content)
    return content.getvalue()
