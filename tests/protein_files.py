"""Small proteins made up for tests, and their files as others write them."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np

from inrflow_core.proteins import residues, structure_writer
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


CIF_COLUMNS = structure_writer.ATOM_SITE.split()


def cif_rows(chain_structure: Structure, **values: object) -> list[dict[str, str]]:
    """The columns of each atom in mmCIF's table of atoms; `values` replace them in every row."""
    residue, slot = residues.atom_layout(chain_structure.codes)
    rows = []
    for row, (number, place) in enumerate(zip(residue.tolist(), slot.tolist(), strict=True)):
        code = chain_structure.codes[number]
        atom, name = residues.ATOMS[code][place], residues.NAMES[code]
        x, y, z = (f"{value:.3f}" for value in chain_structure.positions[row].tolist())
        columns = ["ATOM", row + 1, atom[0], atom, ".", name, "A", 1, number + 1, "?", x, y, z, "1.00", "50.00"]
        columns += [number + 1, name, "A", atom, 1]
        rows.append({key: str(value) for key, value in (dict(zip(CIF_COLUMNS, columns, strict=True)) | values).items()})
    return rows


def cif(rows: Sequence[dict[str, str]], *, without: Sequence[str] = ()) -> bytes:
    """An mmCIF file of such rows, without some columns."""
    columns = [name for name in CIF_COLUMNS if name not in without]
    head = "".join(f"_atom_site.{name}\n" for name in columns)
    return f"data_made\n#\nloop_\n{head}{''.join(' '.join(row[name] for name in columns) + chr(10) for row in rows)}#\n".encode()
